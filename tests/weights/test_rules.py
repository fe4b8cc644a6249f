from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmotion.weights.rules import (
    CONV,
    JOINED_BIAS,
    JOINED_KERNEL,
    LINEAR,
    PAIR_BIAS,
    PAIR_KERNEL,
    POINTWISE,
    SAME,
    ConversionError,
    LazyArray,
    Rule,
    linear,
    norm,
    parameters,
    split_input,
    tensors_of,
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
    ("change", "kind", "line"),
    [
        (lambda t: t.pop("blocks.0.fc.bias"), "missing", "blocks.0.fc.bias"),
        (lambda t: t.pop("layers.4.w"), "missing", "layers.4.w"),
        (lambda t: t.pop("up"), "missing", "up"),
        (lambda t: t.update(surprise=np.zeros(1)), "unexpected", "surprise"),
        (lambda t: t.update({"blocks.1.ln.bias": np.zeros(2)}), "unexpected", "blocks.1.ln.bias"),
        (lambda t: t.update({"layers.11.w": np.zeros(2)}), "unexpected", "layers.11.w"),
        (
            lambda t: t.update({"blocks.0.fc.weight": np.zeros((3, 3))}),
            "wrong_shape",
            "blocks.0.fc.weight: [3, 3] came, [2, 3] is needed",
        ),
        (lambda t: t.update({"layers.3.w": np.zeros(5)}), "wrong_shape", "layers.3.w: [5] came, [2] is needed"),
        (
            lambda t: t.update({"gate": np.zeros((4, 3), np.int8)}),
            "wrong_dtype",
            "gate: int8 came, a floating-point type is needed",
        ),
    ],
)
def test_what_does_not_match_is_named(change, kind, line):
    tensors = dict(TENSORS)
    change(tensors)
    with pytest.raises(ConversionError) as caught:
        to_jax(RULES, tensors, like=PARAMS)
    lists = {name: getattr(caught.value, name) for name in ("missing", "unexpected", "wrong_shape", "wrong_dtype")}
    assert lists == {**dict.fromkeys(lists, ()), kind: (line,)}
    assert line in str(caught.value)


def test_all_problems_are_listed_at_once():
    tensors = {"surprise": np.zeros(1), "up": np.zeros((3, 4)), "gate": np.zeros((4, 3), np.int32)}
    with pytest.raises(ConversionError, match="15 missing, 1 unexpected, 1 of the wrong shape, 1 of the wrong type"):
        to_jax(RULES, tensors, like=PARAMS)


def test_nothing_is_read_before_it_is_asked_for():
    read = []

    def reading(name):
        return LazyArray(TENSORS[name].shape, TENSORS[name].dtype, lambda: read.append(name) or TENSORS[name])

    flat = flatten_dict(PARAMS, sep="/")
    made = parameters(RULES, {name: reading(name) for name in TENSORS}, flat)
    assert read == []
    assert np.array_equal(np.asarray(made["block_0/linear/bias"]), np.arange(2.0))
    assert read == ["blocks.0.fc.bias"]
    back = tensors_of(RULES, made)
    assert read == ["blocks.0.fc.bias"]
    assert np.array_equal(np.asarray(back["up"]), TENSORS["up"])
    assert read == ["blocks.0.fc.bias", "gate", "up"]


def test_one_tensor_makes_two_parameters():
    """The first columns of a widened convolution are the pretrained ones."""
    rules = (Rule("conv_in.weight", ("conv_in/kernel", "conv_condition/kernel"), split_input(4)),)
    weight = np.random.default_rng(0).normal(size=(8, 10, 3, 3))
    like = {"conv_in": {"kernel": np.zeros((3, 3, 4, 8))}, "conv_condition": {"kernel": np.zeros((3, 3, 6, 8))}}
    params = to_jax(rules, {"conv_in.weight": weight}, like)
    assert np.array_equal(params["conv_in"]["kernel"], weight[:, :4].transpose(2, 3, 1, 0))
    assert same(to_torch(rules, params), {"conv_in.weight": weight})
    with pytest.raises(ConversionError, match="conv_condition/kernel: not among the parameters"):
        to_torch(rules, {"conv_in": params["conv_in"]})


def test_ignored_names_are_no_parameters():
    tensors = {**TENSORS, "blocks.0.position_ids": np.arange(3)}
    assert same(to_jax(RULES, tensors, like=PARAMS, ignored=["blocks.{block}.position_ids"]), PARAMS)


def test_a_table_is_a_bijection():
    """A table with two names for one parameter, or one name for two, is refused."""
    like = {"w": np.zeros(2), "v": np.zeros(2)}
    with pytest.raises(ConversionError, match="w: 2 rules name this parameter"):
        to_torch((Rule("new.w", "w"), Rule("old.w", "w"), Rule("v", "v")), like)
    with pytest.raises(ConversionError, match="x: several parameters write to it"):
        to_torch((Rule("x", "w"), Rule("x", "v")), like)


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(ConversionError, match="extra/w: no rule names this parameter"):
        to_torch(RULES, {**PARAMS, "extra": {"w": np.zeros(1)}})
