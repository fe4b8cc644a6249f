from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmotion.nn.embedding import TimeEmbedding, position_sinusoid, time_sinusoid


def test_time_sinusoid_by_hand():
    """Four features have the frequencies 1 and 1 / 100: cosines first, then sines."""
    expected = [[1, 1, 0, 0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)]]
    np.testing.assert_allclose(time_sinusoid(jnp.array([0, 3]), 4), expected, atol=1e-7)


def test_position_sinusoid_by_hand():
    expected = [[0, 1, 0, 1], [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]]
    np.testing.assert_allclose(position_sinusoid(2, 4), expected, atol=1e-7)


def test_the_time_embedding_is_in_float32_whatever_the_parameters():
    embedding = TimeEmbedding(8, 16)
    params = embedding.init(jax.random.key(0), jnp.array([0]))
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    t = jnp.array([981, 982])
    y = embedding.apply(narrow, t)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, embedding.apply(rounded, t))
    assert (y[0] != y[1]).any()
