"""Image layers that act on clips [B T H W C] frame by frame, and group normalisation."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes
from jaxtyping import Array, Float

from jaxmotion.nn.chain import Context
from jaxmotion.nn.correlation import correlate
from jaxmotion.nn.linear import UNIFORM, ZEROS, Linear, barrier_on_cpu, multiply
from jaxmotion.nn.low_rank import AdaptedKernel


class GroupNorm(nn.Module):
    """Group normalisation of each frame, or of each clip as a whole, in float32.

    Moments are taken per channel first and then joined per group, so the activation is read once for the moments and
    once to shift and scale it, and never reshaped to [... groups, channels / groups].

    Source: "Group Normalization" (arXiv:1803.08494), Eq. 1-6.
    axes: the axes that are averaged over beside the channels of a group: (-3, -2) is H W, (-4, -3, -2) is T H W.
    """

    groups: int = 32
    epsilon: float = 1e-5
    axes: tuple[int, ...] = (-3, -2)

    @nn.compact
    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        C = x.shape[-1]
        if C % self.groups:
            raise ValueError(f"{C} channels cannot be split into {self.groups} groups.")
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        axes = tuple(x.ndim + axis for axis in self.axes)
        scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
        y: Array = _normalize(x.astype(jnp.float32), scale, bias, self.groups, self.epsilon, axes)
        return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalize(x: Array, scale: Array, bias: Array, groups: int, epsilon: float, axes: tuple[int, ...]) -> Array:
    """Normalises x to mean 0 and variance 1 over the axes and each group of channels, then scales and shifts."""
    return _normalize_forward(x, scale, bias, groups, epsilon, axes)[0]


def _normalize_forward(x: Array, scale: Array, bias: Array, groups: int, epsilon: float, axes: tuple[int, ...]):
    first = tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))
    shift = x[first]  # keeps the squares small; the result does not depend on it
    offset = (x - shift).mean(axes, keepdims=True)
    mean = shift + offset
    variance = jnp.maximum(jnp.square(x - shift).mean(axes, keepdims=True) - jnp.square(offset), 0.0)
    centre = _per_group(mean, groups)
    inverse = jax.lax.rsqrt(_per_group(variance + jnp.square(mean - centre), groups) + epsilon)
    return (x - centre) * (scale * inverse) + bias, (x, centre, inverse, scale)


def _normalize_backward(groups: int, epsilon: float, axes: tuple[int, ...], saved, gradient: Array):
    """Takes one pass over x and the gradient for their sums per channel, and one for the gradient by x."""
    x, centre, inverse, scale = saved
    gradient = barrier_on_cpu(gradient)
    total, along = gradient.mean(axes, keepdims=True), (gradient * (x - centre)).mean(axes, keepdims=True)
    by_mean = _per_group(scale * total, groups)
    by_spread = _per_group(scale * along, groups) * jnp.square(inverse)
    rows = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[axis] for axis in axes)
    return (
        inverse * (scale * gradient - by_mean - (x - centre) * by_spread),
        count * (along * inverse).sum(rows),
        count * total.sum(rows),
    )


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _per_group(y: Float[Array, "... C"], groups: int) -> Float[Array, "... C"]:
    """Replaces each channel by the mean of its group of channels."""
    grouped = y.reshape(*y.shape[:-1], groups, -1)
    return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(y.shape)


class Conv(nn.Module):
    """2-D convolution of every frame.

    stride: 2 halves the size.
    repeat: 2 doubles it, by repeating each pixel before the convolution.
    padding: zeros before and after, in both height and width; by default as many as keep the size at stride 1.
    """

    features: int
    size: int = 3
    stride: int = 1
    repeat: int = 1
    padding: tuple[int, int] | None = None
    bias: bool = True
    kernel_init: nn.initializers.Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        padding = (self.size // 2, self.size // 2) if self.padding is None else self.padding

        def convolve(images: Array, kernel: Array) -> Array:
            return correlate(images, kernel, stride=self.stride, repeat=self.repeat, padding=padding)

        if isinstance(kernel, AdaptedKernel):
            x, whole, down, up, bias = dtypes.promote_dtype(x, kernel.kernel, kernel.down, kernel.up, bias, dtype=None)
            images = x.reshape(-1, *x.shape[2:])
            y = convolve(images, whole) + multiply(convolve(images, down), up)[0]
        else:
            x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=None)
            y = convolve(x.reshape(-1, *x.shape[2:]), kernel)
        y = y.reshape(*x.shape[:2], *y.shape[1:])
        return y if bias is None else y + bias


class TemporalConv(nn.Module):
    """Convolution of size 3 over the frames of each pixel; beyond the first and the last frame there are zeros."""

    features: int
    kernel_init: nn.initializers.Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W D"]:
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        around = jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(3)], axis=-1)
        return Linear(self.features, kernel_init=self.kernel_init, name="frames")(around)


class TemporalResBlock(nn.Module):
    """x + four times: norm over the clip, SiLU, convolution over time. The last starts at zero, so it changes nothing.

    Source: the spatio-temporal block of ModelScope's text-to-video network (arXiv:2308.06571, Fig. 3) and its code.
    """

    groups: int = 32
    epsilon: float = 1e-5
    depth: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], context: Context) -> Float[Array, "B T H W C"]:
        h = x
        for i in range(self.depth):
            h = nn.silu(GroupNorm(self.groups, self.epsilon, axes=(-4, -3, -2), name=f"norm_{i}")(h))
            last = i == self.depth - 1
            h = TemporalConv(x.shape[-1], kernel_init=ZEROS if last else UNIFORM, name=f"conv_{i}")(h)
        return x + h


class ResBlock(nn.Module):
    """Norm, SiLU, convolution; plus the diffusion time; norm, SiLU, convolution; plus the input.

    Source: the residual block of DDPM (arXiv:2006.11239, appendix B) as in Stable Diffusion 1.5.
    features: channels of the result; the input passes a 1 x 1 convolution when it has another number.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], context: Context) -> Float[Array, "B T H W D"]:
        time = Linear(self.features, name="time")(nn.silu(context.time))
        h = nn.silu(GroupNorm(self.groups, self.epsilon, name="norm_in")(x))
        h = Conv(self.features, name="conv_in")(h) + time[:, None, None, None]
        h = nn.silu(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        h = Conv(self.features, name="conv_out")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, name="shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """Halves height and width by a convolution of stride 2."""

    padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w C"]:
        return Conv(x.shape[-1], stride=2, padding=self.padding, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then convolves."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T h w C"]) -> Float[Array, "B T H W C"]:
        return Conv(x.shape[-1], repeat=2, name="conv")(x)
