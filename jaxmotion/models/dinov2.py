"""DINOv2 (arXiv:2304.07193): what an image shows, as one vector per patch of 14 x 14 pixels and one for the whole."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

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
        x = Linear(sizes.features, name="patches")(_patches(image, sizes.patch))
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
    scale, shift = 0.5 / np.array(STD), (0.5 - np.array(MEAN)) / np.array(STD)
    return image * scale.astype(image.dtype) + shift.astype(image.dtype)


def resized_positions(
    positions: Float[Array, "G G D"], size: tuple[int, int], antialias: bool
) -> Float[Array, "h w D"]:
    """The grid of position embeddings at another size, bicubic, in float32.

    Source: the public code of DINOv2 as Hugging Face runs it: plain bicubic without registers, antialiased with.
    """
    if size == positions.shape[:2]:
        return positions
    rows = bicubic_weights(positions.shape[0], size[0], antialias)
    columns = bicubic_weights(positions.shape[1], size[1], antialias)
    return jnp.einsum("hG,wg,GgD->hwD", rows, columns, positions.astype(jnp.float32))


def bicubic_weights(old: int, new: int, antialias: bool) -> Float[np.ndarray, "new old"]:
    """How much each of `old` samples counts in each of `new`, sample centres at (i + 0.5) / length, rows summing to 1.

    Source: cubic convolution (Keys, 1981), with a = -0.75 and clamped borders, or antialiased with a = -0.5, the kernel
    stretched by the scale when shrinking and cut at the borders: the two forms PyTorch has.
    """
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.zeros((new, old))
    if antialias:
        stretch = max(scale, 1.0)
        weights = _cubic((np.arange(old)[None] - centre[:, None]) / stretch, -0.5)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    first = np.floor(centre).astype(int)
    for tap in range(-1, 3):
        source = np.clip(first + tap, 0, old - 1)
        weights[np.arange(new), source] += _cubic(centre - (first + tap), -0.75)
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _patches(image: Float[Array, "B H W 3"], patch: int) -> Float[Array, "B h w P"]:
    """Flattened patches; a linear layer on them is the strided convolution of the public weights."""
    for name, size in zip(("high", "wide"), image.shape[1:3], strict=True):
        if size % patch or size == 0:
            fits = max(size // patch, 1) * patch
            raise ValueError(f"The image is {size} px {name}; the encoder needs a multiple of {patch}, e.g. {fits}.")
    return rearrange(image, "B (h p) (w q) c -> B h w (p q c)", p=patch, q=patch)
