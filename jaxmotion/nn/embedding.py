"""Embeddings of numbers: diffusion time and positions."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxmotion.nn.linear import UNIFORM, Linear


def time_sinusoid(t: Num[Array, " B"], features: int, period: float = 10000.0) -> Float[Array, "B features"]:
    """Cosines, then sines, of t at `features / 2` frequencies from 1 down to (nearly) 1 / period, in float32.

    Source: DDPM (arXiv:2006.11239) code, in the order of Stable Diffusion (`flip_sin_to_cos`, no frequency shift).
    """
    frequencies = np.exp(-np.log(period) * np.arange(features // 2) / (features // 2)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_sinusoid(length: int, features: int, period: float = 10000.0) -> Float[np.ndarray, "length features"]:
    """Sine (even features) and cosine (odd features) of the positions 0 .. length - 1, in float32.

    Source: "Attention is all you need" (arXiv:1706.03762), section 3.5.
    """
    angles = np.arange(length)[:, None] * np.exp(-np.log(period) * np.arange(0, features, 2) / features)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)[:, :features].astype(np.float32)


class TimeEmbedding(nn.Module):
    """Diffusion time to a vector: sinusoid, linear, SiLU, linear; in float32 whatever the parameters' precision.

    inputs: number of features of the sinusoid (two for each frequency).
    features: width of the result.
    last_init: initializer of the last kernel.
    """

    inputs: int
    features: int
    last_init: nn.initializers.Initializer = UNIFORM

    @nn.compact
    def __call__(self, t: Num[Array, " B"]) -> Float[Array, "B features"]:
        x = time_sinusoid(t, self.inputs)
        x = nn.silu(Linear(self.features, dtype=jnp.float32, name="linear_in")(x))
        return Linear(self.features, kernel_init=self.last_init, dtype=jnp.float32, name="linear_out")(x)


def rotary_table(
    positions: Num[np.ndarray, " S"], features: int, period: float = 10000.0
) -> tuple[Float[np.ndarray, "S features"], Float[np.ndarray, "S features"]]:
    """Returns cosines and sines of the angles by which `rotate` turns pairs of neighbouring features, each angle twice.

    Source: RoFormer (arXiv:2104.09864), Eq. 34.
    """
    angles = np.asarray(positions, np.float64)[:, None] / period ** (np.arange(0, features, 2) / features)
    twice = np.repeat(angles, 2, axis=-1)
    return np.cos(twice).astype(np.float32), np.sin(twice).astype(np.float32)


def rotate(
    x: Float[Array, "N S H D"], cosines: Float[Array, "S D"], sines: Float[Array, "S D"]
) -> Float[Array, "N S H D"]:
    """Rotates each pair of features (x_0, x_1) to (x_0 cos - x_1 sin, x_1 cos + x_0 sin), in float32.

    Source: RoFormer (arXiv:2104.09864), Eq. 34, in the interleaved order of CogVideoX.
    """
    full = x.astype(jnp.float32)
    even = jnp.arange(x.shape[-1]) % 2 == 0
    turned = jnp.where(even, -jnp.roll(full, -1, axis=-1), jnp.roll(full, 1, axis=-1))
    return (full * cosines[:, None] + turned * sines[:, None]).astype(x.dtype)
