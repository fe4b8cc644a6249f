"""A random generator that compiles fast, for fixtures that draw all parameters of a network at once."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import define_prng_impl


def _mix(x: Array) -> Array:
    """Scrambles 32-bit numbers: the finaliser of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _counted(key: Array, shape: tuple[int, ...]) -> Array:
    counts = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
    return _mix(_mix(counts + key[0]) ^ key[1]).reshape(shape)


def _seed(seed: Array) -> Array:
    return jnp.stack([seed, jnp.zeros_like(seed)]).astype(jnp.uint32)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return _counted(key, (*shape, 2))


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    assert bit_width <= 32
    return (_counted(key, shape) >> (32 - bit_width)).astype(f"uint{bit_width}")


def _fold_in(key: Array, data: Array) -> Array:
    return _counted(_mix(key + data.astype(jnp.uint32)), (2,))


QUICK = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="quick", tag="quick"
)


def quick_key(seed: int) -> Array:
    """A key whose draws are a few operations each, where JAX's own are hundreds; good enough for random weights."""
    return jax.random.key(seed, impl=QUICK)
