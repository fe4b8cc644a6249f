"""Feedforward layers of transformers, which act on each token alone."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxmotion.nn.linear import Linear


def exact_gelu(x: Array) -> Array:
    """GELU with the error function, as in the public networks (not its tanh approximation)."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def tanh_gelu(x: Array) -> Array:
    """GELU in its tanh approximation, as in T5 and CogVideoX."""
    return jax.nn.gelu(x, approximate=True)


class MLP(nn.Module):
    """Linear, activation, linear back to the input's width. `hidden` is the width in between."""

    hidden: int
    activation: Callable[[Array], Array] = exact_gelu

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        h = self.activation(Linear(self.hidden, name="linear_in")(x))
        return Linear(x.shape[-1], name="linear_out")(h)


class GatedMLP(nn.Module):
    """value * activation(gate), both linear in x, then linear back to the input's width.

    With exact_gelu this is GEGLU (arXiv:2002.05202), with silu SwiGLU. Value and gate are one kernel [C 2 hidden], so
    that one matrix product computes them and tensor parallelism splits both alike.
    gate_first: the first of the two halves is the gate (DINOv2), not the value (Stable Diffusion).
    bias: the linear layers have a bias.
    """

    hidden: int
    activation: Callable[[Array], Array] = exact_gelu
    gate_first: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        pair = Linear((2, self.hidden), self.bias, name="linear_in")(x)
        first, second = pair[..., 0, :], pair[..., 1, :]
        value, gate = (second, first) if self.gate_first else (first, second)
        return Linear(x.shape[-1], self.bias, name="linear_out")(value * self.activation(gate))
