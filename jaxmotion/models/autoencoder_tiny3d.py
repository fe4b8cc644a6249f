"""The tiny video decoder: latents of CogVideoX to pixels in a small part of the time, for previews.

Every block looks at one frame and at what it saw of the frame before, so frames can be decoded in any number of pieces.
Two of its stages make two frames of one; the first three frames, which come of no latent before, are thrown away.

Source: the public code and weights of TAEHV (github.com/madebyollin/taehv), of which `taecvx` is for CogVideoX.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.models.autoencoder_tiny import LATENT_RANGE
from jaxmotion.nn.convolution import Conv
from jaxmotion.nn.linear import Linear

SHARDING = ((r".*", P()),)
"""About ten million parameters: every device has them all."""


@dataclasses.dataclass(frozen=True)
class TinyDecoder3DSizes:
    """Sizes of a tiny video decoder.

    latent_channels: channels of a latent.
    features: channels after the first layer and after each stage; each stage doubles height and width.
    doublings: for each stage, whether it doubles the number of frames too.
    blocks: blocks of each stage.
    """

    latent_channels: int = 16
    features: tuple[int, ...] = (256, 128, 64, 64)
    doublings: tuple[bool, ...] = (False, True, True)
    blocks: int = 3

    @property
    def spatial_compression(self) -> int:
        """Frames that a latent becomes."""
        return 2 ** sum(self.doublings)


FULL = TinyDecoder3DSizes()


class TinyDecoder3D(nn.Module):
    """Latents, scaled as the transformer has them, to pixels. Layers bear the numbers that they have in the files."""

    SHARDING: ClassVar = SHARDING
    sizes: TinyDecoder3DSizes

    @nn.compact
    def __call__(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels about in [-1, 1]. An even number of latents gives all frames, an odd one all but the first three."""
        sizes, number = self.sizes, 3
        x = LATENT_RANGE * jnp.tanh(z / LATENT_RANGE)
        x = nn.relu(Conv(sizes.features[0], name="layer_1")(x))
        for features, doubled in zip(sizes.features[1:], sizes.doublings, strict=True):
            for index in range(sizes.blocks):
                x = MemoryBlock(name=f"layer_{number + index}")(x)
            number += sizes.blocks
            x = repeat(x, "B T h w C -> B T (h p) (w q) C", p=2, q=2)
            x = Grow(2 if doubled else 1, name=f"layer_{number + 1}")(x)
            x = Conv(features, bias=False, name=f"layer_{number + 2}")(x)
            number += 3
        x = 2 * Conv(3, name=f"layer_{number + 1}")(nn.relu(x)) - 1
        return x if z.shape[1] % 2 == 0 else x[:, sizes.spatial_compression - 1 :]


class Grow(nn.Module):
    """A linear layer that makes so many frames of each."""

    times: int

    @nn.compact
    def __call__(self, x: Float[Array, "B t H W C"]) -> Float[Array, "B T H W C"]:
        x = Linear(self.times * x.shape[-1], bias=False, name="grow")(x)
        return rearrange(x, "B T H W (n C) -> B (T n) H W C", n=self.times)


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it (zeros before the first), plus the frame, and ReLU."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))[:, :-1]
        h = nn.relu(Conv(x.shape[-1], name="conv_in")(jnp.concatenate([x, before], axis=-1)))
        h = nn.relu(Conv(x.shape[-1], name="conv_middle")(h))
        return nn.relu(x + Conv(x.shape[-1], name="conv_out")(h))
