from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn.linear import LayerNorm, Linear

X = jax.random.normal(jax.random.key(0), (2, 3, 5))


@pytest.mark.parametrize("features", [4, (2, 3)])
def test_a_linear_layer_and_its_gradients(features):
    layer = Linear(features)
    params = layer.init(jax.random.key(1), X)["params"]
    reference = lambda p, x: jnp.tensordot(x, p["kernel"], 1) + p["bias"]  # noqa: E731
    np.testing.assert_allclose(layer.apply({"params": params}, X), reference(params, X), rtol=1e-6)
    ours = jax.grad(lambda p, x: (layer.apply({"params": p}, x) ** 3).sum(), (0, 1))(params, X)
    expected = jax.grad(lambda p, x: (reference(p, x) ** 3).sum(), (0, 1))(params, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)


def test_weights_start_uniform_within_one_over_root_of_inputs():
    kernel = Linear((2, 300)).init(jax.random.key(0), jnp.zeros((1, 25)))["params"]["kernel"]
    assert kernel.shape == (25, 2, 300)
    assert 0.19 < jnp.abs(kernel).max() <= 0.2
    assert abs(float(kernel.std()) - 0.2 / 3**0.5) < 0.002


def test_precision_follows_input_and_parameters():
    layer = Linear(4)
    params = layer.init(jax.random.key(0), X)
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert layer.apply(narrow, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer.apply(params, X.astype(jnp.bfloat16)).dtype == jnp.float32


def layer_norm(x, scale, bias, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def test_layer_norm_and_its_gradients():
    x, scale, bias = X + 3.0, jnp.arange(1.0, 6.0), jnp.arange(5.0)
    ours = lambda x, s, b: LayerNorm().apply({"params": {"scale": s, "bias": b}}, x)  # noqa: E731
    np.testing.assert_allclose(ours(x, scale, bias), layer_norm(x, scale, bias), atol=1e-5)
    gradients = [jax.grad(lambda *a, f=f: (f(*a) ** 3).sum(), (0, 1, 2))(x, scale, bias) for f in (ours, layer_norm)]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3)  # gradients reach 2000


def test_layer_norm_computes_in_float32():
    x = (100 + X).astype(jnp.bfloat16)
    params = {"scale": jnp.ones(5, jnp.bfloat16), "bias": jnp.zeros(5, jnp.bfloat16)}
    y = LayerNorm().apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), layer_norm(x.astype(jnp.float32), 1.0, 0.0), atol=0.01)
