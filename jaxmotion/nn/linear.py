"""Linear layers, and how the weights of a network start."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in plus or minus 1 / sqrt(inputs of a unit): how the public networks start (PyTorch's default)."""

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
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return y if bias is None else y + bias
