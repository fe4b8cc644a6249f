from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn.axes import over_space, over_time

X = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))


def mix(x):
    """A layer of sequences [B G S C] that lets every element see every other."""
    return x + jnp.tanh(x).mean(axis=2, keepdims=True)


def touched(layer):
    """Which frames and pixels of the result change when one pixel of one frame changes: [T H W]."""
    changed = layer(mix, X) != layer(mix, X.at[0, 1, 2, 3].add(1.0))
    assert not changed[1].any()  # another clip never
    return np.asarray(changed[0].any(-1))


def test_a_layer_over_space_ignores_other_frames():
    expected = np.zeros((3, 4, 5), bool)
    expected[1] = True
    np.testing.assert_array_equal(touched(over_space), expected)


def test_a_layer_over_time_ignores_other_pixels():
    expected = np.zeros((3, 4, 5), bool)
    expected[:, 2, 3] = True
    np.testing.assert_array_equal(touched(over_time), expected)


@pytest.mark.parametrize("over", [over_space, over_time])
def test_axes_come_back_in_order(over):
    np.testing.assert_array_equal(over(lambda x, y: x + y, X, 1.0), X + 1.0)
