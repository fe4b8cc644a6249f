from __future__ import annotations

import operator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn.chain import Chain, Context, Stack, rematerialise
from jaxmotion.nn.linear import Linear

CONTEXT = Context(time=jnp.zeros((2, 4)), tokens={})
X = jax.random.normal(jax.random.key(0), (2, 3))


class Add(nn.Module):
    """x + scale * tanh(W x), a layer of a chain or, without a context, of a stack."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x, context=None):
        scale = self.param("scale", nn.initializers.constant(self.start), ())
        return x + scale * jnp.tanh(Linear(x.shape[-1], name="linear")(x))


def test_an_inserted_layer_renames_nothing_and_may_change_nothing():
    short = Chain({"first": Add, "last": Add})
    long = Chain({"first": Add, "new": partial(Add, 0.0), "last": Add})
    params = short.init(jax.random.key(1), X, CONTEXT)["params"]
    fresh = long.init(jax.random.key(2), X, CONTEXT)["params"]
    assert set(params) == {"first", "last"}
    longer = {**fresh, **params}
    assert jax.tree.structure(longer) == jax.tree.structure(fresh)
    np.testing.assert_array_equal(
        long.apply({"params": longer}, X, CONTEXT), short.apply({"params": params}, X, CONTEXT)
    )


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_layers_are_applied_in_the_order_given(remat):
    """Also where Flax transforms the chain, which sorts the keys of dicts."""
    chain = rematerialise(Chain, remat)({"z": lambda name: lambda x, c: 2 * x, "a": lambda name: lambda x, c: x + 1})
    np.testing.assert_array_equal(chain.apply({}, X, CONTEXT), 2 * X + 1)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_a_stack_is_its_layers_one_after_another(remat):
    stack = Stack(Add, 3, remat)
    params = stack.init(jax.random.key(0), X)["params"]
    kernels = params["layers"]["linear"]["kernel"]
    assert kernels.shape == (3, 3, 3)
    assert not np.allclose(kernels[0], kernels[1])  # every layer starts with its own numbers

    def one_by_one(params):
        y = X
        for i in range(3):
            y = Add().apply({"params": jax.tree.map(operator.itemgetter(i), params["layers"])}, y)
        return (y**2).sum()

    value, gradient = jax.value_and_grad(lambda p: (stack.apply({"params": p}, X) ** 2).sum())(params)
    expected, reference = jax.value_and_grad(one_by_one)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, reference)


def test_unknown_remat_policies_are_refused():
    with pytest.raises(ValueError, match='"half"; known are'):
        rematerialise(Add, "half")
