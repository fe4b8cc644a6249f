"""RAFT against the code of its authors, whose results are kept beside this file; the weights come from their names."""

from __future__ import annotations

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.models.raft import LARGE, SMALL
from jaxmotion.video.decode import read_clip
from jaxmotion.weights.rules import to_jax, to_torch
from jaxmotion.weights.tables import raft as rules
from jaxmotion.weights.tensor_files import open_tensors

GOLDEN = Path(__file__).parent / "golden_raft.npz"
SIZE = (128, 136)
CASES = {"small": (SMALL, rules.RAFT_SMALL), "large": (LARGE, rules.RAFT_LARGE)}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that keep activations in range, with moments that are not trivial; a shared norm has one name."""
    name = name.replace("norm3", "downsample.1") if len(shape) == 1 else name
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape)
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    if len(shape) == 1:
        moved = 1.0 if name.endswith("weight") else 0.0
        return (moved + 0.1 * values).astype(np.float32)
    return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def frames() -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and the same moved by 3.5 pixels to the right and 2 down."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    waves = np.random.default_rng(1).uniform(-0.3, 0.3, (3, 8, 3)) * [1, 1, 20]

    def picture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        colours = [sum(np.sin(a * x + b * y + c) for a, b, c in colour) for colour in waves]
        return (127.5 + 15 * np.stack(colours, -1)).astype(np.float32)

    return picture(x, y)[None], picture(x - 3.5, y - 2)[None]


def golden(name: str) -> np.ndarray:
    with np.load(GOLDEN) as arrays:
        return arrays[name]


def published(name: str) -> dict[str, tuple[int, ...]]:
    rows = (row.split() for row in golden(f"{name}_names").tolist())
    return {row[0]: tuple(int(size) for size in row[1:]) for row in rows}


def like(sizes):
    shapes = jax.eval_shape(sizes.build().init, jax.random.key(0), *(jnp.zeros((1, *SIZE, 3)),) * 2)
    return shapes["params"]


@pytest.mark.parametrize("name", CASES)
def test_flow_on_random_weights(name) -> None:
    sizes, table = CASES[name]
    tensors = {each: drawn(each, shape) for each, shape in published(name).items()}
    params = to_jax(table, tensors, like(sizes), rules.COUNTS)
    flow = np.asarray(jax.jit(sizes.build().apply)({"params": params}, *frames()))[:, ::4, ::4]
    theirs = golden(f"{name}_flow")
    assert np.abs(flow - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name", CASES)
def test_every_published_name_is_one_of_ours_and_comes_back(name) -> None:
    sizes, table = CASES[name]
    tensors = {each: drawn(each, shape) for each, shape in published(name).items()}
    back = to_torch(table, to_jax(table, tensors, like(sizes), rules.COUNTS))
    assert {each for each in tensors if not each.endswith("num_batches_tracked")} == set(back)
    for each, array in back.items():
        np.testing.assert_array_equal(array, tensors[each])


def test_real_weights_on_real_frames(shared_weights, shared_data) -> None:
    tensors = open_tensors(shared_weights / "raft_small.safetensors")
    params = to_jax(rules.RAFT_SMALL, tensors, like(SMALL))
    assert sum(array.size for array in jax.tree.leaves(params)) == 990_162
    clip = read_clip(str(shared_data / "clips" / "davis_car_turn_80.mp4"), 2, 5.0, (128, 192), 0.3).astype(np.float32)
    flow = np.asarray(jax.jit(SMALL.build().apply)({"params": params}, clip[:1], clip[1:]))[:, ::4, ::4]
    theirs = golden("real_flow")
    assert np.abs(theirs).max() > 1
    # twelve rounds of looking up what the round before pointed at let rounding grow
    assert np.abs(flow - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_frames_that_cannot_be_looked_at_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8 and at least 128"):
        jax.eval_shape(SMALL.build().init, jax.random.key(0), *(jnp.zeros((1, 100, 128, 3)),) * 2)
