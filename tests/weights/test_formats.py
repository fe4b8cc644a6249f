"""Every public format: known by its names, read whole, and given back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import foreign, formats, native_files
from jaxmotion.weights.formats import BY_NAME, FORMATS, detect, find_format
from jaxmotion.weights.inspection import checkpoints_in, inspect
from jaxmotion.weights.lora_kinds import is_adapter
from jaxmotion.weights.lora_merge import merge_files
from jaxmotion.weights.rules import ConversionError
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import BLOCKS, FEATURES, PUBLIC, adapter, dinov2, randomised, text, unet, vae

torch = pytest.importorskip("torch")

import diffusers
import transformers
from diffusers.loaders import single_file_utils


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of every format, by the format's name."""
    made = {name: make(tmp_path_factory.mktemp(name)) for name, make in PUBLIC.items()}
    folder = tmp_path_factory.mktemp("more")
    in_memory(dinov2(), folder / "dinov2-in-memory")
    in_memory(dinov2(use_swiglu_ffn=True), folder / "dinov2-gated-in-memory")
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**SMALL, "vocab_size": 99}, vision_config={**SMALL, "image_size": 28, "patch_size": 14}
        )
    )
    randomised(clip).save_pretrained(folder / "clip")
    prefixed = {
        f"text_model.{name}": tensor for name, tensor in load_file(made["clip-text"] / "model.safetensors").items()
    }
    save_file(prefixed, folder / "clip-text.safetensors", {"format": "pt"})
    made["clip-text-bare"], made["clip-text"] = made["clip-text"], folder / "clip-text.safetensors"
    made["modelscope-unet"] = other_names("diffusers-unet3d", "modelscope-unet", made, folder)
    made["open-clip-text"] = other_names("clip-text", "open-clip-text", made, folder)
    for name in ("sd-single-file", "sd-single-file-bare", "ldm-vae"):
        tensors = latent_diffusion(name, made)
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
        made[name] = folder / f"{name}.safetensors"
    made.update({name: folder / name for name in ("dinov2-in-memory", "dinov2-gated-in-memory", "clip")})
    return made


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def in_memory(module, folder: Path) -> None:
    folder.mkdir()
    save_file({name: value.numpy() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def other_names(kind: str, name: str, made: dict[str, Path], folder: Path) -> Path:
    """The file of a network in the names that another code gives it, which its parity test has compared."""
    params = formats.read(open_tensors(made[kind]), BY_NAME[kind])
    tensors = formats.write(params, BY_NAME[name].parts)
    save_file(
        {n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / f"{name}.safetensors", {"format": "pt"}
    )
    return folder / f"{name}.safetensors"


def latent_diffusion(name: str, made: dict[str, Path]) -> dict[str, np.ndarray]:
    """The networks of diffusers in the names of latent diffusion, as shared fine-tunes have them: in half precision."""
    whole: dict[str, np.ndarray] = {}
    for source in ("diffusers-unet", "diffusers-vae", "clip-text"):
        checkpoint = open_tensors(made[source])
        params = formats.read(checkpoint, BY_NAME[source])
        tables = {part: rules for part, rules in BY_NAME[name].parts.items() if any(p.startswith(part) for p in params)}
        whole.update(
            {n: np.ascontiguousarray(np.asarray(t, np.float16)) for n, t in formats.write(params, tables).items()}
        )
    if name.startswith("sd"):
        whole["alphas_cumprod"] = np.linspace(1, 0, 1000, dtype=np.float32)
        whole["model_ema.num_updates"] = np.zeros((), np.int32)
        whole["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
    return whole


def test_there_is_a_checkpoint_of_every_format(public):
    assert public.keys() == BY_NAME.keys()


def test_detection_does_not_depend_on_the_order_of_the_tables(public, monkeypatch):
    tables = reversed(formats._TABLES)
    monkeypatch.setattr(formats, "FORMATS", tuple(each for table in tables for each in getattr(table, "FORMATS", ())))
    assert {name: detect(open_tensors(path)).name for name, path in public.items()} == {name: name for name in public}


def test_none_is_taken_for_another_network_or_an_adapter(public):
    for name, path in public.items():
        assert foreign.describe(open_tensors(path)) == "", name
        assert not is_adapter(open_tensors(path)), name


@pytest.mark.parametrize("name", BY_NAME)
def test_import_and_export_give_the_same_file(public, name, tmp_path):
    checkpoint = open_tensors(public[name])
    assert detect(checkpoint).name == name
    native_files.import_checkpoint(checkpoint, BY_NAME[name], tmp_path / "ours", shard_bytes=100_000)
    native_files.restore(tmp_path / "ours", tmp_path / "back", shard_bytes=100_000)
    back = open_tensors(tmp_path / "back")
    assert set(back) == set(checkpoint)
    for each in checkpoint:
        before, after = np.asarray(checkpoint[each]), np.asarray(back[each])
        assert before.dtype == after.dtype
        assert before.tobytes() == after.tobytes(), each
    if (public[name] / "config.json").is_file():
        assert (tmp_path / "back" / "config.json").read_text() == (public[name] / "config.json").read_text()


HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))


@pytest.mark.parametrize("name", ["sd-single-file", "cogvideox", "t5"])
def test_a_model_of_mixed_types_is_read_exactly_and_comes_back_as_it_was_header_and_all(public, name, tmp_path):
    """As user interfaces save merges of two models: types that differ within one stack of layers, or within a pair."""
    tensors = {
        each: np.asarray(array).astype(HALVES[number % 3])
        for number, (each, array) in enumerate(sorted(open_tensors(public[name]).items()))
        if np.asarray(array).dtype.kind == "f"
    }
    header = {"format": "pt", "modelspec.title": "A merge", "modelspec.architecture": "stable-diffusion-v1"}
    save_file(tensors, tmp_path / "merge.safetensors", header)
    checkpoint = open_tensors(tmp_path / "merge.safetensors")
    whole = {each: array.astype(np.float32) for each, array in tensors.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    exact = formats.read(open_tensors(tmp_path / "whole.safetensors"), BY_NAME[name])
    for path, array in formats.read(checkpoint, BY_NAME[name]).items():
        assert np.asarray(array).dtype == array.dtype
        assert np.array_equal(np.asarray(array, np.float32), np.asarray(exact[path])), path

    native_files.import_checkpoint(checkpoint, BY_NAME[name], tmp_path / "ours")
    native_files.restore(tmp_path / "ours", tmp_path / "back")
    back = open_tensors(tmp_path / "back")
    assert back.metadata == header
    assert {each: array.dtype for each, array in back.items()} == {each: a.dtype for each, a in tensors.items()}
    assert all(np.asarray(back[each]).tobytes() == array.tobytes() for each, array in tensors.items())


def test_our_names_of_latent_diffusion_are_those_that_diffusers_reads(public):
    """Its own converters make of our single file what the networks of diffusers hold."""
    whole = {name: torch.tensor(np.asarray(array)) for name, array in open_tensors(public["sd-single-file"]).items()}
    config = json.loads((public["diffusers-unet"] / "config.json").read_text())
    same(single_file_utils.convert_ldm_unet_checkpoint(whole, config), public["diffusers-unet"])
    config = json.loads((public["diffusers-vae"] / "config.json").read_text())
    same(single_file_utils.convert_ldm_vae_checkpoint(whole, config), public["diffusers-vae"])
    converted = single_file_utils.convert_ldm_clip_checkpoint(whole)
    same({name: each for name, each in converted.items() if "position_ids" not in name}, public["clip-text"])


def same(converted: dict, folder: Path) -> None:
    wanted = open_tensors(folder)
    assert set(converted) == set(wanted)
    for name, array in wanted.items():
        assert np.array_equal(converted[name].numpy(), np.asarray(array, np.float16)), name


@pytest.mark.parametrize("name", ["animatediff", "animatediff-module"])
def test_our_names_of_animatediff_are_those_that_diffusers_reads(public, name):
    checkpoint = open_tensors(public[name])
    plain = {n.removeprefix("module."): torch.tensor(np.asarray(array)) for n, array in checkpoint.items()}
    converted = single_file_utils.convert_animatediff_checkpoint_to_diffusers(plain)
    params = formats.read(checkpoint, BY_NAME[name])
    ours = formats.write(params, BY_NAME["diffusers-motion"].parts)
    assert set(converted) == set(ours)
    assert all(np.array_equal(converted[n].numpy(), np.asarray(ours[n])) for n in ours)


def test_a_fine_tune_without_its_autoencoder_is_whole(public, tmp_path):
    tensors = {n: np.asarray(a) for n, a in open_tensors(public["sd-single-file"]).items() if "first_stage" not in n}
    save_file(tensors, tmp_path / "pruned.safetensors")
    checkpoint = open_tensors(tmp_path / "pruned.safetensors")
    assert {path.partition("/")[0] for path in formats.read(checkpoint, detect(checkpoint))} == {
        "denoiser",
        "text_encoder",
    }


def test_a_pipeline_folder_is_looked_at_part_by_part(tmp_path):
    unet().save_pretrained(tmp_path / "unet")
    vae().save_pretrained(tmp_path / "vae")
    text().save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "scheduler").mkdir()
    found = [inspect(each) for each in checkpoints_in(tmp_path)]
    assert [each.format.name for each in found] == ["clip-text-bare", "diffusers-unet", "diffusers-vae"]
    assert all(not each.problem for each in found)
    saved = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert found[1].parts == {"denoiser": (len(saved.state_dict()), saved.num_parameters())}


def test_what_is_missing_is_named(public, tmp_path):
    """A whole layer that is gone is noticed, for the sizes tell that it belongs there."""
    gone = "up_blocks.2.resnets.1."
    tensors = {n: np.asarray(a) for n, a in open_tensors(public["diffusers-unet"]).items() if not n.startswith(gone)}
    tensors["down_blocks.0.resnets.0.conv1.bias"] = np.zeros(9, np.float32)
    tensors["conv_out.bias"] = tensors["conv_out.bias"].astype(np.int32)
    tensors["surprise"] = np.zeros(1)
    save_file(tensors, tmp_path / "unet.safetensors")
    checkpoint = open_tensors(tmp_path / "unet.safetensors")
    with pytest.raises(ConversionError, match=r"unet\.safetensors") as caught:
        formats.read(checkpoint, detect(checkpoint))
    assert all(name.startswith(gone) for name in caught.value.missing)
    assert len(caught.value.missing) == 12
    assert caught.value.unexpected == ("surprise",)
    assert caught.value.wrong_shape == ("down_blocks.0.resnets.0.conv1.bias: [9] came, [8] is needed",)
    assert caught.value.wrong_dtype == ("conv_out.bias: int32 came, a floating-point type is needed",)
    assert "12 missing, 1 unexpected, 1 of the wrong shape, 1 of the wrong type" in inspect(checkpoint.path).problem


def test_a_file_of_another_kind_is_refused(tmp_path, public):
    save_file({"layers.0.weight": np.zeros((2, 2))}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointFileError, match=r"other\.safetensors is of no known format(.|\n)*diffusers-unet"):
        detect(open_tensors(tmp_path / "other.safetensors"))
    with pytest.raises(CheckpointFileError, match=r"is not a U-Net(.|\n)*it is an autoencoder"):
        find_format("diffusers-unet", open_tensors(public["diffusers-vae"]))
    with pytest.raises(ValueError, match=r"There is no format 'torch'; known are auto, .*diffusers-unet"):
        find_format("torch", open_tensors(public["diffusers-vae"]))


def test_nothing_is_written_over(public, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="is there already"):
        native_files.import_checkpoint(open_tensors(public["diffusers-vae"]), BY_NAME["diffusers-vae"], tmp_path)


def test_formats_have_names_of_their_own():
    assert len(BY_NAME) == len(FORMATS)
    assert len(FEATURES) == len(BLOCKS["up_block_types"])
    assert adapter(conv_in_channels=9).conv_in.weight.shape[1] == 9


def test_a_merge_says_which_of_two_copies_of_a_network_it_has_changed(public, tmp_path):
    """`v1-5-pruned` holds the running means of the U-Net beside it."""
    tensors = {name: np.asarray(array) for name, array in open_tensors(public["sd-single-file"]).items()}
    changed = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    trained = {name: array for name, array in tensors.items() if name.startswith("model.diffusion_model.")}
    means = {f"model_ema.{n.removeprefix('model.').replace('.', '')}": array.copy() for n, array in trained.items()}
    save_file({**tensors, **means}, tmp_path / "v1-5-pruned.safetensors")
    width, layer = len(tensors[changed]), "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    ones = {"lora_down.weight": np.ones((1, width)), "lora_up.weight": np.ones((width, 1))}
    save_file({f"{layer}.{role}": array.astype(np.float32) for role, array in ones.items()}, tmp_path / "lora")
    merged = merge_files(tmp_path / "v1-5-pruned.safetensors", open_tensors(tmp_path / "lora"), tmp_path / "out")
    assert f"1 tensors of the denoiser, such as {changed}, were changed" in merged.notes[0]
    assert f"the running means ({len(means)} tensors such as model_ema.diffusion_model" in merged.notes[1]
    back = open_tensors(tmp_path / "out")
    assert {n for n, array in back.items() if np.any(np.asarray(array) != {**tensors, **means}[n])} == {changed}
