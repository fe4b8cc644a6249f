"""Linear layers, norms of tokens, and initializers."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes
from jaxtyping import Array, Float

from jaxmotion.nn.low_rank import AdaptedKernel
from jaxmotion.nn.platform import platform

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Initializer of the public networks, PyTorch's default: uniform in plus or minus 1 / sqrt(fan-in)."""

ZEROS = nn.initializers.zeros


class Linear(nn.Module):
    """x W + b over the last axis, in the wider precision of x and the parameters.

    features: width of the result; a tuple gives the result several last axes from one matrix product.
    """

    features: int | tuple[int, ...]
    bias: bool = True
    kernel_init: nn.initializers.Initializer = UNIFORM
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)

        def kernel_init(key: Array, shape: tuple[int, ...], dtype) -> Array:
            return self.kernel_init(key, (shape[0], math.prod(shape[1:])), dtype).reshape(shape)

        kernel = self.param("kernel", kernel_init, (x.shape[-1], *features), jnp.float32)
        bias = self.param("bias", ZEROS, features) if self.bias else None
        y, bias = multiply(x, kernel, bias, self.dtype)
        return y if bias is None else y + bias


def multiply(
    x: Float[Array, "... C"], kernel: Array | AdaptedKernel, bias: Array | None = None, dtype: jnp.dtype | None = None
) -> tuple[Float[Array, "... D"], Array | None]:
    """Returns x times the kernel, with its low-rank change beside it if it has one, and the bias in the same type."""
    if isinstance(kernel, AdaptedKernel):
        x, whole, down, up, bias = dtypes.promote_dtype(x, kernel.kernel, kernel.down, kernel.up, bias, dtype=dtype)
        return _adapted_product(x, whole, down, up), bias
    x, whole, bias = dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
    return _product(x, whole), bias


class LayerNorm(nn.Module):
    """Layer normalisation with its moments in float32; the result has the precision of the input.

    Source: "Layer Normalization" (arXiv:1607.06450), Eq. 3-4.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", ZEROS, x.shape[-1:])
        full, scale, bias = dtypes.promote_dtype(x, scale, bias, dtype=jnp.float32)
        y: Array = _normalize(full, scale, bias, self.epsilon)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """x over its root mean square, times a scale; computed in float32, the result has the precision of the input.

    Source: "Root Mean Square Layer Normalization" (arXiv:1910.07467), Eq. 4.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        full = x.astype(jnp.float32)
        y = full * jax.lax.rsqrt(jnp.square(full).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale.astype(jnp.float32)).astype(x.dtype)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    """x [... C] times kernel [C ...]."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x: Array, kernel: Array):
    return _product(x, kernel), (x, kernel)


def _product_backward(saved, gradient: Array):
    x, kernel = saved
    x, gradient = barrier_on_cpu(x), barrier_on_cpu(gradient)
    outputs = kernel.ndim - 1
    last = tuple(range(gradient.ndim - outputs, gradient.ndim))
    rows = tuple(range(x.ndim - 1))
    if outputs == 1 and kernel.shape[0] > kernel.shape[1]:  # XLA on CPU transposes the first factor: the smaller one
        of_kernel = jax.lax.dot_general(gradient, x, ((rows, rows), ((), ()))).T
    else:
        of_kernel = jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))
    return (
        jax.lax.dot_general(gradient, kernel, ((last, tuple(range(1, kernel.ndim))), ((), ()))),
        of_kernel,
    )


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _adapted_product(x: Array, kernel: Array, down: Array, up: Array) -> Array:
    """x times kernel, plus (x down) up; rounded once, for a change below half a step of the first would be nothing."""
    return _adapted_product_forward(x, kernel, down, up)[0]


def _adapted_product_forward(x: Array, kernel: Array, down: Array, up: Array):
    def product(x: Array, kernel: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=wide)

    narrow = product(x, down).astype(x.dtype)
    return (product(x, kernel) + product(narrow, up)).astype(x.dtype), (x, kernel, down, up, narrow)


def _adapted_product_backward(saved, gradient: Array):
    x, kernel, down, up, narrow = saved
    by_narrow, by_up = _product_backward((narrow, up), gradient)
    by_x, by_kernel = _product_backward((x, kernel), gradient)
    also_by_x, by_down = _product_backward((x, down), by_narrow)
    return by_x + also_by_x, by_kernel, by_down, by_up


_adapted_product.defvjp(_adapted_product_forward, _adapted_product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: Float[Array, "... C"], scale: Array, bias: Array, epsilon: float) -> Float[Array, "... C"]:
    """Normalises x to mean 0 and variance 1 over the last axis, then scales and shifts."""
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x: Array, scale: Array, bias: Array, epsilon: float):
    mean = x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _normalize_backward(epsilon: float, saved, gradient: Array):
    x, mean, inverse, scale = saved
    gradient = barrier_on_cpu(gradient)
    y = (x - mean) * inverse
    scaled = gradient * scale
    along = (scaled * y).mean(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    return (
        inverse * (scaled - scaled.mean(-1, keepdims=True) - y * along),
        (gradient * y).sum(rows),
        gradient.sum(rows),
    )


_normalize.defvjp(_normalize_forward, _normalize_backward)


def barrier_on_cpu(x: Array) -> Array:
    """Optimization barrier on CPU: XLA would otherwise recompute x in every consumer."""
    # There the recomputation is fused into the matrix products and runs in a slow order. Others fuse as they like.
    return jax.lax.optimization_barrier(x) if platform() == "cpu" else x
