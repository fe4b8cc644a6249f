"""Checkpoints are opened without running them, and damaged ones are refused by name."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors

torch = pytest.importorskip("torch")

WEIGHT = torch.arange(24.0).reshape(4, 6)
STATE = collections.OrderedDict(
    plain=WEIGHT,
    transposed=WEIGHT.t(),
    part=WEIGHT[1:3, 2:],
    half=torch.randn(3).half(),
    brain=torch.randn(2, 2).bfloat16(),
    double=torch.randn(2).double(),
    integers=torch.arange(3),
    number=torch.tensor(2.5),
    parameter=torch.nn.Parameter(torch.randn(2)),
    empty=torch.zeros(0, 3),
    flags=torch.tensor([True, False]),
)


def values(tensor) -> np.ndarray:
    tensor = tensor.detach()
    return tensor.float().numpy().astype(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def assert_same(checkpoint) -> None:
    assert list(sorted(checkpoint)) == sorted(STATE)
    for name, tensor in STATE.items():
        array = np.asarray(checkpoint[name])
        assert (checkpoint[name].shape, checkpoint[name].dtype) == (array.shape, array.dtype)
        assert array.dtype == values(tensor).dtype
        np.testing.assert_array_equal(array, values(tensor))


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "epoch": 3, "lr": 1e-4, "names": ["a", ("b", None)]}])
@pytest.mark.parametrize("name", ["weights.ckpt", "weights.pt", "weights.bin"])
def test_a_zip_of_torch_is_read(content, name, tmp_path):
    torch.save(content, tmp_path / name)
    assert_same(open_tensors(tmp_path / name))
    assert_same(open_tensors(tmp_path))  # the only checkpoint of its folder


@pytest.mark.parametrize("shard_bytes", [10**9, 60])
def test_what_is_written_is_read_by_us_and_by_safetensors(shard_bytes, tmp_path):
    torch.save(STATE, tmp_path / "weights.ckpt")
    files = write_tensors(tmp_path / "out", "model", open_tensors(tmp_path / "weights.ckpt"), shard_bytes=shard_bytes)
    assert (len(files) > 1) == (shard_bytes < 100)
    assert_same(open_tensors(tmp_path / "out"))
    from safetensors.torch import load_file

    theirs = {
        name: tensor for file in files if file.suffix == ".safetensors" for name, tensor in load_file(file).items()
    }
    assert all(torch.equal(theirs[name], STATE[name].detach()) for name in STATE)
    assert not list((tmp_path / "out").glob(".*"))


class Evil:
    """What a hostile checkpoint holds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class EvilState:
    """The same by way of its state."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('pwned').touch()",)


@pytest.mark.parametrize("evil", [lambda folder: Evil(folder / "pwned"), lambda folder: EvilState()])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_runs_nothing(protocol, evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps({"state_dict": {"w": 1.0}, "callbacks": evil(tmp_path)}, protocol)
    with zipfile.ZipFile(tmp_path / "evil.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(CheckpointFileError, match=r"evil\.ckpt asks for .* to be run .* nothing was run"):
        open_tensors(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_hostile_code_beside_real_weights_is_refused(tmp_path):
    torch.save({"state_dict": STATE, "callbacks": Evil(tmp_path / "pwned")}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointFileError, match=r"evil\.ckpt asks for posix\.system to be run"):
        open_tensors(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_what_lightning_leaves_beside_the_weights_is_passed_over(tmp_path):
    """Training code stores scalars of NumPy and names of its callbacks; they are noted, not made."""
    torch.save({"state_dict": STATE, "best": np.float64(0.5), "kinds": collections.OrderedDict}, tmp_path / "a.ckpt")
    assert_same(open_tensors(tmp_path / "a.ckpt"))


DAMAGED = {
    "cut.safetensors": (lambda b: b[:-9], "is no whole safetensors file"),
    "head.safetensors": (lambda b: b[:5], "is no whole safetensors file"),
    "noise.safetensors": (lambda b: bytes(range(256)), "is no whole safetensors file"),
    "empty.safetensors": (lambda b: b"", "is no whole safetensors file"),
    "page.safetensors": (lambda b: b"<!DOCTYPE html><html>", "is a web page"),
    "lfs.safetensors": (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_safetensors_file_is_named(name, tmp_path):
    change, message = DAMAGED[name]
    [whole] = write_tensors(tmp_path / "whole", "model", {"w": np.arange(100.0)})
    (tmp_path / name).write_bytes(change(whole.read_bytes()))
    with pytest.raises(CheckpointFileError, match=rf"{name}.* {message}") as caught:
        open_tensors(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_cut_zip_is_named(keep, tmp_path):
    torch.save(STATE, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointFileError, match=r"cut\.ckpt is damaged or not whole"):
        open_tensors(tmp_path / "cut.ckpt")


def test_numbers_that_are_not_there_are_noticed(tmp_path):
    torch.save({"w": WEIGHT}, tmp_path / "whole.ckpt")
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as old, zipfile.ZipFile(tmp_path / "less.ckpt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(CheckpointFileError, match=r"less\.ckpt is damaged: w lies in 92 bytes, 96 are needed"):
        open_tensors(tmp_path / "less.ckpt")


def test_a_compressed_archive_is_refused(tmp_path):
    """A few bytes could stand for more than the memory holds."""
    torch.save({"w": WEIGHT}, tmp_path / "whole.ckpt")
    bomb = zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as old, bomb as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointFileError, match=r"bomb\.ckpt is compressed"):
        open_tensors(tmp_path / "bomb.ckpt")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointFileError, match="There is no file or folder"):
        open_tensors(tmp_path / "nothing.safetensors")
    (tmp_path / "unet").mkdir()
    with pytest.raises(CheckpointFileError, match=r"holds no checkpoint.* It has the folders unet: name one of them"):
        open_tensors(tmp_path)
    for name in ("a", "b"):
        write_tensors(tmp_path / "unet", name, {"w": np.zeros(2)})
    with pytest.raises(CheckpointFileError, match=r"holds several checkpoints \(a\.safetensors, b\.safetensors\)"):
        open_tensors(tmp_path / "unet")


def test_shards_must_be_those_of_their_index(tmp_path):
    files = write_tensors(tmp_path, "model", {name: np.zeros(10) for name in "abc"}, shard_bytes=80)
    moved = files[0].rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointFileError, match="names shards that are not beside it: model-00001-of-00003"):
        open_tensors(tmp_path)
    files[1].replace(files[0])
    moved.rename(files[1])
    with pytest.raises(CheckpointFileError, match="and its shards disagree: 2 tensors are not where the index says"):
        open_tensors(tmp_path)


def test_memory_is_bounded_by_the_largest_tensor(tmp_path):
    """A checkpoint of 400 MB in tensors of 20 MB passes through in less than 150 MB."""
    big = {f"w{i}": np.zeros((5, 10**6), np.float32) for i in range(20)}
    write_tensors(tmp_path / "in", "model", big, shard_bytes=10**8)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from jaxmotion.weights.tensor_files import open_tensors; from jaxmotion.weights.write import write_tensors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_tensors(Path(sys.argv[2]), 'model', open_tensors(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    asked = [sys.executable, "-c", script, str(tmp_path / "in"), str(tmp_path / "out")]
    grown = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    unit = 1024 if sys.platform == "linux" else 1
    assert grown * unit < 150e6
    assert sum(p.stat().st_size for p in Path(tmp_path / "out").iterdir()) > 400e6
