"""Parameter counts at the published sizes, without allocating them."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxmotion.foundation.types import Condition
from jaxmotion.models import autoencoder, autoencoder_tiny, clip, dinov2, stable_diffusion
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import stable_diffusion_unet, transformer_layers
from jaxmotion.nn.transformer import GatedCrossAttention

KEY = jax.random.key(0)


def shapes(network, *inputs) -> dict:
    return flatten_dict(jax.eval_shape(network.init, KEY, *inputs)["params"], sep="/")


def count(leaves: dict, pattern: str = "") -> int:
    return sum(math.prod(leaf.shape) for path, leaf in leaves.items() if re.search(pattern, path))


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def inputs(frames: int, condition_channels: int = 0) -> tuple:
    tokens = {"text": zeros(1, frames, 77, 768), "content": zeros(1, 1, 256, 768)}
    channels = (zeros(1, frames, 32, 32, condition_channels),) if condition_channels else ()
    return zeros(1, frames, 32, 32, 4), jax.ShapeDtypeStruct((1,), jnp.int32), Condition(channels, tokens)


def test_stable_diffusion():
    leaves = shapes(stable_diffusion_unet(stable_diffusion.FULL), *inputs(1))
    assert count(leaves) == 859_520_964  # runwayml/stable-diffusion-v1-5


def motion_modules(frames: int) -> dict:
    return {"motion": partial(MotionModule, 8, 32, frames=frames)}


@pytest.mark.parametrize(
    ("middle", "frames", "parameters"),
    [(False, 24, 417_137_600), (True, 32, 453_209_280), (False, 32, 417_137_600)],
    ids=["v1", "v2", "v3"],
)
def test_animatediff(middle, frames, parameters):
    """The counts of diffusers' MotionAdapter with the configurations of the public weights."""
    modules = motion_modules(frames)
    unet = stable_diffusion_unet(stable_diffusion.FULL, after_block=modules, after_middle=modules if middle else {})
    assert count(shapes(unet, *inputs(16)), "/motion/") == parameters


def test_livephoto():
    """Ten input channels, gated attention to the content in each of 16 transformers, motion modules in all stages."""
    sizes = dataclasses.replace(stable_diffusion.FULL, condition_channels=6, remat="full")
    plain = transformer_layers(sizes)
    content = {"content": partial(GatedCrossAttention, sizes.heads, reads="content")}
    unet = stable_diffusion_unet(sizes, {"space": plain["space"], **content, **plain}, motion_modules(32))
    leaves = shapes(unet, *inputs(16, condition_channels=6))
    # A layer of width C: norm 2 C, gate 1, query C^2, key and value 768 C each, out C^2 + C. Five layers of each stage.
    layers = sum(n * (2 * c + 1 + 2 * c * c + 2 * 768 * c + c) for n, c in ((5, 320), (5, 640), (6, 1280)))
    assert count(leaves, "/content/") == layers
    assert count(leaves, "^conv_condition/") == 9 * 6 * 320
    assert count(leaves, "/motion/") == 417_137_600
    assert count(leaves) == 859_520_964 + 417_137_600 + layers + 9 * 6 * 320


def test_autoencoder():
    assert count(shapes(autoencoder.AutoencoderKL(autoencoder.FULL), zeros(1, 1, 64, 64, 3))) == 83_653_863


@pytest.mark.parametrize(
    ("sizes", "parameters"), [(autoencoder_tiny.FULL, 2_445_063), (autoencoder_tiny.FULL_16, 2_458_899)]
)
def test_tiny_autoencoder(sizes, parameters):
    """The counts of diffusers' AutoencoderTiny with 4 and 16 latent channels."""
    assert count(shapes(autoencoder_tiny.AutoencoderTiny(sizes), zeros(1, 1, 64, 64, 3))) == parameters


def clip_shapes(sizes) -> dict:
    return shapes(clip.CLIP(sizes), jax.ShapeDtypeStruct((1, 77), jnp.int32), zeros(1, 224, 224, 3))


@pytest.mark.parametrize(
    ("sizes", "parameters", "text", "image"),
    [
        (clip.B32, 151_277_313, 63_165_952, 87_456_000),  # openai/clip-vit-base-patch32
        (clip.L14, 427_616_513, 123_060_480, 303_179_776),  # openai/clip-vit-large-patch14
    ],
    ids=["B/32", "L/14"],
)
def test_clip(sizes, parameters, text, image):
    leaves = clip_shapes(sizes)
    assert count(leaves) == parameters
    assert count(leaves, "^text/encoder/") == text
    assert count(leaves, "^image/encoder/") == image


@pytest.mark.parametrize(
    ("sizes", "registers", "parameters"),
    [
        (dinov2.SMALL, dinov2.SMALL_REGISTERS, 22_056_576),
        (dinov2.BASE, dinov2.BASE_REGISTERS, 86_580_480),
        (dinov2.LARGE, dinov2.LARGE_REGISTERS, 304_368_640),
        (dinov2.GIANT, dinov2.GIANT_REGISTERS, 1_136_480_768),
    ],
)
def test_dinov2(sizes, registers, parameters):
    assert count(shapes(dinov2.DINOv2(sizes), zeros(1, 224, 224, 3))) == parameters
    assert count(shapes(dinov2.DINOv2(registers), zeros(1, 224, 224, 3))) == parameters + 4 * sizes.features


TABLES = {
    "unet": (
        stable_diffusion.SHARDING,
        lambda: shapes(
            stable_diffusion_unet(
                dataclasses.replace(stable_diffusion.FULL, condition_channels=6), after_block=motion_modules(32)
            ),
            *inputs(2, condition_channels=6),
        ),
    ),
    "autoencoder": (
        autoencoder.SHARDING,
        lambda: shapes(autoencoder.AutoencoderKL(autoencoder.FULL), zeros(1, 1, 64, 64, 3)),
    ),
    "tiny autoencoder": (
        autoencoder_tiny.SHARDING,
        lambda: shapes(autoencoder_tiny.AutoencoderTiny(autoencoder_tiny.FULL), zeros(1, 1, 64, 64, 3)),
    ),
    "clip": (clip.SHARDING, lambda: shapes(clip.CLIPText(clip.FULL), jax.ShapeDtypeStruct((1, 77), jnp.int32))),
    "clip B/32": (clip.SHARDING, lambda: clip_shapes(clip.B32)),
    "clip L/14": (clip.SHARDING, lambda: clip_shapes(clip.L14)),
    "dinov2": (dinov2.SHARDING, lambda: shapes(dinov2.DINOv2(dinov2.GIANT), zeros(1, 224, 224, 3))),
}


@pytest.mark.parametrize("name", TABLES)
def test_sharding_tables_fit_and_shard_what_is_large(name):
    table, leaves = TABLES[name]
    for path, leaf in leaves().items():
        spec = next(spec for pattern, spec in table if re.search(pattern, f"denoiser/{path}"))
        assert len(spec) <= len(leaf.shape), path
        for axis, size in zip(spec, leaf.shape, strict=False):
            assert axis is None or size % 8 == 0, path
        if math.prod(leaf.shape) > 2**20:
            assert "fsdp" in spec, path
