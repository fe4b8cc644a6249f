"""TAda2D: a 2-D residual network whose kernels are calibrated for every frame by what happens around it.

Source: "TAda! Temporally-Adaptive Convolutions for Video Understanding" (arXiv:2110.06178, ICLR 2022), section 3, and
the public code of its authors, whose checkpoints load by `convert.rules.tadaconv`. As published the network ends in a
mean over time and space and a linear head; here it ends in its features.

The moments of the published batch norms are constants of the parameter tree (`BatchNorm`), so that norm is one only
with published weights. Networks that start from random ones take another, which keeps no running numbers:
`PositionNorm`, or `GroupNorm` for those that look at pixels.
Not specified in the paper; we use: those norms, and the sizes other than `R50`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.nn.convolution import Conv
from jaxmotion.nn.linear import UNIFORM, Linear

LEAST_ROUTE = 8
"""Channels of a route function's middle, at least; the published sizes have more anyway."""
GROUPS, LEAST_GROUP = 32, 4
"""Groups of channels that are normalised together, at most, and channels of a group, at least."""


@register()
@dataclasses.dataclass(frozen=True)
class Stem:
    """The first convolution of every frame."""

    features: int = 64
    size: int = 7
    stride: int = 2


@register()
@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first halves height and width if the stride is 2."""

    blocks: int
    features: int
    stride: int = 2


NormName = Literal["batch", "layer", "group"]


@register()
@dataclasses.dataclass(frozen=True)
class TAda2DSizes:
    """The sizes of a TAda2D."""

    stem: Stem = Stem()
    stages: tuple[Stage, ...] = (Stage(3, 256), Stage(4, 512), Stage(6, 1024), Stage(3, 2048))
    expansion: int = 4
    """A block's features over those of its 3 x 3 convolution."""
    reduction: int = 4
    """Channels of a route function's input over those of its middle."""
    norm: NormName = "batch"
    """Which of `NORMS`."""

    def build(self) -> TAda2D:
        """The network of these sizes."""
        return TAda2D(self)


R50 = TAda2DSizes()
"""As published: 26,665,872 trained parameters. For published weights; `norm="group"` without."""
R14 = TAda2DSizes(stem=Stem(16), stages=(Stage(1, 64), Stage(1, 128), Stage(1, 256), Stage(1, 256)), norm="group")
"""R50 with a block in each stage and few features, for CPUs."""
SMALL = TAda2DSizes(
    stem=Stem(32, size=3, stride=1),
    stages=(Stage(1, 96), Stage(2, 192), Stage(2, 384, stride=1)),
    norm="layer",
)
TINY = TAda2DSizes(stem=Stem(8, size=3, stride=1), stages=(Stage(1, 32), Stage(1, 32)), norm="layer")


class BatchNorm(nn.Module):
    """Batch normalisation with the moments of its training, which are constants of the parameter tree."""

    zero: bool = False
    """Scale 0 at first, so that the branch adds nothing."""

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros if self.zero else nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, width))
        variance = jax.lax.stop_gradient(self.param("variance", nn.initializers.ones, width))
        inverse = scale * jax.lax.rsqrt(variance.astype(jnp.float32) + 1e-5)
        return (x * inverse + (bias - mean * inverse)).astype(x.dtype)


class PositionNorm(nn.Module):
    """Layer normalisation over the channels at every position."""

    zero: bool = False
    """Scale 0 at first, so that the branch adds nothing."""

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros if self.zero else nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        full = x.astype(jnp.float32)
        full = full - full.mean(-1, keepdims=True)
        full = full * jax.lax.rsqrt(jnp.square(full).mean(-1, keepdims=True) + 1e-5)
        return (full * scale + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (arXiv:1803.08494) over all frames of a clip, so that frames still differ by what happens.

    Groups have 4 channels or more, and there are 32 at most.
    """

    zero: bool = False
    """Scale 0 at first, so that the branch adds nothing."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T *P C"]) -> Float[Array, "B T *P C"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros if self.zero else nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        groups = math.gcd(GROUPS, max(width[0] // LEAST_GROUP, 1))
        full = x.astype(jnp.float32).reshape(x.shape[0], -1, groups, width[0] // groups)
        full = full - full.mean((1, 3), keepdims=True)
        full = full * jax.lax.rsqrt(jnp.square(full).mean((1, 3), keepdims=True) + 1e-5)
        return (full.reshape(x.shape) * scale + bias).astype(x.dtype)


NORMS: Mapping[NormName, type[BatchNorm] | type[PositionNorm] | type[GroupNorm]] = {
    "batch": BatchNorm,
    "layer": PositionNorm,
    "group": GroupNorm,
}


class Route(nn.Module):
    """The route function: how much each input channel counts in each frame, alpha [B T 1 1 C]; 1 at first.

    Source: arXiv:2110.06178, Eq. 4-6 (global context g, local context, alpha = 1 + F(...)).
    """

    reduction: int
    norm: NormName

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T 1 1 C"]:
        C = x.shape[-1]
        frames = x.mean((2, 3))
        clip = Linear(C, name="g")(frames.mean(1, keepdims=True))
        middle = max(C // self.reduction, LEAST_ROUTE)
        y = TimeConv(middle, name="a")(frames + clip)
        y = nn.relu(NORMS[self.norm](name="bn")(y))
        alpha = TimeConv(C, bias=False, kernel_init=nn.initializers.zeros, name="b")(y) + 1
        return alpha[:, :, None, None]


class TimeConv(nn.Module):
    """A convolution of three frames, zeros before the first and after the last."""

    features: int
    bias: bool = True
    kernel_init: nn.initializers.Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        frames = x.shape[1]
        three = jnp.concatenate([padded[:, start : start + frames] for start in range(3)], -1)
        kernel = self.param("kernel", self.kernel_init, (3 * x.shape[-1], self.features))
        y = three @ kernel.astype(x.dtype)
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype) if self.bias else y


class TAdaConv(nn.Module):
    """A 3 x 3 convolution whose kernel is scaled along its input channels by alpha, frame by frame.

    Convolving alpha x with one kernel is the same sum as convolving x with alpha's own kernel for every frame, at a
    fraction of the cost. Source: arXiv:2110.06178, Eq. 3.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], alpha: Float[Array, "B T 1 1 C"]) -> Float[Array, "B T h w D"]:
        return Conv(self.features, stride=self.stride, bias=False, name="conv")(alpha * x)


class Bottleneck(nn.Module):
    """1 x 1, calibrated 3 x 3 with its mean over three frames, 1 x 1; plus the input.

    Source: arXiv:2110.06178, section 3.3 and Figure 2; the mean's norm starts at 0.
    """

    features: int
    stride: int
    sizes: TAda2DSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        norm = NORMS[self.sizes.norm]
        inner = self.features // self.sizes.expansion
        h = nn.relu(norm(name="a_bn")(Linear(inner, bias=False, name="a")(x)))
        alpha = Route(self.sizes.reduction, self.sizes.norm, name="b_rf")(h)
        h = TAdaConv(inner, self.stride, name="b")(h, alpha)
        h = nn.relu(norm(name="b_bn")(h) + norm(zero=True, name="b_avgpool_bn")(mean_of_three(h)))
        h = norm(name="c_bn")(Linear(self.features, bias=False, name="c")(h))
        if x.shape[-1] != self.features or self.stride > 1:
            x = Linear(self.features, bias=False, name="short_cut")(x[:, :, :: self.stride, :: self.stride])
            x = norm(name="short_cut_bn")(x)
        return nn.relu(x + h)


class TAda2D(nn.Module):
    """Clips [B T H W C] to features [B T h w D]; see the top."""

    sizes: TAda2DSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        sizes = self.sizes
        x = Conv(sizes.stem.features, sizes.stem.size, sizes.stem.stride, bias=False, name="stem")(x)
        x = nn.relu(NORMS[sizes.norm](name="stem_bn")(x))
        for number, stage in enumerate(sizes.stages):
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                x = Bottleneck(stage.features, stride, sizes, name=f"stage_{number}_block_{index}")(x)
        return x


def mean_of_three(x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    """The sum of a frame and its two neighbours over 3, also where one of them is missing."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
