"""CogVideoX's autoencoder (arXiv:2408.06072, section 2.1): clips to latents with a quarter of the frames and back.

It is causal: a frame is made of itself and of frames before it, so a clip passes it in chunks, and each convolution
remembers the last frames of the chunk before (`CausalCache`). Norms see one chunk only, so what comes out depends on
where the chunks end. They end here where the public code ends them: after every 8 frames, or 2 latents, counted from
the end of the clip, and the first chunk takes what is left.

Source: `AutoencoderKLCogVideoX` of diffusers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax.linen import dtypes
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.nn.chain import Layer
from jaxmotion.nn.convolution import Downsample, GroupNorm, Upsample
from jaxmotion.nn.correlation import backend_name, correlate
from jaxmotion.nn.linear import UNIFORM, ZEROS, Linear

EPSILON = 1e-6


@register()
@dataclasses.dataclass(frozen=True)
class Autoencoder3DSizes:
    """Sizes of the autoencoder.

    features: channels of each stage, from the finest to the coarsest. Each stage has half the height and width.
    halvings: in how many of the stages, from the finest on, the number of frames is halved too.
    blocks_per_stage: residual blocks of a stage of the encoder; the decoder has one more.
    groups: groups of the group norms.
    scaling: factor that gives latents about unit variance: 1.15258426 for the weights of 2B, 0.7 for all others.
    """

    latent_channels: int = 16
    features: tuple[int, ...] = (128, 256, 256, 512)
    halvings: int = 2
    blocks_per_stage: int = 3
    groups: int = 32
    scaling: float = 0.7


FULL = Autoencoder3DSizes()
FULL_2B = dataclasses.replace(FULL, scaling=1.15258426)
TINY = Autoencoder3DSizes(latent_channels=4, features=(8, 16), halvings=1, blocks_per_stage=1, groups=2)

SHARDING = (
    (r"/conv_(in|out)/kernel$", P(None, None, None, "fsdp")),
    (r"/conv/kernel$", P(None, None, "fsdp")),
    (r".*", P()),
)


class CausalCache:
    """The last frames that each convolution has seen: `before` in the chunk before this one, `after` in this one.

    It exists while a chunk is traced, is written once by every convolution, and leaves no state in the modules.
    """

    def __init__(self, before: Mapping[str, Array]):
        self.before, self.after = before, {}


class Autoencoder3D(nn.Module):
    """Encodes and decodes one chunk of a clip. Latents here are not scaled. `tails` is empty for the first chunk."""

    sizes: Autoencoder3DSizes

    def setup(self):
        self.encoder, self.decoder = Encoder(self.sizes), Decoder(self.sizes)

    def encode(
        self, x: Float[Array, "B T H W 3"], tails: Mapping[str, Array]
    ) -> tuple[Float[Array, "B t h w D"], dict[str, Array]]:
        """Mean and logarithm of the variance, side by side, of the latents of pixels in [-1, 1]; the next tails."""
        memory = CausalCache(tails)
        return self.encoder(x, memory), memory.after

    def decode(
        self, z: Float[Array, "B t h w C"], tails: Mapping[str, Array]
    ) -> tuple[Float[Array, "B T H W 3"], dict[str, Array]]:
        """Pixels, about in [-1, 1], of latents; the next tails."""
        memory = CausalCache(tails)
        return self.decoder(z, memory), memory.after

    def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """A first chunk to the mean of its latents and back."""
        moments, _ = self.encode(x, {})
        return self.decode(jnp.split(moments, 2, axis=-1)[0], {})[0]


class Encoder(nn.Module):
    """Pixels to twice as many channels as latents have."""

    sizes: Autoencoder3DSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W 3"], tails: CausalCache) -> Float[Array, "B t h w D"]:
        sizes = self.sizes
        norm = functools.partial(GroupNormPerChunk, sizes.groups)
        x = CausalConv(sizes.features[0], name="conv_in")(x, tails)
        for stage, features in enumerate(sizes.features):
            for i in range(sizes.blocks_per_stage):
                x = CausalBlock(features, norm, name=f"down_{stage}_resnet_{i}")(x, tails)
            if stage < len(sizes.features) - 1:
                x = average_pool_time(x) if stage < sizes.halvings else x
                x = Downsample(padding=(0, 1), name=f"down_{stage}_downsample")(x)
        for i in range(2):
            x = CausalBlock(sizes.features[-1], norm, name=f"middle_resnet_{i}")(x, tails)
        x = nn.silu(norm(name="norm_out")(x))
        return CausalConv(2 * sizes.latent_channels, name="conv_out")(x, tails)


class Decoder(nn.Module):
    """Latents to pixels; every norm sees the latents."""

    sizes: Autoencoder3DSizes

    @nn.compact
    def __call__(self, z: Float[Array, "B t h w C"], tails: CausalCache) -> Float[Array, "B T H W 3"]:
        sizes = self.sizes
        norm = functools.partial(LatentNorm, sizes.groups)
        x = CausalConv(sizes.features[-1], name="conv_in")(z, tails)
        for i in range(2):
            x = CausalBlock(sizes.features[-1], norm, name=f"middle_resnet_{i}")(x, tails, z)
        for up, features in enumerate(reversed(sizes.features)):
            for i in range(sizes.blocks_per_stage + 1):
                x = CausalBlock(features, norm, name=f"up_{up}_resnet_{i}")(x, tails, z)
            if up < len(sizes.features) - 1:
                x = double_time(x) if up < sizes.halvings else x
                x = Upsample(name=f"up_{up}_upsample")(x)
        x = nn.silu(norm(name="norm_out")(x, z))
        return CausalConv(3, name="conv_out")(x, tails)


class CausalBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice, plus the input. The norms are called with `arguments`, too."""

    features: int
    norm: Layer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W C"], tails: CausalCache, *arguments: Array
    ) -> Float[Array, "B T H W D"]:
        h = nn.silu(self.norm(name="norm_in")(x, *arguments))
        h = CausalConv(self.features, name="conv_in")(h, tails)
        h = nn.silu(self.norm(name="norm_out")(h, *arguments))
        h = CausalConv(self.features, name="conv_out")(h, tails)
        if x.shape[-1] != self.features:
            x = Linear(self.features, name="shortcut")(x)
        return x + h


class CausalConv(nn.Module):
    """A 3 x 3 x 3 convolution that sees the two frames before each frame.

    Before the first frame of a clip stand two copies of it. Height and width are padded with zeros.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], tails: CausalCache) -> Float[Array, "B T H W D"]:
        kernel = self.param("kernel", UNIFORM, (3, 3, 3, x.shape[-1], self.features))
        bias = self.param("bias", ZEROS, (self.features,))
        x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=None)
        name = "/".join(self.path)
        tail = tails.before.get(name)
        x = jnp.concatenate([*([x[:, :1]] * 2 if tail is None else [tail]), x], axis=1)
        tails.after[name] = x[:, -2:]
        return _correlate_frames(x, kernel) + bias


class GroupNormPerChunk(nn.Module):
    """Group normalisation over all frames of a chunk."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        return GroupNorm(self.groups, EPSILON, axes=(-4, -3, -2), name="norm")(x)


class LatentNorm(nn.Module):
    """Group normalisation over all frames of a chunk, scaled and shifted by what the latents say at each place.

    Source: MoVQ (arXiv:2209.09002), section 3.2; in time as in CogVideoX, the first of an odd number of frames apart.
    """

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], z: Float[Array, "B t h w D"]) -> Float[Array, "B T H W C"]:
        scale, shift = (Linear(x.shape[-1], name=name)(z) for name in ("scale", "shift"))
        y = GroupNorm(self.groups, EPSILON, axes=(-4, -3, -2), name="norm")(x)
        return y * _resize(scale, x.shape[1:4]) + _resize(shift, x.shape[1:4])


def average_pool_time(x: Float[Array, "B T H W C"]) -> Float[Array, "B t H W C"]:
    """Means of neighbouring frames; the first of an odd number of frames stays alone."""
    alone = x.shape[1] % 2
    pairs = reduce(x[:, alone:], "B (t p) H W C -> B t H W C", "mean", p=2)
    return jnp.concatenate([x[:, :alone], pairs], axis=1)


def double_time(x: Float[Array, "B t H W C"]) -> Float[Array, "B T H W C"]:
    """Each frame twice; the first of an odd number of frames once."""
    alone = x.shape[1] % 2
    return jnp.concatenate([x[:, :alone], jnp.repeat(x[:, alone:], 2, axis=1)], axis=1)


def _resize(x: Float[Array, "B t h w C"], shape: Sequence[int]) -> Float[Array, "B T H W C"]:
    """Nearest places in time, height and width; the first of an odd number of frames stays apart from the rest."""
    T, H, W = shape
    if T > 1 and T % 2:
        parts = _resize(x[:, :1], (1, H, W)), _resize(x[:, 1:], (T - 1, H, W))
        return jnp.concatenate(parts, axis=1)
    for axis, size in ((1, T), (2, H), (3, W)):
        nearest = np.arange(size) * x.shape[axis] // size
        x = x if size == x.shape[axis] else jnp.take(x, nearest, axis=axis)
    return x


def _correlate_frames(x: Float[Array, "B S H W C"], kernel: Float[Array, "3 3 3 C D"]) -> Float[Array, "B T H W D"]:
    """The correlation of a clip with a kernel, T = S - 2; on CPU as three of images, which are fast there."""
    if backend_name() != "cpu":
        padding = ((0, 0), (1, 1), (1, 1))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
    B, S, H, W, C = x.shape
    images = [x[:, i : S - 2 + i].reshape(-1, H, W, C) for i in range(3)]
    parts = [correlate(image, kernel[i]) for i, image in enumerate(images)]
    return (parts[0] + parts[1] + parts[2]).reshape(B, S - 2, H, W, -1)
