"""Shared types: array aliases, and the three conditioning slots of a denoiser: channels, tokens, vectors.

Axes are always written `B T H W C` in this order: batch, time (frames), height, width, channels. Pixels are in [-1, 1]
on the inside and uint8 at the edges; `h w` are the height and width of latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Array = jax.Array
Params = Mapping[str, PyTree[Array]]
"""A nested dict of arrays. Its leaves are named by '/'-joined paths such as `denoiser/conv_in/kernel`."""
Batch = Mapping[str, Array]
"""Arrays by name, all with the same leading batch axis. The shared names are in `foundation.entries`."""


class Shaped(Protocol):
    """An array or the description of one: NumPy's, JAX's, `weights.rules.LazyArray`, `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


class ArrayLike(Shaped, Protocol):
    """An array that NumPy can read: NumPy's, JAX's, `weights.rules.LazyArray`."""

    def __array__(self) -> np.ndarray: ...


class Condition(flax.struct.PyTreeNode):
    """Inputs of a denoiser beside z_t and t. Conditions add up with `+`; an absent one is not there.

    channels: concatenated to z_t on the channel axis, in order.  Each [B T h w c].
    tokens:   sequences that a layer names and reads.             Each [B T L D], or [B 1 L D] when all frames share it.
    vectors:  added to the time embedding.                        Each [B D].
    """

    channels: tuple[Array, ...] = ()
    tokens: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    vectors: tuple[Array, ...] = ()

    def __add__(self, other: Condition) -> Condition:
        clash = set(self.tokens) & set(other.tokens)
        if clash:
            raise ValueError(f"Two conditions both bring the tokens {sorted(clash)}; each name can be used once.")
        return Condition(
            channels=(*self.channels, *other.channels),
            tokens={**self.tokens, **other.tokens},
            vectors=(*self.vectors, *other.vectors),
        )


def pixels_to_float(pixels: Array | np.ndarray) -> Array:
    """Converts uint8 0..255 to float32 in [-1, 1]."""
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1.0


def pixels_to_uint8(pixels: Array) -> Array:
    """Converts floats in [-1, 1] (clipped) to uint8 0..255, rounded to the nearest."""
    return jnp.round(jnp.clip(pixels.astype(jnp.float32) * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)
