"""Codecs between pixels and latents: Stable Diffusion's autoencoder, and an orthonormal transform without weights.

A codec has `init(key) -> params`, `encode(params, x) -> z`, `decode(params, z) -> x`, `latent_channels`, and `factor`,
the number of pixels per latent in height and width. Pixels x are [B T H W 3] in [-1, 1]; latents z are [B T h w C] and
scaled to about unit variance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Params
from jaxmotion.nn.attention import Attention
from jaxmotion.nn.axes import over_space
from jaxmotion.nn.convolution import Conv, Downsample, GroupNorm, Upsample
from jaxmotion.nn.linear import Linear
from jaxmotion.parallel import sharding

Result = TypeVar("Result")


@register()
@dataclasses.dataclass(frozen=True)
class KLSizes:
    """Sizes of Stable Diffusion's autoencoder.

    latent_channels: channels of a latent.
    features: channels of each stage, from the finest to the coarsest. Each stage has half the height and width.
    blocks_per_stage: residual blocks of a stage of the encoder; the decoder has one more.
    groups: groups of the group norms.
    scaling: factor that gives latents about unit variance.
    """

    latent_channels: int = 4
    features: tuple[int, ...] = (128, 256, 512, 512)
    blocks_per_stage: int = 2
    groups: int = 32
    scaling: float = 0.18215


FULL = KLSizes()
TINY = KLSizes(features=(16, 32), blocks_per_stage=1, groups=4)


class AutoencoderKL(nn.Module):
    """The variational autoencoder of latent diffusion, frame by frame. Latents here are not scaled.

    Source: "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv:2112.10752), appendix G; the public
    Stable Diffusion 1.5 weights.
    """

    sizes: KLSizes

    def setup(self):
        channels = self.sizes.latent_channels
        self.encoder = Encoder(self.sizes)
        self.moments = Linear(2 * channels)
        self.latents = Linear(channels)
        self.decoder = Decoder(self.sizes)

    def encode_moments(
        self, x: Float[Array, "B T H W 3"]
    ) -> tuple[Float[Array, "B T h w C"], Float[Array, "B T h w C"]]:
        """Mean and logarithm of the variance of the latents of pixels in [-1, 1]."""
        mean, log_variance = jnp.split(self.moments(self.encoder(x)), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels, about in [-1, 1], of latents."""
        return self.decoder(self.latents(z))

    def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """Pixels to the mean of their latents and back."""
        return self.decode(self.encode_moments(x)[0])


class Encoder(nn.Module):
    """Pixels to features at 1 / 2^(stages - 1) of the size, twice as many as the latents' channels."""

    sizes: KLSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T h w D"]:
        sizes = self.sizes
        x = Conv(sizes.features[0], name="conv_in")(x)
        for stage, features in enumerate(sizes.features):
            for i in range(sizes.blocks_per_stage):
                x = ResBlock(features, sizes.groups, name=f"down_{stage}_resnet_{i}")(x)
            if stage < len(sizes.features) - 1:
                x = Downsample(padding=(0, 1), name=f"down_{stage}_downsample")(x)
        x = Middle(sizes.groups, name="middle")(x)
        x = nn.silu(GroupNorm(sizes.groups, 1e-6, name="norm_out")(x))
        return Conv(2 * sizes.latent_channels, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to pixels."""

    sizes: KLSizes

    @nn.compact
    def __call__(self, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        sizes = self.sizes
        x = Conv(sizes.features[-1], name="conv_in")(z)
        x = Middle(sizes.groups, name="middle")(x)
        for up, features in enumerate(reversed(sizes.features)):
            for i in range(sizes.blocks_per_stage + 1):
                x = ResBlock(features, sizes.groups, name=f"up_{up}_resnet_{i}")(x)
            if up < len(sizes.features) - 1:
                x = Upsample(name=f"up_{up}_upsample")(x)
        x = nn.silu(GroupNorm(sizes.groups, 1e-6, name="norm_out")(x))
        return Conv(3, name="conv_out")(x)


class Middle(nn.Module):
    """A residual block, attention of one head over the pixels of a frame, a residual block."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T h w C"]) -> Float[Array, "B T h w C"]:
        x = ResBlock(x.shape[-1], self.groups, name="resnet_in")(x)
        h = GroupNorm(self.groups, 1e-6, name="norm")(x)
        x = x + over_space(Attention(1, bias=True, name="attention"), h)
        return ResBlock(x.shape[-1], self.groups, name="resnet_out")(x)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W D"]:
        h = nn.silu(GroupNorm(self.groups, 1e-6, name="norm_in")(x))
        h = Conv(self.features, name="conv_in")(h)
        h = nn.silu(GroupNorm(self.groups, 1e-6, name="norm_out")(h))
        h = Conv(self.features, name="conv_out")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, name="shortcut")(x)
        return x + h


@register()
@dataclasses.dataclass(frozen=True)
class KLCodec:
    """Stable Diffusion's autoencoder as a codec.

    frames_at_once: how many frames pass the network together on each device, to bound the memory; 0 is all of them.
    """

    sizes: KLSizes = FULL
    frames_at_once: int = 0

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.sizes.latent_channels

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent in height and width."""
        return 2 ** (len(self.sizes.features) - 1)

    def num_latent_frames(self, frames: int) -> int:
        """As many latents as frames."""
        return frames

    @property
    def sharding(self) -> tuple[tuple[str, P], ...]:
        """Sharding rules of its parameters."""
        return SHARDING

    def init(self, key: Array) -> Params:
        """Random parameters."""
        pixels = jnp.zeros((1, 1, self.spatial_compression, self.spatial_compression, 3))
        return AutoencoderKL(self.sizes).init(key, pixels)["params"]

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B T h w C"]:
        """Scaled latents of pixels: their mean, or a sample when a key is given."""
        check_pixels(x, self.spatial_compression)

        def moments(frames: Array) -> PyTree[Array]:
            return AutoencoderKL(self.sizes).apply({"params": params}, frames, method="encode_moments")

        z, log_variance = self._frame_by_frame(moments, x)
        if key is not None:
            z = z + jnp.exp(0.5 * log_variance) * jax.random.normal(key, z.shape, z.dtype)
        return z * self.sizes.scaling

    def decode(self, params: Params, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels of scaled latents."""

        def pixels(frames: Array) -> PyTree[Array]:
            return AutoencoderKL(self.sizes).apply({"params": params}, frames, method="decode")

        return self._frame_by_frame(pixels, z / self.sizes.scaling)

    def _frame_by_frame(self, network: Callable[[Array], Result], x: Array) -> Result:
        frames = rearrange(x, "B T h w c -> (B T) 1 h w c")
        y = sharding.map_rows(network, frames, self.frames_at_once)
        return jax.tree.map(lambda y: rearrange(y, "(B T) 1 h w c -> B T h w c", B=x.shape[0]), y)


SHARDING = (
    (r"resnet\w*/conv_(in|out)/kernel$", P(None, None, "fsdp")),
    (r"/conv/kernel$", P(None, None, "fsdp")),
    (r"/(query|key|value)/kernel$", P("fsdp", "tensor")),
    (r"/shortcut/kernel$", P("fsdp")),
    (r"/out/kernel$", P("tensor", "fsdp")),
    (r".*", P()),
)


def check_pixels(x: Array, factor: int) -> None:
    """Raises ValueError unless x is [B T H W 3] with a height and width that the codec can take."""
    if x.ndim != 5 or x.shape[-1] != 3:
        raise ValueError(f"Pixels are {list(x.shape)}; a codec needs [B T H W 3].")
    for name, size in zip(("high", "wide"), x.shape[2:4], strict=True):
        if size % factor:
            fits = max(size // factor, 1) * factor
            raise ValueError(f"Frames are {size} px {name}; the codec needs a multiple of {factor}, e.g. {fits}.")
