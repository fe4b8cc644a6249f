"""Every table of rules is a bijection on the `state_dict` of the reference at its published size: names and shapes.

Both sides are shapes only: torch's meta device there, `jax.eval_shape` here.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmotion.foundation.types import Condition
from jaxmotion.models import (
    autoencoder,
    autoencoder3d,
    autoencoder_tiny,
    causal_codec,
    clip,
    cogvideox,
    dinov2,
    modelscope,
    stable_diffusion,
    t5,
)
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import stable_diffusion_unet
from jaxmotion.weights.rules import Rule, matches_any, parameters, shapes_of, split_input, tensors_of
from jaxmotion.weights.tables.autoencoder import AUTOENCODER, AUTOENCODER_OLD
from jaxmotion.weights.tables.autoencoder3d import AUTOENCODER3D
from jaxmotion.weights.tables.autoencoder_tiny import AUTOENCODER_TINY
from jaxmotion.weights.tables.clip import CLIP, CLIP_TEXT, CLIP_TEXT_BARE, CLIP_VISION_BARE, CLIP_VISION_TOWER
from jaxmotion.weights.tables.cogvideox import COGVIDEOX, COGVIDEOX_1_5
from jaxmotion.weights.tables.dinov2 import DINOV2, DINOV2_GATED, DINOV2_GATED_IN_MEMORY, DINOV2_IN_MEMORY
from jaxmotion.weights.tables.modelscope import UNET as UNET3D
from jaxmotion.weights.tables.modelscope import own_names
from jaxmotion.weights.tables.stable_diffusion import MOTION, MOTION_BUFFERS, UNET
from jaxmotion.weights.tables.t5 import SHARED_AGAIN, T5, t5_config

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

TEN_CHANNELS = (
    Rule("conv_in.weight", ("conv_in/kernel", "conv_condition/kernel"), split_input(4)),
    *(rule for rule in UNET if rule.names != ("conv_in.weight",)),
)
IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
CLIP_OF_FRAMES = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
TEXT = jax.ShapeDtypeStruct((1, 77), jnp.int32)


def theirs(make, *args, **kwargs):
    """Names and shapes of the tensors of a model."""
    with torch.device("meta"):
        return named_shapes(make(*args, **kwargs).state_dict())


def named_shapes(state_dict):
    return {name: jax.ShapeDtypeStruct(tuple(value.shape), jnp.float32) for name, value in state_dict.items()}


def ours(network, *inputs):
    """Paths and shapes of our parameters."""
    return flatten_dict(jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"], sep="/")


def check(rules, tensors, like, ignored=()):
    """The names that are not parameters, if the table pairs all the others with ours, one to one."""
    parameters(rules, tensors, like, ignored)  # raises unless each name is needed and there, and has its shape
    assert shapes_of(rules, tensors) == {path: leaf.shape for path, leaf in like.items()}
    back = {name: tensor.shape for name, tensor in tensors_of(rules, like).items()}
    assert back == {name: tensor.shape for name, tensor in tensors.items() if not matches_any(ignored, name)}
    return tensors.keys() - back.keys()


def unet(middle=False, condition_channels=0, motion=True):
    sizes = dataclasses.replace(stable_diffusion.FULL, condition_channels=condition_channels)
    layers = {"motion": partial(MotionModule, sizes.heads, sizes.groups)} if motion else {}
    network = stable_diffusion_unet(sizes, after_block=layers, after_middle=layers if middle else {})

    def zeros(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    channels = (zeros(1, 2, 32, 32, condition_channels),) if condition_channels else ()
    condition = Condition(channels, {"text": zeros(1, 2, 77, stable_diffusion.CONTEXT_FEATURES)})
    return ours(network, zeros(1, 2, 32, 32, 4), zeros(1), condition)


def test_unet():
    assert not check(UNET, theirs(diffusers.UNet2DConditionModel, cross_attention_dim=768), unet(motion=False))


@pytest.mark.parametrize("middle", [False, True], ids=["v1 and v3", "v2"])
@pytest.mark.parametrize(("channels", "table"), [(4, UNET), (10, TEN_CHANNELS)], ids=["4 channels", "10 channels"])
def test_unet_of_clips(middle, channels, table):
    tensors = theirs(
        diffusers.UNetMotionModel, in_channels=channels, cross_attention_dim=768, use_motion_mid_block=middle
    )
    buffers = check((*table, *MOTION), tensors, unet(middle, channels - 4), MOTION_BUFFERS)
    assert {name.rpartition(".")[2] for name in buffers} == {"pe"}


def golden_names(which):
    """Names and shapes of the tensors of the public code at its published size, kept with the parity tests."""
    with np.load(Path(__file__).parents[1] / "parity" / "golden_smcd.npz") as arrays:
        rows = [row.split() for row in arrays[which].tolist()]
    return {name: jax.ShapeDtypeStruct(tuple(map(int, sizes)), jnp.float32) for name, *sizes in rows}


def modelscope_unet():
    zeros = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    condition = Condition(tokens={"text": zeros(1, 2, 77, modelscope.CONTEXT_FEATURES)})
    return ours(modelscope.modelscope_unet(modelscope.FULL), zeros(1, 2, 32, 32, 4), zeros(1), condition)


def test_unet_of_modelscope():
    like = modelscope_unet()
    assert not check(UNET3D, theirs(diffusers.UNet3DConditionModel), like)
    assert not check(own_names(modelscope.FULL), golden_names("full_names"), like)


@pytest.mark.parametrize("middle", [False, True], ids=["v1 and v3", "v2"])
def test_motion_adapter(middle):
    tensors = theirs(diffusers.MotionAdapter, use_motion_mid_block=middle)
    like = {path: leaf for path, leaf in unet(middle).items() if "/motion/" in path}
    assert {name.rpartition(".")[2] for name in check(MOTION, tensors, like, MOTION_BUFFERS)} == {"pe"}


def test_autoencoder():
    tensors = theirs(
        diffusers.AutoencoderKL,
        block_out_channels=autoencoder.FULL.features,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=autoencoder.FULL.blocks_per_stage,
    )
    like = ours(autoencoder.AutoencoderKL(autoencoder.FULL), CLIP_OF_FRAMES)
    assert not check(AUTOENCODER, tensors, like)

    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in tensors.items():
        for new_name, old_name in old_names.items():
            name = name.replace(f".{new_name}.", f".{old_name}.")
        old[name] = tensor
    assert old.keys() - tensors.keys()
    assert not check(AUTOENCODER_OLD, old, like)


@pytest.mark.parametrize("sizes", [autoencoder_tiny.FULL, autoencoder_tiny.FULL_16])
def test_tiny_autoencoder(sizes):
    tensors = theirs(diffusers.AutoencoderTiny, latent_channels=sizes.latent_channels)
    assert not check(AUTOENCODER_TINY, tensors, ours(autoencoder_tiny.AutoencoderTiny(sizes), CLIP_OF_FRAMES))


def text_config(sizes, embedding):
    return transformers.CLIPTextConfig(
        vocab_size=sizes.vocabulary,
        max_position_embeddings=sizes.length,
        hidden_size=sizes.features,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.hidden,
        projection_dim=embedding,
    )


def vision_config(sizes, embedding):
    return transformers.CLIPVisionConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        hidden_size=sizes.features,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.hidden,
        projection_dim=embedding,
    )


def test_clip_text():
    tensors = theirs(transformers.CLIPTextModel, text_config(clip.FULL, 768))
    like = ours(clip.CLIPText(clip.FULL), TEXT)
    assert not check(CLIP_TEXT_BARE, tensors, like)
    public = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    assert not check(CLIP_TEXT, public, like)


@pytest.mark.parametrize("sizes", [clip.B32, clip.L14], ids=["B/32", "L/14"])
def test_clip(sizes):
    text, vision = text_config(sizes.text, sizes.embedding), vision_config(sizes.vision, sizes.embedding)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=sizes.embedding
    )
    assert not check(CLIP, theirs(transformers.CLIPModel, config), ours(clip.CLIP(sizes), TEXT, IMAGE))
    encoder = ours(clip.CLIPVision(sizes.vision), IMAGE)
    assert not check(CLIP_VISION_BARE, theirs(transformers.CLIPVisionModel, vision), encoder)
    tower = ours(clip.ImageTower(sizes.vision, sizes.embedding), IMAGE)
    assert not check(CLIP_VISION_TOWER, theirs(transformers.CLIPVisionModelWithProjection, vision), tower)


@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
@pytest.mark.parametrize("name", ["SMALL", "BASE", "LARGE", "GIANT"])
def test_dinov2(name, registers):
    from transformers.core_model_loading import revert_weight_conversion

    sizes = getattr(dinov2, f"{name}_REGISTERS" if registers else name)
    config = {
        "image_size": sizes.grid * sizes.patch,
        "patch_size": sizes.patch,
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "use_swiglu_ffn": sizes.gated,
    }
    with torch.device("meta"):
        if registers:
            config = transformers.Dinov2WithRegistersConfig(num_register_tokens=sizes.registers, **config)
            model = transformers.Dinov2WithRegistersModel(config)
        else:
            model = transformers.Dinov2Model(transformers.Dinov2Config(**config))
        public = revert_weight_conversion(model, model.state_dict())  # what `save_pretrained` writes
    like = ours(dinov2.DINOv2(sizes), IMAGE)
    assert not check(DINOV2_GATED if sizes.gated else DINOV2, named_shapes(public), like)
    in_memory = DINOV2_GATED_IN_MEMORY if sizes.gated else DINOV2_IN_MEMORY
    assert not check(in_memory, named_shapes(model.state_dict()), like)


@pytest.mark.parametrize("name", cogvideox.PUBLIC)
def test_cogvideox(name):
    sizes = cogvideox.PUBLIC[name]
    positions = {"sines": {}, "rotary_and_learned": {"use_learned_positional_embeddings": True}}
    tensors = theirs(
        diffusers.CogVideoXTransformer3DModel,
        num_attention_heads=sizes.heads,
        num_layers=sizes.depth,
        in_channels=sizes.in_channels,
        patch_size_t=2 if sizes.patch[0] == 2 else None,
        ofs_embed_dim=512 if sizes.offset else None,
        use_rotary_positional_embeddings=sizes.positions != "sines",
        **positions.get(sizes.positions, {}),
    )
    rules = COGVIDEOX if sizes.patch[0] == 1 else COGVIDEOX_1_5
    latents = jax.ShapeDtypeStruct((1, sizes.grid[0] * sizes.patch[0], 60, 90, sizes.in_channels), jnp.float32)
    tokens = {"text": jax.ShapeDtypeStruct((1, 1, 226, 4096), jnp.float32)}
    like = ours(cogvideox.CogVideoX(sizes), latents, jnp.zeros((1,), jnp.int32), Condition(tokens=tokens))
    assert not check(rules, tensors, like)


def test_cogvideox_autoencoder():
    like = jax.eval_shape(causal_codec.CausalCodec(autoencoder3d.FULL).init, jax.random.key(0))
    assert not check(AUTOENCODER3D, theirs(diffusers.AutoencoderKLCogVideoX), flatten_dict(like, sep="/"))


def test_t5():
    sizes = t5.XXL
    config = transformers.T5Config(**t5_config(sizes))
    ids = jax.ShapeDtypeStruct((1, 226), jnp.int32)
    assert check(T5, theirs(transformers.T5EncoderModel, config), ours(t5.T5Encoder(sizes), ids), SHARED_AGAIN) <= set(
        SHARED_AGAIN
    )
