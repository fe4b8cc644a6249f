"""LoRA as PEFT, diffusers and training scripts leave them on disk: merged as PEFT or diffusers merge them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from jaxmotion.convert import body
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.nn.low_rank import fresh
from jaxmotion.weights import formats
from jaxmotion.weights.lora import Factors, add, from_file
from jaxmotion.weights.lora_files import holds_lora, open_lora
from jaxmotion.weights.lora_merge import merge_files
from jaxmotion.weights.lora_write import export_lora, nameless_kernels
from jaxmotion.weights.rules import ConversionError
from jaxmotion.weights.tensor_files import open_tensors

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from diffusers import CogVideoXPipeline
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict

from tests.support.public import TWO_STAGES, cogvideox, text, unet

ULP = 1e-6
"""Sums of float32 numbers near 1, in another order."""
ROTARY = {"use_rotary_positional_embeddings": True}
NETWORKS = {
    "unet": (lambda: unet(**TWO_STAGES), ["to_q", "to_out.0", "conv1", "proj_in", "ff.net.0.proj"], "attn2.to_q"),
    "transformer": (
        lambda: cogvideox(**ROTARY),
        ["to_q", "to_out.0", "proj", "norm1.linear", "linear_1"],
        "1.attn1.to_q",
    ),
    "transformer-1.5": (
        lambda: cogvideox(**ROTARY, patch_size_t=2, ofs_embed_dim=24, patch_bias=True),
        ["to_k", "proj", "norm_out.linear"],
        "0.attn1.to_k",
    ),
    "text_encoder": (text, ["q_proj", "fc1"], "layers.1.self_attn.q_proj"),
}
"""Of each network: how it is made, layers of every kind, and one that has settings of its own."""


def settings(network: str, **changes) -> LoraConfig:
    _, targets, other = NETWORKS[network]
    own = {"r": 4, "lora_alpha": 6, "rank_pattern": {other: 2}, "alpha_pattern": {other: 9}}
    return LoraConfig(target_modules=targets, init_lora_weights=False, **{**own, **changes})


def adapted(network: str, **changes):
    """A model of PEFT on a random network, with random factors; the same each time."""
    torch.manual_seed(0)
    return get_peft_model(NETWORKS[network][0](), settings(network, **changes))


def saved(network: str, folder: Path) -> Path:
    NETWORKS[network][0]().save_pretrained(folder)
    return folder


def weights(module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def assert_same(checkpoint: Path, wanted: dict[str, np.ndarray]) -> None:
    got = open_tensors(checkpoint)
    wanted = {name: array for name, array in wanted.items() if not name.endswith("position_ids")}
    assert set(got) == set(wanted)
    for name, array in wanted.items():
        assert np.abs(np.asarray(got[name]) - array).max() <= ULP * np.abs(array).max(), name


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["alpha", "rs-LoRA"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_folder_of_peft_is_merged_as_peft_merges_it(network: str, rank_stabilised: bool, tmp_path: Path) -> None:
    """Alpha, rs-LoRA, and a rank and an alpha of its own for one layer stand in adapter_config.json alone."""
    model = adapted(network, use_rslora=rank_stabilised)
    model.save_pretrained(tmp_path / "peft")
    merge_files(saved(network, tmp_path / "base"), open_lora(tmp_path / "peft"), tmp_path / "out")
    assert_same(tmp_path / "out", weights(model.merge_and_unload()))
    file = tmp_path / "peft" / "adapter_model.safetensors"
    merge_files(tmp_path / "base", open_lora(file), tmp_path / "again")
    assert_same(tmp_path / "again", {name: np.asarray(each) for name, each in open_tensors(tmp_path / "out").items()})


def renamed(tensors: dict, *changes: tuple[str, str]) -> dict:
    for pattern, new in changes:
        tensors = {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
    return tensors


SPELLINGS = {
    "of PEFT": (),
    "of a model in training": ((r"(lora_[AB])\.", r"\1.default."),),
    "of another adapter": ((r"(lora_[AB])\.", r"\1.my_style."), (r"^base_model\.model\.", "")),
    "of several devices": ((r"^", "module."),),
    "of a compiled model": ((r"^base_model\.model\.", "base_model.model._orig_mod."),),
    "of diffusers and finetrainers": ((r"^base_model\.model\.", "transformer."),),
    "bare": ((r"^base_model\.model\.", ""),),
    "of ComfyUI": ((r"^base_model\.model\.", "diffusion_model."),),
    "of OneTrainer": (
        (r"^base_model\.model\.", "transformer."),
        (r"lora_A\.", "lora_down."),
        (r"lora_B\.", "lora_up."),
    ),
}


def flat(tensors: dict, start: str) -> dict:
    """In the names of Kohya's scripts, with underscores for dots."""
    plain = renamed(tensors, (r"^base_model\.model\.", ""), (r"lora_A\.", "lora_down."), (r"lora_B\.", "lora_up."))
    return {
        start + layer.replace(".", "_") + end: tensor
        for name, tensor in plain.items()
        for layer, end in [(name[: name.index(".lora_")], name[name.index(".lora_") :])]
    }


@pytest.mark.parametrize("spelling", [*SPELLINGS, "lora_unet__", "lora_transformer_", "lycoris_"])
def test_a_lora_of_cogvideox_is_the_same_in_all_spellings(spelling: str, tmp_path: Path) -> None:
    """`lora_unet__` is what VideoX-Fun writes."""
    model = adapted("transformer", rank_pattern={}, alpha_pattern={})
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    base = formats.read(open_tensors(saved("transformer", tmp_path / "base")), formats.BY_NAME["cogvideox"])
    like = unflatten_dict(base, sep="/")
    wanted = from_file(tensors, like)
    changed = renamed(tensors, *SPELLINGS[spelling]) if spelling in SPELLINGS else flat(tensors, spelling)
    assert changed.keys() != tensors.keys() or spelling == "of PEFT"
    for one, other in zip(
        jax.tree.leaves(from_file(changed, like).params), jax.tree.leaves(wanted.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("network", ["transformer", "transformer-1.5"])
def test_what_is_written_of_cogvideox_is_in_diffusers_what_it_is_here(network: str, tmp_path: Path) -> None:
    """All of its layers but the patches, whose form the kernel does not tell; alpha is not the rank."""
    checkpoint = open_tensors(saved(network, tmp_path / "base"))
    kind = formats.detect(checkpoint)
    params = formats.read(checkpoint, kind)
    kernels = {path: array for path, array in params.items() if path.endswith("/kernel")}
    assert nameless_kernels(kernels) == ["denoiser/patches/kernel"]
    del kernels["denoiser/patches/kernel"]
    rng = np.random.default_rng(0)
    fresh_factors = fresh(kernels, 4, jax.random.key(0))
    factors = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 4, fresh_factors)
    export_lora(factors, 4, 6.0, "peft", tmp_path / "peft")
    reference = NETWORKS[network][0]()
    pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=reference, scheduler=None)
    pipe.load_lora_weights(tmp_path / "peft")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    merge_files(tmp_path / "base", open_lora(tmp_path / "peft"), tmp_path / "out")
    assert_same(tmp_path / "out", weights(reference))
    ours = formats.write({**params, **add(params, Factors(factors, 4, 6.0))}, kind.parts_of(checkpoint))
    assert_same(tmp_path / "out", {name: np.asarray(array) for name, array in ours.items()})

    export_lora(factors, 4, 6.0, "kohya", tmp_path / "kohya")
    names = [*open_tensors(tmp_path / "kohya")]
    assert "lora_unet__transformer_blocks_1_attn1_to_q.lora_down.weight" in names  # as VideoX-Fun has it
    merge_files(tmp_path / "base", open_lora(tmp_path / "kohya"), tmp_path / "again")
    assert_same(tmp_path / "again", weights(reference))


@pytest.mark.parametrize("settings_in", ["the header of diffusers", "the header of finetrainers", "nothing"])
def test_a_lora_that_diffusers_saves_of_cogvideox_is_merged_as_it_fuses_it(settings_in: str, tmp_path: Path) -> None:
    """Without settings alpha is the rank, as diffusers has it; it does not read the header of finetrainers."""
    network = "transformer"
    module, config = NETWORKS[network][0](), settings(network, rank_pattern={}, alpha_pattern={})
    torch.manual_seed(0)
    module.add_adapter(config)
    layers = get_peft_model_state_dict(module, adapter_name="default")
    header = {**config.to_dict(), "target_modules": sorted(config.target_modules)}
    given = {"transformer_lora_adapter_metadata": header} if settings_in == "the header of diffusers" else {}
    CogVideoXPipeline.save_lora_weights(tmp_path / "lora", layers, **given)
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    if settings_in == "the header of finetrainers":
        text = json.dumps({"r": 4, "lora_alpha": 6, "target_modules": header["target_modules"]})
        save_file(load_file(file), file, {"format": "pt", "lora_config": text})
    merge_files(saved(network, tmp_path / "base"), open_lora(tmp_path / "lora"), tmp_path / "out")

    reference = NETWORKS[network][0]()
    pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=reference, scheduler=None)
    pipe.load_lora_weights(tmp_path / "lora")
    pipe.fuse_lora(lora_scale=6 / 4 if settings_in == "the header of finetrainers" else 1.0)
    pipe.unload_lora_weights()
    assert_same(tmp_path / "out", weights(reference))


def test_two_adapters_in_one_file_are_told_apart_and_refused(tmp_path: Path) -> None:
    adapted("transformer").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    both = {**renamed(tensors, (r"(lora_[AB])\.", r"\1.a.")), **renamed(tensors, (r"(lora_[AB])\.", r"\1.b."))}
    base = saved("transformer", tmp_path / "base")
    save_file(both, tmp_path / "both.safetensors")
    with pytest.raises(CheckpointFileError, match=r"both\.safetensors holds the adapters a, b; one is needed"):
        merge_files(base, open_lora(tmp_path / "both.safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "says peft_type LOHA; only LORA is read here"),
        ({"use_dora": True}, "says use_dora: this adapter is DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "has changed the frozen weights as well"),
        ({"lora_alpha": "much"}, "says lora_alpha 'much'; a number is needed"),
        ({"lora_alpha": float("nan")}, "says lora_alpha nan; a number is needed"),
        ({"alpha_pattern": {"(": 3}}, "has an alpha_pattern that is no pattern"),
        ("{", r"adapter_config\.json is no JSON"),
        ("[]", "not an object of settings"),
    ],
)
def test_settings_that_mean_more_than_two_factors_are_refused(changes, said: str, tmp_path: Path) -> None:
    adapted("transformer").save_pretrained(tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_config.json"
    file.write_text(changes if isinstance(changes, str) else json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointFileError, match=said):
        merge_files(saved("transformer", tmp_path / "base"), open_lora(tmp_path / "peft"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline's folder: two networks that a LoRA may change, and files that are none of its business."""
    folder = tmp_path / "pipeline"
    for network in ("unet", "text_encoder"):
        saved(network, folder / network)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_start": 0.00085}')
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"the same weights in the older form")
    return folder


@pytest.mark.parametrize("how", ["one file", "a folder for each component"])
def test_a_lora_with_a_text_encoder_goes_into_a_pipeline(how: str, pipeline: Path, tmp_path: Path) -> None:
    """Training scripts of PEFT write a folder for each component; diffusers and Kohya's scripts one file."""
    models = {network: adapted(network) for network in ("unet", "text_encoder")}
    for network, model in models.items():
        model.save_pretrained(tmp_path / "lora" / network)
    if how == "one file":
        both = open_lora(tmp_path / "lora")
        tensors = {name: np.asarray(array) for name, array in both.items()}
        save_file(tensors, tmp_path / "lora.safetensors", both.metadata)
    merge_files(pipeline, open_lora(tmp_path / ("lora.safetensors" if how == "one file" else "lora")), tmp_path / "out")
    for network, model in models.items():
        assert_same(tmp_path / "out" / network, weights(model.merge_and_unload()))
        assert (tmp_path / "out" / network / "config.json").is_file()
    assert not (tmp_path / "out" / "unet" / "diffusion_pytorch_model.bin").exists()  # it would have no LoRA
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (pipeline / name).read_bytes()


def test_a_lora_of_one_network_leaves_the_others_of_a_pipeline_as_they_are(pipeline: Path, tmp_path: Path) -> None:
    model = adapted("unet")
    model.save_pretrained(tmp_path / "lora")
    merge_files(pipeline, open_lora(tmp_path / "lora"), tmp_path / "out")
    assert_same(tmp_path / "out" / "unet", weights(model.merge_and_unload()))
    theirs = [pipeline / "text_encoder" / "model.safetensors", tmp_path / "out" / "text_encoder" / "model.safetensors"]
    assert theirs[0].read_bytes() == theirs[1].read_bytes()


def test_a_lora_that_changes_more_than_the_checkpoint_says_so(pipeline: Path, tmp_path: Path) -> None:
    for network in ("unet", "text_encoder"):
        adapted(network).save_pretrained(tmp_path / "lora" / network)
    with pytest.raises(ConversionError, match=r"changes the text encoder of CLIP, too.*the folder of a whole pipeline"):
        merge_files(pipeline / "unet", open_lora(tmp_path / "lora"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


LAYER = "transformer_blocks.1.attn1.to_q"


def small_lora(folder: Path, size: float = 1.0, **changes: np.ndarray) -> Path:
    """A LoRA of rank 2 on one layer of the tiny transformer; `down`, `up` and `alpha` may be others."""
    rng = np.random.default_rng(0)
    values = {"down": rng.normal(size=(2, 32)) * size, "up": rng.normal(size=(32, 2)) * size, **changes}
    names = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
    tensors = {f"transformer.{LAYER}.{names[role]}": np.asarray(v, np.float32) for role, v in values.items()}
    save_file(tensors, folder / "lora.safetensors")
    return folder / "lora.safetensors"


NAN = np.full((2, 32), np.nan)


@pytest.mark.parametrize(
    ("changes", "scale", "said"),
    [
        ({"down": NAN}, "1", rf"the down of {LAYER} is not finite"),
        ({"up": np.full((32, 2), np.inf)}, "1", rf"the up of {LAYER} is not finite"),
        ({"alpha": np.array(np.inf)}, "1", rf"the alpha of {LAYER} is not finite"),
        ({"size": 1000.0}, "1", rf"With the LoRA, the weights of {LAYER} are not finite in float16"),
        ({}, "1e38", rf"With the LoRA, the weights of {LAYER} are not finite in float16"),
        ({}, "nan", "The scale is nan"),
        ({}, "-inf", "The scale is -inf"),
    ],
)
def test_a_merge_that_is_not_finite_writes_nothing_and_names_the_layer(changes, scale, said, tmp_path: Path) -> None:
    module = NETWORKS["transformer"][0]().half()
    module.save_pretrained(tmp_path / "base")
    paths = (tmp_path / "base", small_lora(tmp_path, **changes), tmp_path / "out")
    with pytest.raises(ValueError, match=said):
        body(["merge", *map(str, paths), f"--scale={scale}"])
    assert not (tmp_path / "out").exists()


def test_weights_that_were_not_finite_before_are_not_blamed_on_the_lora(tmp_path: Path) -> None:
    saved("transformer", tmp_path / "base")
    file = tmp_path / "base" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"][3, 3] = np.nan
    save_file(tensors, file)
    with pytest.raises(
        CheckpointFileError, match=rf"The weights of {LAYER} that the LoRA is to be added to are not finite"
    ):
        merge_files(tmp_path / "base", open_lora(small_lora(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_alpha_of_zero_is_the_rank_in_kohya_s_files_and_nothing_in_peft_s(tmp_path: Path) -> None:
    base = saved("transformer", tmp_path / "base")
    before = load_file(base / "diffusion_pytorch_model.safetensors")[f"{LAYER}.weight"]
    file = small_lora(tmp_path, alpha=np.array(0.0))
    merge_files(base, open_lora(file), tmp_path / "kohya")
    tensors = load_file(file)
    product = tensors[f"transformer.{LAYER}.lora_up.weight"] @ tensors[f"transformer.{LAYER}.lora_down.weight"]
    np.testing.assert_allclose(np.asarray(open_tensors(tmp_path / "kohya")[f"{LAYER}.weight"]), before + product, 1e-5)

    model = adapted("transformer", lora_alpha=0, alpha_pattern={})
    model.save_pretrained(tmp_path / "peft")
    merge_files(base, open_lora(tmp_path / "peft"), tmp_path / "out")
    assert_same(tmp_path / "out", weights(model.merge_and_unload()))


def test_a_merge_keeps_the_header_and_each_tensor_s_own_type(tmp_path: Path) -> None:
    """Layers of one stack in three types; the merged one is rounded once, to its own."""
    kinds = (np.float16, ml_dtypes.bfloat16, np.float32)
    folder = saved("transformer", tmp_path / "base")
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: t.astype(kinds[i % 3]) for i, (name, t) in enumerate(sorted(load_file(file).items()))}
    header = {"format": "pt", "modelspec.title": "A merge", "modelspec.hash_sha256": "0x1234"}
    for kind in kinds:
        tensors[f"{LAYER}.weight"] = tensors[f"{LAYER}.weight"].astype(kind)
        save_file(tensors, file, header)
        lora = small_lora(tmp_path)
        merge_files(folder, open_lora(lora), tmp_path / f"out-{np.dtype(kind)}")
        back = open_tensors(tmp_path / f"out-{np.dtype(kind)}")
        assert back.metadata == {
            "format": "pt",
            "modelspec.title": "A merge",
        }  # the sum over the weights is another now
        factors = load_file(lora)
        product = factors[f"transformer.{LAYER}.lora_up.weight"] @ factors[f"transformer.{LAYER}.lora_down.weight"]
        for name, before in tensors.items():
            after = np.asarray(back[name])
            assert after.dtype == before.dtype, name
            if name == f"{LAYER}.weight":
                np.testing.assert_array_equal(after, (before.astype(np.float32) + product).astype(kind))
            else:
                assert after.tobytes() == before.tobytes(), name


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.bin"])
def test_a_folder_of_a_training_script_is_read_whatever_lies_beside_the_lora(name: str, tmp_path: Path) -> None:
    """Optimizer and scheduler of the last step, and settings of PEFT that are those of the file."""
    tensors = load_file(small_lora(tmp_path))
    peft = {each.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): t for each, t in tensors.items()}
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 7}))
    for beside in ("optimizer.bin", "scheduler.bin"):
        torch.save({"step": torch.ones(1)}, folder / beside)
    if name.endswith(".bin"):
        torch.save({each: torch.tensor(t) for each, t in peft.items()}, folder / name)
    else:
        save_file(peft, folder / name)
    opened = open_lora(folder)
    base = formats.read(open_tensors(saved("transformer", tmp_path / "base")), formats.BY_NAME["cogvideox"])
    found = from_file(opened, unflatten_dict(base, sep="/"), metadata=opened.metadata)
    assert (set(opened), found.rank, found.alpha) == (set(peft), 2, 7.0)
    assert holds_lora(folder)
