"""The tiny autoencoder: latents of Stable Diffusion to pixels and back in milliseconds, for previews.

Source: the public code and weights of TAESD (github.com/madebyollin/taesd), as `AutoencoderTiny` of diffusers.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import repeat
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.types import Params
from jaxmotion.models.autoencoder import check_pixels
from jaxmotion.nn.convolution import Conv

SHARDING = ((r".*", P()),)
"""Less than three million parameters: every device has them all."""

LATENT_RANGE = 3.0
"""The decoder bends latents into plus or minus this; those of the pictures it was trained on are well inside."""


@dataclasses.dataclass(frozen=True)
class AutoencoderTinySizes:
    """Sizes of a tiny autoencoder.

    latent_channels: channels of a latent.
    features: channels of every layer between pixels and latents.
    blocks: residual blocks of each stage, from the finest to the coarsest. Each stage has half the height and width.
    """

    latent_channels: int = 4
    features: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)


FULL = AutoencoderTinySizes()
FULL_16 = dataclasses.replace(FULL, latent_channels=16)
"""For the latents of Stable Diffusion 3 or of FLUX."""
TINY = AutoencoderTinySizes(features=8, blocks=(1, 2))


class AutoencoderTiny(nn.Module):
    """Pixels to latents, which are scaled already, and back, frame by frame.

    Layers bear the numbers that they have in the public files, which count activations and upsamplings too.
    """

    SHARDING: ClassVar = SHARDING
    sizes: AutoencoderTinySizes

    def setup(self):
        self.encoder = Encoder(self.sizes)
        self.decoder = Decoder(self.sizes)

    def encode(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T h w C"]:
        """Latents of pixels in [-1, 1]."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels, about in [-1, 1], of latents."""
        return self.decoder(z)

    def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """Pixels to latents and back."""
        return self.decode(self.encode(x))


class Encoder(nn.Module):
    """Pixels to latents at 1 / 2^(stages - 1) of the size."""

    sizes: AutoencoderTinySizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T h w C"]:
        sizes, number = self.sizes, 0
        x = (x + 1) / 2
        for stage, blocks in enumerate(sizes.blocks):
            x = Conv(sizes.features, stride=2 if stage else 1, bias=stage == 0, name=f"layer_{number}")(x)
            for i in range(blocks):
                x = Block(name=f"layer_{number + 1 + i}")(x)
            number += 1 + blocks
        return Conv(sizes.latent_channels, name=f"layer_{number}")(x)


class Decoder(nn.Module):
    """Latents to pixels."""

    sizes: AutoencoderTinySizes

    @nn.compact
    def __call__(self, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        sizes, number = self.sizes, 2
        x = LATENT_RANGE * jnp.tanh(z / LATENT_RANGE)
        x = nn.relu(Conv(sizes.features, name="layer_0")(x))
        *coarse, finest = reversed(sizes.blocks)
        for blocks in coarse:
            for i in range(blocks):
                x = Block(name=f"layer_{number + i}")(x)
            x = repeat(x, "B T h w C -> B T (h p) (w q) C", p=2, q=2)
            x = Conv(sizes.features, bias=False, name=f"layer_{number + blocks + 1}")(x)
            number += blocks + 2
        for i in range(finest):
            x = Block(name=f"layer_{number + i}")(x)
        return 2 * Conv(3, name=f"layer_{number + finest}")(x) - 1


class Block(nn.Module):
    """Three convolutions with ReLU between them, plus the input, and ReLU."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        h = nn.relu(Conv(x.shape[-1], name="conv_in")(x))
        h = nn.relu(Conv(x.shape[-1], name="conv_middle")(h))
        return nn.relu(x + Conv(x.shape[-1], name="conv_out")(h))


@dataclasses.dataclass(frozen=True)
class TinyCodec:
    """The tiny autoencoder as a codec: its latents are those of `KLCodec`, about, and either can decode the other's."""

    sizes: AutoencoderTinySizes = FULL

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.sizes.latent_channels

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent in height and width."""
        return 2 ** (len(self.sizes.blocks) - 1)

    @property
    def sharding(self) -> tuple[tuple[str, P], ...]:
        """Sharding rules of its parameters."""
        return SHARDING

    def init(self, key: Array) -> Params:
        """Random parameters."""
        pixels = jnp.zeros((1, 1, self.spatial_compression, self.spatial_compression, 3))
        return AutoencoderTiny(self.sizes).init(key, pixels)["params"]

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B T h w C"]:
        """Scaled latents of pixels; there is one only, so the key is not used."""
        check_pixels(x, self.spatial_compression)
        z: Array = AutoencoderTiny(self.sizes).apply({"params": params}, x, method="encode")  # pyright: ignore
        return z

    def decode(self, params: Params, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels of scaled latents."""
        x: Array = AutoencoderTiny(self.sizes).apply({"params": params}, z, method="decode")  # pyright: ignore
        return x
