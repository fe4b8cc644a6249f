"""Files of PyTorch's versions and of training code: tensors are read, what lies beside them is noted and never made."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import struct
import subprocess
import tarfile
import types
import zipfile

import numpy as np
import pytest

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.tensor_files import open_tensors
from tests.weights.test_tensor_files import STATE, WEIGHT, Evil, EvilState, assert_same

torch = pytest.importorskip("torch")


class Mode(enum.Enum):
    """An enumeration of training code."""

    FAST = "fast"


class Settings(argparse.Namespace):
    """Settings of training code."""


def as_before_1_6(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, as_before_1_6])
@pytest.mark.parametrize(
    "place", ["state_dict", "model", "module", "ema", "model_state_dict", "model.state_dict", "anything"]
)
def test_the_state_dict_is_found(save, place, tmp_path):
    content: object = STATE
    for name in reversed(place.split(".")):
        content = {"epoch": 3, name: content, "optimizer": {"state": {0: {"exp_avg": WEIGHT}}, "lr": 0.1}}
    save(content, tmp_path / "w.pt")
    assert_same(open_tensors(tmp_path / "w.pt"))


def test_of_several_state_dicts_the_first_known_one_is_read_and_the_others_are_told(tmp_path):
    torch.save({"ema": {"w": WEIGHT + 1}, "model": {"w": WEIGHT}, "opt": {}}, tmp_path / "dit.pt")
    opened = open_tensors(tmp_path / "dit.pt")
    np.testing.assert_array_equal(opened["w"], WEIGHT)
    assert opened.beside == ("ema: 1 entries, tensors among them", "opt: 0 entries")
    torch.save({"unet": {"w": WEIGHT}, "first": {"w": WEIGHT}, "second": {"w": WEIGHT}}, tmp_path / "known.pt")
    assert open_tensors(tmp_path / "known.pt").beside[0].startswith("first")
    torch.save({"first": {"w": WEIGHT}, "second": {"w": WEIGHT}}, tmp_path / "two.pt")
    with pytest.raises(CheckpointFileError, match=r"two\.pt holds several state dicts \(first, second\)"):
        open_tensors(tmp_path / "two.pt")


BESIDE = {
    "size": torch.Size([1, 2]),
    "device": torch.device("cpu"),
    "type": torch.bfloat16,
    "types": [torch.float16, torch.strided],
    "set": {1, 2},
    "frozen": frozenset({"a"}),
    "counter": collections.Counter("hello"),
    "default": collections.defaultdict(list, a=[1]),
    "queue": collections.deque([1], maxlen=3),
    "scalar": np.float32(1.5),
    "integer": np.int64(3),
    "flag": np.bool_(True),
    "array": np.arange(3),
    "dtype": np.dtype("float32"),
    "random": np.random.RandomState(0),
    "generator": np.random.default_rng(0),
    "arguments": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
    "settings": Settings(lr=0.1),
    "namespace": types.SimpleNamespace(a=1),
    "time": datetime.datetime(2024, 1, 2),
    "mode": Mode.FAST,
    "slice": slice(3),
    "range": range(3),
    "complex": 1j,
    "bytes": b"abc",
    "partial": functools.partial(max, 1),
    "torch_generator": torch.Generator(),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1),
    "layer": torch.nn.Linear(2, 2),
    "large": 10**5000,
}
"""What training code keeps beside the weights."""


@pytest.mark.parametrize("save", [torch.save, as_before_1_6])
@pytest.mark.parametrize("name", BESIDE)
def test_harmless_objects_are_noted(save, name, tmp_path):
    save({"state_dict": STATE, name: BESIDE[name]}, tmp_path / "w.pt")
    opened = open_tensors(tmp_path / "w.pt")
    assert_same(opened)
    [line] = opened.beside
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_harmless_objects_are_noted_whatever_the_protocol(protocol, tmp_path):
    torch.save({**BESIDE, "state_dict": STATE}, tmp_path / "w.pt", pickle_protocol=max(protocol, 2))
    opened = open_tensors(tmp_path / "w.pt")
    assert_same(opened)
    assert "settings: tests.weights.test_torch_files.Settings" in opened.beside
    plain = {key: BESIDE[key] for key in ("arguments", "settings", "mode", "set", "counter", "random")}
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(plain, protocol))
    with pytest.raises(CheckpointFileError, match=r"plain\.pt holds no tensors by name"):
        open_tensors(tmp_path / "plain.pt")


def test_no_object_beside_the_weights_is_made(tmp_path, monkeypatch):
    """Not even the classes of the project are looked up: one whose making would write a file stays a name."""
    torch.save({"state_dict": STATE, "settings": Settings(a=1), "mode": Mode.FAST}, tmp_path / "w.pt")
    monkeypatch.setattr(Settings, "__new__", lambda *_: pytest.fail("made"))
    monkeypatch.delattr("tests.weights.test_torch_files.Mode")
    assert_same(open_tensors(tmp_path / "w.pt"))


@pytest.mark.parametrize("evil", [lambda folder: Evil(folder / "pwned"), lambda folder: EvilState()])
def test_hostile_code_in_a_file_of_before_1_6_is_refused(evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_before_1_6({"state_dict": STATE, "callbacks": evil(tmp_path)}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointFileError, match=r"evil\.ckpt asks for .* to be run .* nothing was run"):
        open_tensors(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


GADGETS = {
    "getattr": (getattr, ("a", "upper")),
    "popen": (subprocess.Popen, ("true",)),
    "load": (torch.load, ("other.pt",)),
    "hub": (torch.hub.load, ("a/b", "c")),
    "numpy": (np.load, ("other.npy",)),
    "import": (__import__, ("os",)),
    "open": (open, ("pwned", "w")),
    "remove": (os.remove, ("precious",)),
    "apply": (map, (print, ("a",))),
}


class Gadget:
    """What calls a function when it is loaded."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return GADGETS[self.name]


@pytest.mark.parametrize("name", GADGETS)
def test_calls_that_no_checkpoint_needs_are_refused(name, tmp_path):
    torch.save({"state_dict": STATE, "hook": Gadget(name)}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointFileError, match=r"evil\.ckpt asks for .* to be run"):
        open_tensors(tmp_path / "evil.ckpt")


def test_instances_made_by_the_oldest_opcodes_are_refused_or_noted(tmp_path):
    tensors = "ctorch\nSize\n(tR."
    for program, ok in ((f"(ios\nsystem\n0{tensors}", False), (f"(i__main__\nConfig\n0{tensors}", True)):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
            archive.writestr("archive/data.pkl", program.encode())
        message = "holds a whole object" if ok else "asks for os.system to be run"
        with pytest.raises(CheckpointFileError, match=message):
            open_tensors(tmp_path / "w.pt")


def test_a_whole_model_is_told_from_its_state_dict(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointFileError, match=r"whole object \(torch\.nn\.modules\.linear\.Linear\).* state_dict"):
        open_tensors(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_and_other_archives_are_named(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(CheckpointFileError, match=r"script\.pt is a TorchScript program"):
        open_tensors(tmp_path / "script.pt")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    with pytest.raises(CheckpointFileError, match=r"arrays\.npz is a NumPy archive"):
        open_tensors(tmp_path / "arrays.npz")
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        archive.writestr("model.safetensors", b"")
    with pytest.raises(CheckpointFileError, match=r"unpack it \(it holds model\.safetensors\)"):
        open_tensors(tmp_path / "sent.zip")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(CheckpointFileError, match=r"plain\.pkl is a pickle, but not of torch\.save"):
        open_tensors(tmp_path / "plain.pkl")


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.zeros(2, device="meta"),
    "float8": lambda: torch.zeros(2).to(torch.float8_e4m3fn),
    "complex": lambda: torch.zeros(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("name", ODD)
def test_tensors_of_kinds_that_are_not_read_are_named(name, tmp_path):
    torch.save({"good": WEIGHT, "odd": ODD[name]()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointFileError, match=r"w\.pt: odd (is a|holds numbers of kind) "):
        open_tensors(tmp_path / "w.pt")
    torch.save({"state_dict": STATE, "beside": {"odd": ODD[name]()}}, tmp_path / "w.pt")
    assert_same(open_tensors(tmp_path / "w.pt"))


def test_parameters_with_attributes_are_read(tmp_path):
    parameter = torch.nn.Parameter(WEIGHT.clone())
    parameter.is_new = True  # pyright: ignore[reportAttributeAccessIssue]
    torch.save({"w": parameter}, tmp_path / "w.pt")
    np.testing.assert_array_equal(open_tensors(tmp_path / "w.pt")["w"], WEIGHT)


@pytest.mark.parametrize("keep", [0.03, 0.3, 0.6, 0.99])
def test_a_cut_file_of_before_1_6_is_named(keep, tmp_path):
    as_before_1_6(STATE, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointFileError, match=r"cut\.ckpt is damaged"):
        open_tensors(tmp_path / "cut.ckpt")


def test_a_damaged_tensor_is_named_in_one_sentence(tmp_path):
    torch.save({"good": WEIGHT + 1, "block.bad": WEIGHT}, tmp_path / "w.pt")
    damaged = bytearray((tmp_path / "w.pt").read_bytes())
    damaged[damaged.index(WEIGHT.numpy().tobytes()) + 7] ^= 1
    (tmp_path / "w.pt").write_bytes(damaged)
    opened = open_tensors(tmp_path / "w.pt")
    np.testing.assert_array_equal(opened["good"], WEIGHT + 1)
    with pytest.raises(
        CheckpointFileError, match=r"^\S+w\.pt is damaged at block\.bad: [^.]*data/1[^.]*fetch it again\.$"
    ):
        np.asarray(opened["block.bad"])


def test_a_member_whose_own_header_is_damaged_is_named(tmp_path):
    torch.save({"block.bad": WEIGHT}, tmp_path / "w.pt")
    damaged = bytearray((tmp_path / "w.pt").read_bytes())
    damaged[damaged.index(b"w/data/0")] ^= 1  # the name in front of the numbers, not the one in the directory
    (tmp_path / "w.pt").write_bytes(damaged)
    with pytest.raises(CheckpointFileError, match=r"w\.pt is damaged at block\.bad"):
        np.asarray(open_tensors(tmp_path / "w.pt")["block.bad"])


def test_the_first_format_of_all_is_read(tmp_path):
    """A tar archive as PyTorch 0.1 wrote it, made here by hand; PyTorch still reads it and gives the same."""
    path = tmp_path / "first.pth"
    storages = io.BytesIO()
    numbers = {"1": np.arange(6, dtype=np.float32), "2": np.arange(4, dtype=np.float64)}
    pickle.dump(2, storages, 2)
    for (key, values), kind in zip(numbers.items(), (torch.FloatStorage, torch.DoubleStorage), strict=True):
        pickle.dump((int(key), "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", values.size) + values.tobytes())
    pickle.dump([(3, 1, 2, 3)], storages, 2)  # a view of the first from its third number
    tensors = io.BytesIO()
    pickle.dump(3, tensors, 2)
    for key, place, kind, shape, strides, offset in (
        (11, 1, torch.FloatTensor, (2, 2), (1, 3), 1),
        (12, 2, torch.DoubleTensor, (4,), (1,), 0),
        (13, 3, torch.FloatTensor, (3,), (1,), 0),
    ):
        pickle.dump((key, place, kind), tensors, 2)
        tensors.write(struct.pack("<ii", len(shape), 0) + struct.pack(f"<{2 * len(shape)}q", *shape, *strides))
        tensors.write(struct.pack("<q", offset))
    program = io.BytesIO()
    pickler = pickle.Pickler(program, 2)
    pickler.persistent_id = lambda each: {"tensor a": "11", "tensor b": "12", "tensor c": "13"}.get(str(each))
    pickler.dump(collections.OrderedDict((name, f"tensor {name}") for name in "abc"))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (
            ("sys_info", io.BytesIO()),
            ("pickle", program),
            ("tensors", tensors),
            ("storages", storages),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))
    theirs = torch.load(path, weights_only=False)
    ours = open_tensors(path)
    assert list(ours) == list(theirs) == ["a", "b", "c"]
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name].numpy())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointFileError, match=r"first\.pth is"):
        open_tensors(path)


def test_a_length_that_is_damaged_is_noticed(tmp_path):
    """Files of before 1.6 say before each array how many numbers follow."""
    as_before_1_6({"w": WEIGHT}, tmp_path / "w.pt")
    damaged = bytearray((tmp_path / "w.pt").read_bytes())
    damaged[damaged.index(WEIGHT.numpy().tobytes()) - 8] -= 1
    (tmp_path / "w.pt").write_bytes(damaged)
    with pytest.raises(CheckpointFileError, match=r"w\.pt is damaged or not whole"):
        open_tensors(tmp_path / "w.pt")
