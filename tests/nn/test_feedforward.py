from __future__ import annotations

from math import erf, exp, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn.feedforward import MLP, GatedMLP, exact_gelu, quick_gelu


def test_activations_by_hand():
    xs = [-6.0, -1.5, 0.0, 0.3, 2.0]
    gelu = [0.5 * x * (1 + erf(x / sqrt(2))) for x in xs]
    np.testing.assert_allclose(exact_gelu(jnp.array(xs)), gelu, atol=1e-6)
    np.testing.assert_allclose(quick_gelu(jnp.array(xs)), [x / (1 + exp(-1.702 * x)) for x in xs], rtol=1e-6)


@pytest.mark.parametrize("gate_first", [False, True])
def test_gated_mlp_by_hand(gate_first):
    """One feature, one hidden unit: (2 x + 1) * gelu(3 x - 1) * 5 + 4, and the roles swapped."""
    params = {
        "linear_in": {"kernel": jnp.array([[[2.0], [3.0]]]), "bias": jnp.array([[1.0], [-1.0]])},
        "linear_out": {"kernel": jnp.array([[5.0]]), "bias": jnp.array([4.0])},
    }
    first, second = 2 * 0.5 + 1, 3 * 0.5 - 1
    value, gate = (second, first) if gate_first else (first, second)
    expected = value * float(exact_gelu(jnp.array(gate))) * 5 + 4
    y = GatedMLP(1, gate_first=gate_first).apply({"params": params}, jnp.array([[0.5]]))
    np.testing.assert_allclose(y, [[expected]], rtol=1e-6)


def test_tokens_do_not_see_each_other():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    for layer in (MLP(8), GatedMLP(8)):
        params = layer.init(jax.random.key(1), x)
        changed = layer.apply(params, x) != layer.apply(params, x.at[:, 2].add(1.0))
        np.testing.assert_array_equal(changed.any((0, 2)), np.arange(5) == 2)
