"""DINOv2 (arXiv:2304.07193): what an image shows, as one vector per patch of 14 x 14 pixels and one for the whole."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.models.patches import patches, resized_positions, standardise
from jaxmotion.nn.chain import Layer, Stack
from jaxmotion.nn.feedforward import MLP, GatedMLP
from jaxmotion.nn.linear import Linear
from jaxmotion.nn.transformer import EncoderLayer, LayerNorm

SHARDING = (
    (r"/(query|key|value)/kernel$", P(None, "fsdp", "tensor")),
    (r"/mlp/linear_in/kernel$", P(None, "fsdp")),
    (r"/(out|linear_out)/kernel$", P(None, "tensor", "fsdp")),
    (r"(^|/)patches/kernel$", P(None, "fsdp")),
    (r"(^|/)positions$", P(None, "fsdp")),
    (r".*", P()),
)


@register()
@dataclasses.dataclass(frozen=True)
class DINOv2Sizes:
    """Sizes of an image encoder.

    image_size: side in pixels of the images to show it.
    patch: side of a patch in pixels.
    grid: patches per side of the square images whose position embedding is stored; others are interpolated.
    features, depth, heads: width, number of layers, attention heads.
    hidden: width inside the feedforward layers.
    gated: whether these are SwiGLU, as in the giant.
    registers: number of register tokens (arXiv:2309.16588).
    remat: which activations are kept for the backward pass (`nn/chain.py`), layer by layer.
    """

    image_size: int = 224
    patch: int = 14
    grid: int = 37
    features: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    gated: bool = False
    registers: int = 0
    remat: str = "none"


SMALL = DINOv2Sizes(features=384, depth=12, heads=6, hidden=1536)
BASE = DINOv2Sizes()
LARGE = DINOv2Sizes(features=1024, depth=24, heads=16, hidden=4096)
GIANT = DINOv2Sizes(features=1536, depth=40, heads=24, hidden=4096, gated=True)
SMALL_REGISTERS = dataclasses.replace(SMALL, registers=4)
BASE_REGISTERS = dataclasses.replace(BASE, registers=4)
LARGE_REGISTERS = dataclasses.replace(LARGE, registers=4)
GIANT_REGISTERS = dataclasses.replace(GIANT, registers=4)
FULL = BASE
TINY = DINOv2Sizes(image_size=32, patch=8, grid=4, features=64, depth=2, heads=4, hidden=128)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class DINOv2(nn.Module):
    """Normalised images (`normalise`) to normed tokens: one of the whole, the registers, the patches row by row.

    Height and width must be multiples of a patch; they need not be those of training.

    The parameter `mask_token` takes part in pre-training only; it is kept so that public weights come and go whole.
    """

    SHARDING: ClassVar = SHARDING
    sizes: DINOv2Sizes

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B L D"]:
        sizes = self.sizes
        x = Linear(sizes.features, name="patches")(patches(image, sizes.patch))
        B, h, w, D = x.shape
        initial = nn.initializers.normal(0.02)
        cls = self.param("cls", initial, (D,))
        registers = self.param("registers", initial, (sizes.registers, D)) if sizes.registers else jnp.zeros((0, D))
        self.param("mask_token", nn.initializers.zeros, (D,))
        positions = self.param("positions", initial, (1 + sizes.grid**2, D))

        grid = positions[1:].reshape(sizes.grid, sizes.grid, D)
        x = x + resized_positions(grid, (h, w), antialias=sizes.registers > 0).astype(x.dtype)
        first = jnp.concatenate([(cls + positions[0])[None], registers]).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (B, *first.shape)), rearrange(x, "B h w D -> B (h w) D")], axis=1)

        mlp: Layer = (
            partial(GatedMLP, sizes.hidden, nn.silu, gate_first=True) if sizes.gated else partial(MLP, sizes.hidden)
        )
        layer = partial(EncoderLayer, sizes.heads, mlp, epsilon=1e-6, scaled=True)
        x = Stack(layer, sizes.depth, sizes.remat, name="stack")(x)
        return LayerNorm(1e-6, name="norm_out")(x)


def normalise(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Pixels in [-1, 1] as the encoder was trained on: with the mean and deviation of ImageNet taken out."""
    return standardise(image, MEAN, STD)
