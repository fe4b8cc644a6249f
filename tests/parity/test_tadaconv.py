"""TAda2D and TAdaConvNeXtV2 against the code of their authors, whose results are kept beside this file.

The weights are drawn from seeds that come from their names, so both sides have the same without keeping them. The
results were computed with the public code at its published settings but for the widths and depths given here, float32.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.models.tadaconv import R50, Stage, Stem, TAda2DSizes
from jaxmotion.models.tadaconv_v2 import V2_TINY, TAdaConvNeXtV2Sizes
from jaxmotion.weights.formats import BY_NAME
from jaxmotion.weights.rules import to_jax, to_torch
from jaxmotion.weights.tables import tadaconv as rules

GOLDEN = Path(__file__).parent / "golden_tadaconv.npz"
SMALL_2D = TAda2DSizes(stem=Stem(16), stages=(Stage(1, 128), Stage(2, 128), Stage(1, 256), Stage(1, 256)))
SMALL_V2 = TAdaConvNeXtV2Sizes(depths=(1, 1, 2, 1), features=(32, 32, 64, 64), head=8)
CLIP = (2, 5, 64, 96, 3)


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of the size that keeps activations in range; moments and norms are not trivial, nothing is 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape)
    if name.endswith("running_var"):
        values = 0.5 + rng.random(shape)
    elif name.endswith("running_mean") or name.endswith("bias"):
        values = 0.1 * values
    elif name.endswith("gamma"):
        values = 0.5 + 0.1 * values
    elif len(shape) == 1:  # the scale of a norm
        values = 1 + 0.1 * values
    else:
        inputs = np.prod(shape[3:] if shape[:2] == (1, 1) else shape[1:])
        values = values / np.sqrt(inputs)
    return values.astype(np.float32)


def clip() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(CLIP).astype(np.float32)


def golden(name: str) -> np.ndarray:
    with np.load(GOLDEN) as arrays:
        return arrays[name]


def published(name: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the reference's state_dict at that size."""
    rows = (row.split() for row in golden(f"{name}_names").tolist())
    return {row[0]: tuple(int(size) for size in row[1:]) for row in rows}


def params_of(sizes, table, names: str, shape=CLIP):
    like = jax.eval_shape(sizes.build().init, jax.random.key(0), jnp.zeros(shape))["params"]
    tensors = {name: drawn(name, size) for name, size in published(names).items()}
    return to_jax(table, tensors, like, rules.HEAD)


@pytest.mark.parametrize(
    ("sizes", "table", "names"),
    [(SMALL_2D, rules.TADA2D, "tada2d"), (SMALL_V2, rules.TADACONVNEXTV2, "v2")],
    ids=["TAda2D", "TAdaConvNeXtV2"],
)
def test_features_of_a_whole_network(sizes, table, names) -> None:
    params = params_of(sizes, table, names)
    features = np.asarray(jax.jit(sizes.build().apply)({"params": params}, clip()))
    theirs = golden(f"{names}_features")
    assert features.shape == theirs.shape
    assert np.abs(features - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_calibration_takes_part() -> None:
    params = params_of(SMALL_2D, rules.TADA2D, "tada2d")
    still = {**params, "stage_1_block_0": {**params["stage_1_block_0"]}}
    route = still["stage_1_block_0"]["b_rf"]
    still["stage_1_block_0"]["b_rf"] = {**route, "b": {"kernel": 0 * route["b"]["kernel"]}}
    run = jax.jit(SMALL_2D.build().apply)
    with_it, without = (np.asarray(run({"params": each}, clip())) for each in (params, still))
    assert np.abs(with_it - without).max() > 0.01 * np.abs(with_it).max()


@pytest.mark.parametrize(
    ("sizes", "format_name", "names", "count"),
    [(R50, "tada2d", "tada2d_r50", 26_665_872), (V2_TINY, "tadaconvnextv2", "v2_tiny", None)],
    ids=["R50", "V2-T"],
)
def test_every_published_name_is_one_of_ours_at_full_size(sizes, format_name, names, count) -> None:
    like = jax.eval_shape(sizes.build().init, jax.random.key(0), jnp.zeros((1, 2, 64, 64, 3)))["params"]
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published(names).items()}
    [table] = BY_NAME[format_name].parts.values()
    params = to_jax(table, theirs, like, BY_NAME[format_name].ignored)
    back = to_torch(table, params)
    kept = {name: array.shape for name, array in theirs.items() if name in back}
    assert {name: array.shape for name, array in back.items()} == kept
    left = set(theirs) - set(back)
    assert all(name.startswith(("head.", "backbone.norm.")) or name.endswith("num_batches_tracked") for name in left)
    if count is not None:
        moments = ("mean", "variance")
        flat = jax.tree_util.tree_leaves_with_path(like)
        assert sum(leaf.size for path, leaf in flat if path[-1].key not in moments) == count


def test_a_round_trip_is_exact() -> None:
    params = params_of(SMALL_2D, rules.TADA2D, "tada2d")
    for name, array in to_torch(rules.TADA2D, params).items():
        np.testing.assert_array_equal(array, drawn(name, array.shape))


def test_other_norms_have_the_same_network() -> None:
    layer = dataclasses.replace(SMALL_2D, norm="layer").build()
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros(CLIP))["params"]
    assert "mean" not in shapes["stem_bn"]
