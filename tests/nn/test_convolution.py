from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from jaxmotion.nn.chain import Context
from jaxmotion.nn.convolution import Conv, Downsample, GroupNorm, ResBlock, Upsample

X = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 8))


def group_norm(x, groups, axes, epsilon):
    """By the definition, in float64."""
    x = np.asarray(x, np.float64)
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*(a - 1 for a in axes), -1)
    centred = grouped - grouped.mean(axes, keepdims=True)
    return (centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)).reshape(x.shape)


@pytest.mark.parametrize("axes", [(-3, -2), (-4, -3, -2)], ids=["frame", "clip"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_group_norm_is_its_definition(axes, offset):
    """Also for values 1000 deviations from zero, whose squares in float32 would know nothing of the variance.

    There only the mean is rounded, to 2^-24 of itself."""
    x = X + offset
    norm = GroupNorm(4, 1e-5, axes)
    params = norm.init(jax.random.key(0), x)
    np.testing.assert_allclose(norm.apply(params, x), group_norm(x, 4, axes, 1e-5), atol=1e-5 + offset * 2**-23)


def test_group_norm_scales_and_shifts_each_channel():
    norm = GroupNorm(2)
    scale, bias = jnp.arange(8.0), jnp.arange(8.0) - 3
    y = norm.apply({"params": {"scale": scale, "bias": bias}}, X)
    np.testing.assert_allclose(y, group_norm(X, 2, (-3, -2), 1e-5) * scale + bias, atol=1e-5)


@pytest.mark.parametrize("axes", [(-3, -2), (-4, -3, -2)], ids=["frame", "clip"])
def test_group_norm_has_the_gradients_of_its_definition(axes):
    """By x, scale and bias, against differences of the definition in float64."""
    scale, bias = np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)
    towards = np.random.default_rng(1).normal(size=X.shape)

    def loss(x, scale, bias):
        return np.sum(towards * (group_norm(x, 2, axes, 1e-5) * scale + bias))

    def ours(x, scale, bias):
        return jnp.sum(towards * GroupNorm(2, 1e-5, axes).apply({"params": {"scale": scale, "bias": bias}}, x))

    inputs = np.asarray(X, np.float64) + 3, scale, bias
    found = jax.grad(ours, argnums=(0, 1, 2))(*(jnp.asarray(each, jnp.float32) for each in inputs))
    rng = np.random.default_rng(2)
    for number, gradient in enumerate(found):
        for _ in range(5):
            direction = rng.normal(size=gradient.shape)
            ends = [
                [each + sign * 1e-5 * direction * (n == number) for n, each in enumerate(inputs)] for sign in (1, -1)
            ]
            slope = (loss(*ends[0]) - loss(*ends[1])) / 2e-5
            np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-4, atol=1e-3)


def test_group_norm_keeps_the_precision_of_its_input_and_computes_in_float32():
    x = (X + 5).astype(jnp.bfloat16)
    y = GroupNorm(4).apply({"params": {"scale": jnp.ones(8, jnp.bfloat16), "bias": jnp.zeros(8, jnp.bfloat16)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), group_norm(x, 4, (-3, -2), 1e-5), atol=0.02
    )  # 2^-8 of values near 4


def test_a_convolution_ignores_other_frames():
    conv = Conv(5)
    params = conv.init(jax.random.key(0), X)
    changed = conv.apply(params, X) != conv.apply(params, X.at[:, 1].add(1.0))
    np.testing.assert_array_equal(changed.any((0, 2, 3, 4)), [False, True, False])


def test_a_convolution_by_hand():
    """A kernel with one 1, right of its centre, shifts the picture to the left."""
    kernel = jnp.zeros((3, 3, 8, 8)).at[1, 2].set(jnp.eye(8))
    y = Conv(8).apply({"params": {"kernel": kernel, "bias": jnp.zeros(8)}}, X)
    np.testing.assert_array_equal(y[..., :-1, :], X[..., 1:, :])
    np.testing.assert_array_equal(y[..., -1, :], 0.0)


def test_sizes_halve_and_double():
    down, up = Downsample(), Upsample()
    x = down.apply(down.init(jax.random.key(0), X), X)
    assert x.shape == (2, 3, 2, 3, 8)
    one = {"params": {"conv": {"kernel": jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8)), "bias": jnp.zeros(8)}}}
    y = up.apply(one, x)
    np.testing.assert_array_equal(y[:, :, ::2, 1::2], x)
    np.testing.assert_allclose(reduce(y, "B T (h 2) (w 2) C -> B T h w C", "mean"), x, rtol=1e-6)


def test_the_time_reaches_every_frame_alike():
    block = ResBlock(8, groups=4)
    x = jnp.broadcast_to(X[:, :1], X.shape)
    time = jax.random.normal(jax.random.key(1), (2, 5))
    context = Context(time=time, tokens={})
    params = block.init(jax.random.key(0), x, context)
    y = block.apply(params, x, context)
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), atol=1e-6)
    assert (jnp.abs(y - block.apply(params, x, Context(time=-time, tokens={}))) > 1e-3).any((1, 2, 3, 4)).all()


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="8 channels cannot be split into 3 groups"):
        GroupNorm(3).init(jax.random.key(0), X)
