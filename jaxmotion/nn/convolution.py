"""Layers of images that act on clips [B T H W C] frame by frame, and the norm between them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes
from jaxtyping import Array, Float

from jaxmotion.nn.chain import Context
from jaxmotion.nn.linear import UNIFORM, Linear


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
        full = x.astype(jnp.float32)
        first = tuple(slice(1) if axis - x.ndim in self.axes else slice(None) for axis in range(x.ndim))
        shift = jax.lax.stop_gradient(full[first])  # keeps the squares small; the result does not depend on it
        offset = (full - shift).mean(self.axes, keepdims=True)
        mean = shift + offset
        variance = jnp.maximum(jnp.square(full - shift).mean(self.axes, keepdims=True) - jnp.square(offset), 0.0)

        def per_group(y: Array) -> Array:
            grouped = y.reshape(*y.shape[:-1], self.groups, C // self.groups)
            return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(y.shape)

        centre = per_group(mean)
        spread = per_group(variance + jnp.square(mean - centre))
        factor = scale * jax.lax.rsqrt(spread + self.epsilon)
        return ((full - centre) * factor + bias).astype(x.dtype)


class Conv(nn.Module):
    """A 2-D convolution of every frame.

    stride: 2 halves the size.
    padding: zeros before and after, in both height and width; by default as many as keep the size at stride 1.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    bias: bool = True
    kernel_init: nn.initializers.Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=None)
        padding = (self.size // 2, self.size // 2) if self.padding is None else self.padding
        y = convolve(x, kernel, self.stride, padding)
        return y if bias is None else y + bias


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
        B, T, h, w, C = x.shape
        x = jnp.broadcast_to(x[:, :, :, None, :, None], (B, T, h, 2, w, 2, C)).reshape(B, T, 2 * h, 2 * w, C)
        return Conv(C, name="conv")(x)


def convolve(
    x: Float[Array, "B T H W C"], kernel: Float[Array, "kh kw C D"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B T h w D"]:
    """The cross-correlation of every frame with one kernel, zeros around."""
    B, T, H, W, C = x.shape
    y = jax.lax.conv_general_dilated(
        x.reshape(B * T, H, W, C),
        kernel,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(B, T, *y.shape[1:])
