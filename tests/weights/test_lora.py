"""LoRA files against diffusers and PEFT on random weights: what goes out is what they make of it, and what comes in."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.types import Condition, Params
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.clip import CLIPText, CLIPTextSizes
from jaxmotion.models.stable_diffusion import FULL, stable_diffusion_unet
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.low_rank import choose_kernels, fresh, merge, pairs, product
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora import Factors, from_file, merge_into, refit
from jaxmotion.weights.lora_kinds import layout
from jaxmotion.weights.lora_names import layers_of
from jaxmotion.weights.lora_settings import HEADER
from jaxmotion.weights.lora_write import to_kohya, to_peft
from jaxmotion.weights.rules import ConversionError, to_jax, to_torch
from jaxmotion.weights.tables import clip as clip_rules
from jaxmotion.weights.tables import stable_diffusion as rules
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from diffusers import (
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.loaders.lora_conversion_utils import (
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel

RANK, ALPHA = 3, 5.0
SIZES = UNetSizes(features=(8, 16, 16, 16), heads=2, groups=4)
TEXT = CLIPTextSizes(vocabulary=50, length=8, features=24, depth=2, heads=2, hidden=40)
EVERYTHING = (r"^denoiser/.*/kernel$", r"^text_encoder/.*/kernel$")
WEIGHT = 1e-6
"""Merged weights are sums of few products of float32 numbers near 1, in another order than in torch."""
NETWORK = 1e-4


def unet_motion() -> tuple:
    """A small U-Net with motion modules, there and here."""
    sizes = UNetSizes(features=(8, 16), blocks_per_stage=1, attention_stages=(True, False), heads=2, groups=4)
    theirs = UNetMotionModel(
        block_out_channels=sizes.features,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=1,
        num_attention_heads=sizes.heads,
        cross_attention_dim=TEXT.features,
        norm_num_groups=sizes.groups,
        motion_num_attention_heads=sizes.heads,
        motion_max_seq_length=8,
        use_motion_mid_block=False,
    )
    ours = stable_diffusion_unet(sizes, after_block={"motion": partial(MotionModule, sizes.heads, sizes.groups, 8)})
    return randomised(theirs), ours


def unet() -> UNet2DConditionModel:
    """A narrow U-Net of Stable Diffusion's full depth."""
    return randomised(
        UNet2DConditionModel(
            block_out_channels=SIZES.features,
            attention_head_dim=SIZES.heads,
            cross_attention_dim=TEXT.features,
            norm_num_groups=SIZES.groups,
        )
    )


def text_encoder() -> CLIPTextModel:
    return randomised(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=TEXT.vocabulary,
                max_position_embeddings=TEXT.length,
                hidden_size=TEXT.features,
                num_hidden_layers=TEXT.depth,
                num_attention_heads=TEXT.heads,
                intermediate_size=TEXT.hidden,
            )
        )
    )


def randomised(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 1 + 0.2 * noise
    return module.eval()


def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=text_encoder(),
        tokenizer=None,
        unet=unet(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def shapes(module, *inputs) -> Params:
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def plain_unet(sizes: UNetSizes) -> Params:
    condition = Condition(tokens={"text": jnp.zeros((1, 1, 1, TEXT.features))})
    return shapes(stable_diffusion_unet(sizes), jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros((1,), jnp.int32), condition)


def state(module) -> dict:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def like() -> Params:
    """Shapes of a denoiser and a text encoder."""
    return {"denoiser": plain_unet(SIZES), "text_encoder": shapes(CLIPText(TEXT), jnp.zeros((1, 8), jnp.int32))}


@pytest.fixture(scope="module")
def params(like: Params) -> dict:
    """The weights of the pipeline."""
    ids = ("embeddings.position_ids",)
    return {
        "denoiser": to_jax(rules.UNET, state(unet()), like["denoiser"]),
        "text_encoder": to_jax(clip_rules.CLIP_TEXT_BARE, state(text_encoder()), like["text_encoder"], ids),
    }


def random_factors(like: Params, paths=EVERYTHING, rank: int = RANK, dtype=np.float32) -> dict:
    """Factors that are zero nowhere."""
    start = fresh(choose_kernels(like, paths), rank, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (rng.normal(size=x.shape) / x.shape[0] ** 0.5).astype(dtype), start)


@pytest.fixture(scope="module")
def lora(like: Params) -> dict:
    return random_factors(like)


def fused(pipe: StableDiffusionPipeline) -> tuple[dict, dict]:
    """Weights of the U-Net and the text encoder after the pipeline has merged its LoRA."""
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return state(pipe.unet), state(pipe.text_encoder)


def assert_close(ours: dict, theirs: dict) -> None:
    assert ours.keys() == {name for name in theirs if "position_ids" not in name}
    for name, array in ours.items():
        error = np.abs(array - theirs[name]).max() / np.abs(theirs[name]).max()
        assert error < WEIGHT, f"{name}: {error}"


def assert_same(first: Params, second: Params) -> None:
    one, other = flatten_dict(first, sep="/"), flatten_dict(second, sep="/")
    assert one.keys() == other.keys()
    for path, array in one.items():
        assert array.dtype == other[path].dtype
        np.testing.assert_array_equal(np.asarray(array, np.float64), np.asarray(other[path], np.float64), path)


@pytest.mark.parametrize("write", [to_peft, to_kohya])
def test_a_file_of_ours_is_in_diffusers_what_it_is_here(
    tmp_path: Path, like: Params, params: dict, lora: dict, write
) -> None:
    """All kernels: linear, gated, pointwise and other convolutions, a stacked text encoder; alpha is not the rank."""
    tensors, header = write(lora, RANK, ALPHA)
    write_tensors(tmp_path, "pytorch_lora_weights", tensors, metadata=header)
    pipe = pipeline()
    pipe.load_lora_weights(tmp_path)
    denoiser, text = fused(pipe)
    merged = jax.tree.map(np.asarray, merge(params, lora, ALPHA / RANK))
    assert_close(to_torch(rules.UNET, merged["denoiser"]), denoiser)
    assert_close(to_torch(clip_rules.CLIP_TEXT_BARE, merged["text_encoder"]), text)

    opened = open_tensors(tmp_path)
    back = from_file(opened, like, metadata=opened.metadata)
    assert (back.rank, back.alpha) == (RANK, ALPHA)
    assert_same(back.params, lora)
    again, _ = write(*back)
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


def test_a_unet_with_motion_modules_and_our_file_computes_what_merged_weights_do(tmp_path: Path) -> None:
    theirs, ours = unet_motion()
    rng = np.random.default_rng(0)
    zt, t, text = rng.normal(size=(1, 3, 8, 8, 4)), np.array([300]), rng.normal(size=(1, 1, 5, TEXT.features))
    zt, text = zt.astype(np.float32), text.astype(np.float32)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    like = {"denoiser": shapes(ours, zt, t, condition)}
    table = (*rules.UNET, *rules.MOTION)
    params = {"denoiser": to_jax(table, state(theirs), like["denoiser"], rules.MOTION_BUFFERS)}
    lora = random_factors(like, (r"/motion/.*/(query|linear_in)/kernel$", r"/text/.*/out/kernel$"))

    tensors, header = to_peft(lora, RANK, ALPHA)
    write_tensors(tmp_path, "pytorch_lora_weights", tensors, metadata=header)
    theirs.load_lora_adapter(tmp_path, prefix="unet", use_safetensors=True)
    inputs = torch.tensor(zt).permute(0, 4, 1, 2, 3), torch.tensor(t), torch.tensor(text[0]).repeat(3, 1, 1)
    with torch.no_grad():
        reference = theirs(*inputs).sample.permute(0, 2, 3, 4, 1).numpy()
    run = jax.jit(lambda p: ours.apply({"params": p["denoiser"]}, zt, t, condition))
    largest = np.abs(reference).max()
    assert np.abs(run(merge(params, lora, ALPHA / RANK)) - reference).max() < NETWORK * largest
    assert np.abs(run(params) - reference).max() > 0.01 * largest


@pytest.mark.parametrize("settings", [True, False], ids=["with settings", "without"])
def test_a_lora_saved_by_diffusers_is_here_what_it_is_there(tmp_path: Path, params: dict, settings: bool) -> None:
    """Ranks and alphas that differ by layer, of a pipeline; without settings in the header alpha is the rank."""
    pipe = pipeline()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_out.0", "conv1", "ff.net.0.proj", "proj_in", "q_proj", "fc1"],
        rank_pattern={"attn2.to_q": 2, "conv1": 5},
        alpha_pattern={"down_blocks.0.*.attn1.to_q": 9, "fc1": 1},
        init_lora_weights=False,
    )
    configs = {}
    for name, module in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder)):
        module.add_adapter(config)
        configs[f"{name}_lora_adapter_metadata"] = {**config.to_dict(), "target_modules": [*config.target_modules]}
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="default"),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
        **(configs if settings else {}),
    )
    pipe = pipeline()
    pipe.load_lora_weights(tmp_path)
    denoiser, text = fused(pipe)
    opened = open_tensors(tmp_path)
    assert layout(opened) == "peft"
    merged = jax.tree.map(np.asarray, merge_into(params, opened, metadata=opened.metadata))
    assert_close(to_torch(rules.UNET, merged["denoiser"]), denoiser)
    assert_close(to_torch(clip_rules.CLIP_TEXT_BARE, merged["text_encoder"]), text)


def test_an_adapter_saved_by_a_model_alone_is_read(tmp_path: Path, params: dict) -> None:
    theirs = unet()
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=3, target_modules=["to_k"], use_rslora=True, init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path)
    theirs.fuse_lora()
    theirs.unload_lora()
    opened = open_tensors(tmp_path)
    merged = merge_into(params, opened, metadata=opened.metadata)
    assert_close(to_torch(rules.UNET, jax.tree.map(np.asarray, merged["denoiser"])), state(theirs))


def renamed(tensors: dict, *changes: tuple[str, str]) -> dict:
    """The same tensors under names in which each pattern is replaced."""
    for pattern, new in changes:
        tensors = {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
    return tensors


DIFFUSERS = ((r"lora_A\.", "lora.down."), (r"lora_B\.", "lora.up."))
PROCESSORS = (*DIFFUSERS, (r"\.(to_[qkv])\.lora\.", r".processor.\1_lora."))
PROCESSORS = (*PROCESSORS, (r"\.to_out\.0\.lora\.", ".processor.to_out_lora."))
TEXT_LAYERS = (r"^text_encoder\.(.*)\.lora\.", r"text_encoder.\1.lora_linear_layer.")
OLD_TEXT = ((r"_linear_layer", ""), (r"self_attn\.([qkv])_proj\.lora\.", r"self_attn.to_\1_lora."))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ((), "peft"),
        (((r"^unet\.|^text_encoder\.", ""),), "peft"),
        (((r"text_model\.", ""),), "peft"),
        ((*DIFFUSERS, TEXT_LAYERS), "diffusers"),
        ((*PROCESSORS, TEXT_LAYERS, *OLD_TEXT), "diffusers"),
        ((*PROCESSORS, TEXT_LAYERS, (r"^unet\.", "")), "diffusers"),
    ],
    ids=["peft", "without prefix", "flat text encoder", "diffusers", "processors", "processors without prefix"],
)
def test_older_spellings_are_the_same_lora(like: Params, changes: tuple, kind: str) -> None:
    paths = (r"^denoiser/.*/(query|out)/kernel$", r"^text_encoder/.*/query/kernel$")
    lora = random_factors(like, paths)
    tensors = renamed(to_peft(lora, RANK, RANK)[0], *changes)
    assert layout(tensors) == kind
    back = from_file(tensors, like)
    assert_same(back.params, lora)
    assert back.alpha == back.rank == RANK  # no settings are given


def test_names_of_the_latent_diffusion_code_are_those_that_diffusers_knows(like: Params, lora: dict) -> None:
    kernels = {path: leaf.shape for path, leaf in flatten_dict(like, sep="/").items() if path.endswith("/kernel")}
    layers = {
        next(layer.kohya(layer.names[1])): next(layer.kohya(layer.name))
        for layer in layers_of(kernels, LORA_PARTS)
        # Diffusers' converter takes the upsampling of a stage without attention for an attention.
        if layer.part.prefix == "unet" and layer.name != "up_blocks.0.upsamplers.0.conv"
    }
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q" in layers
    tensors, _ = to_kohya({"denoiser": lora["denoiser"]}, RANK, ALPHA)
    named = {
        f"{new}.lora_{way}.weight": f"{old}.lora_{way}.weight" for new, old in layers.items() for way in ("down", "up")
    }
    ldm = {new: tensors[old] for new, old in named.items()}
    assert_same(from_file(ldm, like).params, from_file({old: tensors[old] for old in named.values()}, like).params)

    below_ten = {new: old for new, old in named.items() if not re.search(r"put_blocks_1\d_", new)}  # as in SDXL
    theirs = _maybe_map_sgm_blocks_to_diffusers(dict(below_ten), unet().config)
    assert len(theirs) == len(below_ten) > 400
    for new, old in theirs.items():
        assert _convert_unet_lora_key(new) == _convert_unet_lora_key(old)


def test_a_motion_lora_of_animatediff_is_read() -> None:
    _, ours = unet_motion()
    condition = Condition(tokens={"text": jnp.zeros((1, 1, 1, TEXT.features))})
    like = {"denoiser": shapes(ours, jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros((1,), jnp.int32), condition)}
    lora = random_factors(like, (r"/motion/.*/(query|key|value|out)/kernel$",))
    changes = (
        (r"^unet\.", ""),
        (r"(motion_modules\.\d)\.", r"\1.temporal_transformer."),
        (r"attn1\.", "attention_blocks.0."),
        (r"attn2\.", "attention_blocks.1."),
        *PROCESSORS,
    )
    tensors = renamed(to_peft(lora, RANK, RANK)[0], *changes)
    first = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    assert f"{first}.processor.to_q_lora.down.weight" in tensors
    assert_same(from_file(tensors, like).params, lora)


QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = QUERY.replace("to_q", "to_k")
PATH = "denoiser/middle/transformer/block/space/attention/query/kernel"


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_other_ranks_and_alphas_become_one_and_no_product_changes(like: Params, params: dict) -> None:
    """Three layers agree on alpha / rank; the fourth is of a smaller rank and scaled by what is left, 2 / 0.5."""
    cross = PATH.replace("space", "text")
    layers = (
        (QUERY, PATH, 4, 2.0),
        (KEY, PATH.replace("query", "key"), 4, 2.0),
        (QUERY.replace("attn1", "attn2"), cross, 2, 1.0),
        (KEY.replace("attn1", "attn2"), cross.replace("query", "key"), 1, 2.0),
    )
    before = flatten_dict(params, sep="/")
    tensors = {}
    for name, path, rank, alpha in layers:
        inputs, outputs = before[path].shape
        tensors |= {f"{name}.lora_A.weight": numbers(rank, inputs), f"{name}.lora_B.weight": numbers(outputs, rank)}
        tensors[f"{name}.alpha"] = np.asarray(alpha, np.float32)
    back = from_file(tensors, like)
    assert (back.rank, back.alpha) == (4, 2.0)
    merged = flatten_dict(merge(params, back.params, back.alpha / back.rank), sep="/")
    for name, path, rank, alpha in layers:
        change = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] * (alpha / rank)
        want = before[path] + change.T
        np.testing.assert_allclose(merged[path], want, atol=WEIGHT * np.abs(want).max())


def test_half_precision_stays_and_a_stack_is_filled_up(like: Params) -> None:
    name = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
    for dtype in (np.float16, ml_dtypes.bfloat16):
        down, up = numbers(2, TEXT.features).astype(dtype), numbers(TEXT.features, 2).astype(dtype)
        lora = from_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, like).params
        pair = lora["text_encoder"]["stack"]["layers"]["attention"]["query"]["kernel"]
        assert pair["down"].dtype == pair["up"].dtype == dtype
        np.testing.assert_array_equal(pair["down"][1], down.T)
        assert not pair["down"][0].any()
        assert not pair["up"][0].any()


def test_a_lora_at_another_rank_and_alpha_has_the_same_products_and_can_learn_in_all_of_it(like: Params) -> None:
    lora = random_factors(like, (r"middle/resnet_in/conv_in/kernel$", r"^text_encoder/.*/(query|linear_in)/kernel$"))
    larger = refit(Factors(lora, RANK, ALPHA), 5, 2.0, jax.random.key(0))
    old, new = pairs(lora), pairs(larger)
    for (path, down, up), (_, down_now, up_now) in zip(old, new, strict=True):
        want = ALPHA / RANK * product(path, down, up)
        got = 2.0 / 5 * product(path, down_now, up_now)
        np.testing.assert_allclose(got, want, atol=WEIGHT * np.abs(want).max(), err_msg=path)
        assert np.all(np.abs(down_now).max(axis=tuple(range(down_now.ndim - 1))) > 0)
    with pytest.raises(ValueError, match="has rank 3, which does not fit into 2"):
        refit(Factors(lora, RANK, ALPHA), 2, 2.0, jax.random.key(0))


def test_a_file_that_does_not_fit_is_refused_with_all_that_is_wrong(like: Params) -> None:
    tensors = {
        f"{QUERY}.lora_A.weight": numbers(2, 16),
        f"{KEY}.lora_A.weight": numbers(2, 99),
        f"{KEY}.lora_B.weight": numbers(16, 3),
        f"{KEY}.lora_magnitude_vector": numbers(16),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": numbers(2, 24),
        "unet.conv_in.lora_A.weight": np.zeros((2, 4, 3, 3), np.int32),
        "unet.conv_in.lora_B.weight": numbers(8, 2, 1, 1),
    }
    with pytest.raises(ConversionError) as raised:
        from_file(tensors, like, source="x.safetensors")
    error = raised.value
    assert error.missing == (f"{QUERY.removeprefix('unet.')}: up",)
    assert error.unexpected == (
        f"{KEY}.lora_magnitude_vector: DoRA, which is not read",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    )
    assert [line.partition(": ")[2] for line in error.wrong_shape] == [
        "down is [2, 99], [2, 16] is needed",
        "up is [16, 3], [16, 2] is needed",
    ]
    assert error.wrong_dtype == ("unet.conv_in.lora_A.weight: int32 came, a floating-point type is needed",)
    assert "x.safetensors does not match" in str(error)
    with pytest.raises(ConversionError, match="the two factors of any layer"):
        from_file({}, like)


def test_one_factor_under_two_names_is_refused(like: Params) -> None:
    tensors = {f"{QUERY}.lora_A.weight": numbers(2, 16), f"{QUERY}.lora_B.weight": numbers(16, 2)}
    twice = {**tensors, f"{QUERY.removeprefix('unet.')}.lora.down.weight": numbers(2, 16)}
    with pytest.raises(ConversionError, match="has come under another name already"):
        from_file(twice, like)


def test_kernels_that_no_public_model_has_are_not_written() -> None:
    path = "denoiser/down_0_block_0/transformer/block/content/attention/query/kernel"
    pair = {"down": np.zeros((8, 2), np.float32), "up": np.zeros((2, 8), np.float32)}
    lora = unflatten_dict({f"{path}/{role}": factor for role, factor in pair.items()}, sep="/")
    for write in (to_peft, to_kohya):
        with pytest.raises(ConversionError, match="content/attention/query/kernel: files have no name"):
            write(lora, 2, 2.0)


def test_settings_name_each_layer_once(lora: dict) -> None:
    _, header = to_peft(lora, RANK, ALPHA)
    settings = json.loads(header[HEADER])
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (RANK, ALPHA)
    assert "encoder.layers.1.self_attn.q_proj" in settings["text_encoder.target_modules"]
    assert "down_blocks.0.resnets.0.conv1" in settings["unet.target_modules"]


def test_every_layer_of_the_published_size_has_a_name() -> None:
    """Names and weight shapes of all linear layers and convolutions of the public model, which takes no memory here."""
    motion = {"motion": partial(MotionModule, FULL.heads, FULL.groups, frames=32)}
    condition = Condition(tokens={"text": jnp.zeros((1, 1, 1, 768))})
    ours = shapes(
        stable_diffusion_unet(FULL, after_block=motion),
        jnp.zeros((1, 1, 8, 8, 4)),
        jnp.zeros((1,), jnp.int32),
        condition,
    )
    kernels = {f"denoiser/{path}": leaf.shape for path, leaf in flatten_dict(ours, sep="/").items()}
    kernels = {path: shape for path, shape in kernels.items() if path.endswith("/kernel")}
    layers = layers_of(kernels, LORA_PARTS)
    with torch.device("meta"):
        adapter = MotionAdapter(use_motion_mid_block=False)
        theirs = UNetMotionModel.from_unet2d(
            UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), adapter, load_weights=False
        )
    wanted = {
        name: tuple(module.weight.shape)
        for name, module in theirs.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert {layer.name: layer.theirs for layer in layers} == wanted
