"""Which file of a folder is the checkpoint: plain ones, variants, shards, as diffusers and transformers write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import native_files
from jaxmotion.weights.file_names import choose, index_name, is_index, parse, stem_of
from jaxmotion.weights.formats import detect, read
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import TWO_STAGES, t5, text, unet

torch = pytest.importorskip("torch")

SMALL = "100KB"


@pytest.fixture(scope="module")
def network():
    return unet(**TWO_STAGES)


def assert_holds(folder: Path, network) -> None:
    opened = open_tensors(folder)
    state = network.state_dict()
    assert set(opened) >= set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(np.asarray(opened[name]), tensor.detach().numpy(), err_msg=name)
    read(opened, detect(opened))


@pytest.mark.parametrize("variant", [None, "fp16", "bf16", "non_ema", "ema"])
@pytest.mark.parametrize("shards", [None, SMALL])
@pytest.mark.parametrize("safe", [True, False])
def test_every_form_of_diffusers_is_read(network, variant, shards, safe, tmp_path):
    options = {"max_shard_size": shards} if shards else {}
    network.save_pretrained(tmp_path, variant=variant, safe_serialization=safe, **options)
    written = sorted(file.name for file in tmp_path.iterdir())
    assert any("-of-" in name for name in written) == bool(shards)
    assert any(str(variant) in name for name in written) == bool(variant)
    assert_holds(tmp_path, network)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [None, "20KB"])
@pytest.mark.parametrize("make", [t5, text])
def test_every_form_of_transformers_is_read(make, variant, shards, tmp_path):
    made = make()
    made.save_pretrained(tmp_path, variant=variant, **({"max_shard_size": shards} if shards else {}))
    assert any("-of-" in file.name for file in tmp_path.iterdir()) == bool(shards)
    opened = open_tensors(tmp_path)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([np.asarray(array).ravel() for array in opened.values()])),
        np.sort(np.concatenate([each.detach().numpy().ravel() for each in made.parameters()])),
    )


@pytest.mark.parametrize("safe", [True, False])
def test_indices_with_the_variant_in_the_place_of_earlier_versions_are_read(network, safe, tmp_path):
    network.save_pretrained(tmp_path, variant="fp16", max_shard_size=SMALL, safe_serialization=safe)
    [index] = tmp_path.glob("*.index.fp16.json")
    index.rename(tmp_path / index.name.replace(".index.fp16", ".fp16.index"))
    assert_holds(tmp_path, network)
    [index] = tmp_path.glob("*.fp16.index.json")
    text = index.read_text()
    for shard in list(tmp_path.glob("*-of-*")):  # and the shards with theirs behind the number
        name = shard.name.replace(".fp16-", "-").replace(shard.suffix, f".fp16{shard.suffix}")
        shard.rename(tmp_path / name)
        text = text.replace(shard.name, name)
    index.write_text(text)
    assert_holds(tmp_path, network)


def test_the_bin_shards_of_earlier_transformers_are_read(tmp_path):
    """Transformers 5 writes none; these are laid out as its version 4 did."""
    state = t5().state_dict()
    names = sorted(state)
    places = {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        old = number == 1  # the two layouts of torch.save may be mixed
        torch.save({n: state[n] for n in part}, tmp_path / file, _use_new_zipfile_serialization=not old)
        places.update(dict.fromkeys(part, file))
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    opened = open_tensors(tmp_path)
    assert opened.stem == "model"
    assert all(np.array_equal(opened[name], state[name].numpy()) for name in names)


def test_the_plain_file_comes_before_its_variants(network, tmp_path):
    network.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not looked at")
    assert_holds(tmp_path, network)


CHOICES = {
    "diffusion_pytorch_model.fp16.safetensors": ["diffusion_pytorch_model.fp16.safetensors"],
    "model.fp16.safetensors": ["model.fp16.safetensors", "pytorch_model.fp16.bin"],
    "model.fp32.safetensors": ["model.fp16.safetensors", "model.fp32.safetensors"],
    "diffusion_pytorch_model.fp16.bin": ["diffusion_pytorch_model.bf16.bin", "diffusion_pytorch_model.fp16.bin"],
    "pytorch_model.bin": ["pytorch_model.bin", "model.fp16.safetensors"],
    "model.safetensors": ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "mine.safetensors"],
    "model.safetensors.index.fp16.json": [
        "model.safetensors.index.fp16.json",
        "model.fp16-00001-of-00002.safetensors",
        "model.fp16-00002-of-00002.safetensors",
        "pytorch_model.fp16.bin",
    ],
    "v1-5-pruned.safetensors": ["v1-5-pruned.ckpt", "v1-5-pruned.safetensors"],
    "mm_sd_v15.ckpt": ["mm_sd_v15.ckpt", "config.json", "README.md"],
}


@pytest.mark.parametrize("wanted", CHOICES)
def test_the_choice_among_several_files(wanted):
    assert choose(CHOICES[wanted], "here") == wanted
    assert choose(CHOICES[wanted][::-1], "here") == wanted


@pytest.mark.parametrize(
    "names",
    [
        ["model.ema.safetensors", "model.non_ema.safetensors"],
        ["model.fp16.safetensors", "model.non_ema.safetensors"],
        ["v1-5-pruned-emaonly.safetensors", "v1-5-pruned.safetensors"],
    ],
)
def test_files_with_different_numbers_are_not_chosen_among(names):
    with pytest.raises(CheckpointFileError, match=rf"here holds several checkpoints \({', '.join(names)}\); name one"):
        choose(names, "here")


def test_shards_without_their_index_are_named(network, tmp_path):
    network.save_pretrained(tmp_path, max_shard_size=SMALL)
    next(tmp_path.glob("*.index.json")).unlink()
    with pytest.raises(CheckpointFileError, match=r"holds shards .*00001-of-.* without their index; fetch"):
        open_tensors(tmp_path)


def test_weights_of_other_frameworks_are_named(tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(b"")
    with pytest.raises(CheckpointFileError, match=r"holds no checkpoint.*flax_model\.msgpack is of another framework"):
        open_tensors(tmp_path)


def test_the_parts_of_names():
    for name, stem in {
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors": "diffusion_pytorch_model.fp16",
        "pytorch_model.bin.index.json": "model",
        "model.safetensors.index.fp16.json": "model.fp16",
        "model.safetensors.fp16.index.json": "model.fp16",
        "v1-5.pruned.safetensors": "v1-5.pruned",
        "parameters.safetensors.index.json": "parameters",
    }.items():
        assert stem_of(name) == stem
    assert index_name("model.fp16") == "model.safetensors.index.fp16.json"
    assert index_name("parameters") == "parameters.safetensors.index.json"
    assert not is_index("model_index.json")
    assert not is_index("config.json")
    assert parse("v1-5-pruned.safetensors") is None


def test_a_sharded_variant_goes_out_as_diffusers_reads_it(network, tmp_path):
    """Imported and restored, it is found again by `variant=`."""
    network.save_pretrained(tmp_path / "in", variant="fp16", max_shard_size=SMALL)
    opened = open_tensors(tmp_path / "in")
    native_files.import_checkpoint(opened, detect(opened), tmp_path / "ours", shard_bytes=100_000)
    native_files.restore(tmp_path / "ours", tmp_path / "out", shard_bytes=100_000)
    back = type(network).from_pretrained(tmp_path / "out", variant="fp16")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in network.state_dict().items())
    shutil.rmtree(tmp_path / "out")
