"""The sizes of a network, read from the shapes of a file: every side of every array has a length of its own here.

At the published sizes many sides are equal, and a reader that takes the wrong axis is right by chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxmotion.foundation.types import Condition
from jaxmotion.models import (
    autoencoder,
    autoencoder3d,
    autoencoder_tiny,
    autoencoder_tiny3d,
    clip,
    cogvideox,
    dinov2,
    t5,
)
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import stable_diffusion_unet
from jaxmotion.models.unet import UNetSizes
from jaxmotion.parallel.sharding import paths
from jaxmotion.weights.checkpoint_format import Infer
from jaxmotion.weights.tables.autoencoder import infer_autoencoder_kl
from jaxmotion.weights.tables.autoencoder3d import infer_autoencoder3d
from jaxmotion.weights.tables.autoencoder_tiny import infer_autoencoder_tiny
from jaxmotion.weights.tables.autoencoder_tiny3d import infer_tiny_decoder3d
from jaxmotion.weights.tables.clip import infer_clip_image, infer_clip_text
from jaxmotion.weights.tables.cogvideox import infer_cogvideox
from jaxmotion.weights.tables.dinov2 import infer_dinov2
from jaxmotion.weights.tables.stable_diffusion import infer_unet
from jaxmotion.weights.tables.t5 import infer_t5

IDS, TIME = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1,), jnp.int32)


def pixels(side: int, *frames: int) -> tuple[jax.Array]:
    return (jnp.zeros((1, *frames, side, side, 3)),)


def transformer(**changes) -> tuple[nn.Module, tuple]:
    sizes = cogvideox.CogVideoXSizes(3, 2, 12, 7, 5, (1, 2), 10, 6, time_features=16, grid=(1, 1, 1))
    sizes = dataclasses.replace(sizes, pad_to=1, **{"positions": "rotary", **changes})
    condition = Condition(tokens={"text": jnp.zeros((1, 1, sizes.text_length, sizes.text_features))})
    return cogvideox.CogVideoX(sizes), (jnp.zeros((1, 1, 2, 2, sizes.in_channels)), TIME, condition)


def unet(motion: bool) -> tuple[nn.Module, tuple]:
    sizes = UNetSizes(5, 7, 6, (8, 12), 1, (True, False), heads=2, groups=2, expansion=3)
    after = {"motion": partial(MotionModule, 2, 2, expansion=3)} if motion else {}
    shape = (1, 1, sizes.stride, sizes.stride)
    condition = Condition(channels=(jnp.zeros((*shape, 6)),), tokens={"text": jnp.zeros((1, 1, 1, 10))})
    return stable_diffusion_unet(sizes, after_block=after), (jnp.zeros((*shape, 5)), TIME, condition)


def image_encoder(gated: bool) -> tuple[nn.Module, tuple]:
    sizes = dinov2.DINOv2Sizes(15, 3, 5, 8, 2, 2, 14, gated=gated, registers=4)
    return dinov2.DINOv2(sizes), pixels(15)


NETWORKS: dict[str, tuple[Infer, Callable[[], tuple[nn.Module, tuple]]]] = {
    "clip text": (infer_clip_text, lambda: (clip.CLIPText(clip.CLIPTextSizes(17, 9, 8, 3, 2, 22)), (IDS,))),
    "clip image": (infer_clip_image, lambda: (clip.CLIPVision(clip.CLIPVisionSizes(15, 3, 8, 2, 2, 22)), pixels(15))),
    "t5": (infer_t5, lambda: (t5.T5Encoder(t5.T5Sizes(17, 9, 10, 3, 2, 7, 22, 12)), (IDS,))),
    "dinov2": (infer_dinov2, partial(image_encoder, False)),
    "dinov2 gated": (infer_dinov2, partial(image_encoder, True)),
    "cogvideox": (infer_cogvideox, transformer),
    "cogvideox learned": (infer_cogvideox, partial(transformer, positions="rotary_and_learned")),
    "cogvideox offset": (infer_cogvideox, partial(transformer, offset=True)),
    "unet": (infer_unet, partial(unet, False)),
    "unet with motion": (infer_unet, partial(unet, True)),
    "vae": (
        infer_autoencoder_kl,
        lambda: (autoencoder.AutoencoderKL(autoencoder.KLSizes(5, (4, 6, 8), 3, groups=2)), pixels(4, 1)),
    ),
    "vae 3d": (
        infer_autoencoder3d,
        lambda: (
            autoencoder3d.Autoencoder3D(autoencoder3d.Autoencoder3DSizes(5, (4, 6, 8), 1, 2, groups=2)),
            pixels(4, 1),
        ),
    ),
    "tiny vae": (
        infer_autoencoder_tiny,
        lambda: (
            autoencoder_tiny.AutoencoderTiny(autoencoder_tiny.AutoencoderTinySizes(5, 6, (1, 2, 3))),
            pixels(4, 1),
        ),
    ),
    "tiny decoder 3d": (
        infer_tiny_decoder3d,
        lambda: (
            autoencoder_tiny3d.TinyDecoder3D(
                autoencoder_tiny3d.TinyDecoder3DSizes(5, (12, 10, 8, 6), (False, True, False), 2)
            ),
            (jnp.zeros((1, 2, 1, 1, 5)),),
        ),
    ),
}


def shapes_of(network: nn.Module, inputs: tuple) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {path: tuple(leaf.shape) for path, leaf in paths(tree).items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_of_some_shapes_has_these_shapes(name: str) -> None:
    infer, make = NETWORKS[name]
    seen = shapes_of(*make())
    assert shapes_of(*infer(seen)) == seen
