from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.convert.rename import (
    CONV,
    JOINED_BIAS,
    JOINED_KERNEL,
    LINEAR,
    PAIR_BIAS,
    PAIR_KERNEL,
    POINTWISE,
    SAME,
    ConversionError,
    Rule,
    linear,
    norm,
    to_jax,
    to_torch,
    under,
)

RULES = (
    *under("blocks.{block}.", "block_{block}/", (*linear("fc", "linear"), *norm("ln", "norm"))),
    Rule("layers.{stack}.w", "stack/w"),
    Rule(("gate", "up"), "pair", JOINED_KERNEL),
)
TENSORS = {
    "blocks.0.fc.weight": np.arange(6.0).reshape(2, 3),
    "blocks.0.fc.bias": np.arange(2.0),
    "blocks.0.ln.weight": np.full(2, 7.0),
    "blocks.0.ln.bias": np.full(2, 8.0),
    **{f"layers.{i}.w": np.full(2, float(i)) for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)},
    "gate": np.zeros((4, 3)),
    "up": np.ones((4, 3)),
}
PARAMS = {
    "block_0": {
        "linear": {"kernel": np.arange(6.0).reshape(2, 3).T, "bias": np.arange(2.0)},
        "norm": {"scale": np.full(2, 7.0), "bias": np.full(2, 8.0)},
    },
    "stack": {"w": np.stack([np.full(2, float(i)) for i in range(11)])},
    "pair": np.stack([np.zeros((3, 4)), np.ones((3, 4))], axis=1),
}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        same(a[k], b[k]) if isinstance(a[k], dict) else np.array_equal(a[k], b[k]) for k in a
    )


def test_there_and_back():
    params = to_jax(RULES, TENSORS, like=PARAMS)
    assert same(params, PARAMS)
    assert same(to_torch(RULES, params), TENSORS)


@pytest.mark.parametrize(
    ("transform", "shapes"),
    [
        (SAME, [(3,)]),
        (LINEAR, [(4, 3)]),
        (CONV, [(4, 3, 5, 2)]),
        (POINTWISE, [(4, 3, 1, 1)]),
        (PAIR_KERNEL, [(8, 3)]),
        (PAIR_BIAS, [(8,)]),
        (JOINED_KERNEL, [(4, 3), (4, 3)]),
        (JOINED_BIAS, [(4,), (4,)]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_transforms_are_invertible_and_keep_the_precision(transform, shapes, dtype):
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    back = transform.to_torch(transform.to_jax(*tensors))
    assert [b.dtype for b in back] == [np.dtype(dtype)] * len(tensors)
    assert all(np.array_equal(a, b) for a, b in zip(tensors, back, strict=True))


def test_two_halves_in_one_tensor_are_two_tensors_joined():
    first, second = np.random.default_rng(0).normal(size=(2, 4, 3))
    joined = JOINED_KERNEL.to_jax(first, second)
    assert np.array_equal(PAIR_KERNEL.to_jax(np.concatenate([first, second])), joined)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.0.fc.bias"), "block_0/linear/bias: missing in the checkpoint"),
        (lambda t: t.update(surprise=np.zeros(1)), "surprise: unexpected"),
        (
            lambda t: t.update({"blocks.1.ln.bias": np.zeros(2)}),
            "block_1/norm/bias: in the checkpoint, but the network has no such parameter",
        ),
        (lambda t: t.pop("layers.4.w"), r"stack/w: \[2\]: only some of layers.{stack}.w are in the checkpoint"),
        (lambda t: t.pop("layers.10.w"), r"stack/w: shape \(10, 2\) in the checkpoint, \(11, 2\) in the network"),
        (lambda t: t.pop("up"), r"pair: \[4, 3\]: only some of gate, up are in the checkpoint"),
        (
            lambda t: t.update({"blocks.0.fc.weight": np.zeros((3, 3))}),
            r"block_0/linear/kernel: shape \(3, 3\) in the checkpoint, \(3, 2\) in the network",
        ),
    ],
)
def test_what_does_not_match_is_named(change, message):
    tensors = dict(TENSORS)
    change(tensors)
    with pytest.raises(ConversionError, match=message):
        to_jax(RULES, tensors, like=PARAMS)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConversionError, match=r"7 names do not match(.|\n)*surprise(.|\n)*stack/w"):
        to_jax(RULES, {"surprise": np.zeros(1)}, like=PARAMS)


def test_ignored_names_are_no_parameters():
    tensors = {**TENSORS, "blocks.0.position_ids": np.arange(3)}
    assert same(to_jax(RULES, tensors, like=PARAMS, ignored=["blocks.{block}.position_ids"]), PARAMS)


def test_two_layouts_of_one_parameter():
    """Files of either layout are read, the first is written, and a file with both is refused."""
    rules = (Rule("new.w", "w"), Rule("old.w", "w"))
    like = {"w": np.zeros(2)}
    assert same(to_jax(rules, {"old.w": np.ones(2)}, like), to_jax(rules, {"new.w": np.ones(2)}, like))
    assert set(to_torch(rules, like)) == {"new.w"}
    with pytest.raises(ConversionError, match="w already has its values from another name"):
        to_jax(rules, {"old.w": np.ones(2), "new.w": np.ones(2)}, like)


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(ConversionError, match="extra/w: no rule names this parameter"):
        to_torch(RULES, {**PARAMS, "extra": {"w": np.zeros(1)}})
