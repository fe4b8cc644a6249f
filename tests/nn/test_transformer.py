from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.feedforward import MLP
from jaxmotion.nn.transformer import (
    CrossAttention,
    EncoderLayer,
    FeedForward,
    GatedCrossAttention,
    SelfAttention,
    SpatialTransformer,
)

B, T, S, L, C, D = 2, 3, 6, 4, 8, 5
KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (B, T, S, C))
SHARED = jax.random.normal(KEYS[1], (B, 1, L, D))
PER_FRAME = jax.random.normal(KEYS[2], (B, T, L, D))


def context(**tokens) -> Context:
    return Context(time=jnp.zeros((B, 0)), tokens=tokens)


def test_tokens_repeated_for_each_frame_are_tokens_shared_by_all():
    layer = CrossAttention(2, reads="text")
    params = layer.init(KEYS[3], X, context(text=SHARED))
    shared = layer.apply(params, X, context(text=SHARED))
    repeated = layer.apply(params, X, context(text=jnp.broadcast_to(SHARED, (B, T, L, D))))
    np.testing.assert_allclose(shared, repeated, atol=2e-6)  # other shapes of the same products


def test_a_frame_sees_its_own_tokens_only():
    layer = CrossAttention(2, reads="text")
    params = layer.init(KEYS[3], X, context(text=PER_FRAME))
    changed = layer.apply(params, X, context(text=PER_FRAME)) != layer.apply(
        params, X, context(text=PER_FRAME.at[0, 1].add(1.0))
    )
    expected = np.zeros((B, T), bool)
    expected[0, 1] = True
    np.testing.assert_array_equal(changed.any((2, 3)), expected)


def test_a_new_gated_layer_changes_nothing_and_can_learn():
    layer = GatedCrossAttention(2, reads="content")
    told = context(content=SHARED)
    params = layer.init(KEYS[3], X, told)
    np.testing.assert_array_equal(layer.apply(params, X, told), X)
    gradient = jax.grad(lambda p: (layer.apply(p, X, told) ** 2).sum())(params)["params"]
    assert abs(gradient["gate"]) > 1e-3
    weights = {name: leaf for name, leaf in params["params"].items() if name != "gate"}
    opened = layer.apply({"params": {**weights, "gate": jnp.array(1.0)}}, X, told)
    plain = CrossAttention(2, reads="content").apply({"params": weights}, X, told)
    np.testing.assert_allclose(opened - X, np.tanh(1.0) * (plain - X), atol=1e-6)


def test_self_attention_without_positions_does_not_know_the_order():
    layer = SelfAttention(2)
    params = layer.init(KEYS[3], X, context())
    order = jnp.array([3, 0, 5, 1, 2, 4])
    np.testing.assert_allclose(
        layer.apply(params, X[:, :, order], context()), layer.apply(params, X, context())[:, :, order], atol=1e-6
    )
    placed = SelfAttention(2, positions=S)
    moved = placed.apply(params, X[:, :, order], context()) - placed.apply(params, X, context())[:, :, order]
    assert jnp.abs(moved).max() > 1e-2


def test_positions_do_not_depend_on_the_longest_length():
    params = SelfAttention(2).init(KEYS[3], X, context())
    short, long = (SelfAttention(2, positions=n).apply(params, X, context()) for n in (S, 4 * S))
    np.testing.assert_array_equal(short, long)


def test_a_spatial_transformer_ignores_other_frames():
    x = jax.random.normal(KEYS[0], (B, T, 2, 3, C))
    layer = SpatialTransformer(
        partial(Chain, {"space": partial(SelfAttention, 2), "feedforward": FeedForward}), groups=2
    )
    params = layer.init(KEYS[3], x, context())
    changed = layer.apply(params, x, context()) != layer.apply(params, x.at[0, 1].multiply(2.0), context())
    expected = np.zeros((B, T), bool)
    expected[0, 1] = True
    np.testing.assert_array_equal(changed.any((2, 3, 4)), expected)


def test_a_masked_encoder_layer_is_causal():
    x = X[:, 0]
    layer = EncoderLayer(2, partial(MLP, 16))
    mask = jnp.tril(jnp.ones((S, S), bool))[None, None]
    params = layer.init(KEYS[3], x, mask)
    changed = layer.apply(params, x, mask) != layer.apply(params, x.at[:, 3].multiply(2.0), mask)
    np.testing.assert_array_equal(changed.any((0, 2)), np.arange(S) >= 3)


def test_wrong_tokens_are_named():
    layer = CrossAttention(2, reads="text")
    with pytest.raises(ValueError, match=r"""reads the tokens "text", but the condition has \['content'\]"""):
        layer.init(KEYS[3], X, context(content=SHARED))
    with pytest.raises(ValueError, match=r"\[2, 2, 4, 5\]; this layer needs \[2 3 L D\], or \[2 1 L D\]"):
        layer.init(KEYS[3], X, context(text=PER_FRAME[:, :2]))
    with pytest.raises(ValueError, match="sequence of 6 is longer than the 4 positions"):
        SelfAttention(2, positions=4).init(KEYS[3], X, context())
