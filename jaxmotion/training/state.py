"""State that a training run carries from step to step, and the split into trained and frozen parameters.

Trained parameters are float32 and have gradients, optimiser state and a running mean; frozen ones have none of these
and are held in the type in which the networks compute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import PyTree
from tqdm import tqdm

from jaxmotion.foundation.types import Array, ArrayLike, Params
from jaxmotion.parallel import sharding


class TrainState(flax.struct.PyTreeNode):
    """Everything that an update reads and writes. `ema` is empty when no moving average is kept."""

    step: Array  # int32: steps done, skipped ones included
    skipped: Array  # int32: steps whose loss or gradient was not finite
    consecutive_skipped: Array  # int32: how many of the latest steps were such
    trained: Params
    frozen: Params
    ema: Params
    optimizer: optax.OptState

    def params(self, weights: Literal["ema", "raw"] = "ema") -> Params:
        """Returns all parameters as one nested dict; the trained ones are their moving average if kept, or raw.

        The arrays are those of this state. The next update donates their memory, so copy what must outlive it.
        """
        return merge(self.ema if weights == "ema" and jax.tree.leaves(self.ema) else self.trained, self.frozen)


def new_state(
    params: Params, transform: optax.GradientTransformation, trained: Sequence[str], dtype: DTypeLike, ema: bool
) -> TrainState:
    """Returns the state before the first step."""
    mine, frozen = split(params, trained)
    mine = cast(mine, jnp.float32)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        consecutive_skipped=jnp.zeros((), jnp.int32),
        trained=mine,
        frozen=cast(frozen, dtype),
        ema=mine if ema else {},
        optimizer=transform.init(mine),
    )


def with_pretrained(state: TrainState, arrays: Mapping[str, ArrayLike]) -> TrainState:
    """Returns the state with some parameters replaced by pretrained array-likes, given by path.

    The arrays are read one after the other, and cast and laid out as the state is. The moving average starts from them.

    Raises:
        ValueError: the state has no such parameter, or it has another shape.
    """
    trees = {"trained": state.trained, "frozen": state.frozen, "ema": state.ema}
    flat = {name: sharding.paths(tree) for name, tree in trees.items()}
    with tqdm(arrays.items(), desc="loading weights", unit="array", leave=False, disable=None) as bar:
        for path, array in bar:
            homes = [leaves for leaves in flat.values() if path in leaves]
            if not homes or tuple(homes[0][path].shape) != tuple(array.shape):
                has = f"has the shape {tuple(homes[0][path].shape)}" if homes else "is none of the parameters"
                raise ValueError(f"{path} came with the shape {tuple(array.shape)}, but it {has}.")
            values = np.asarray(array)
            for leaves in homes:
                leaves[path] = _laid_out(values, leaves[path])
    full = {name: jax.tree.unflatten(jax.tree.structure(tree), flat[name].values()) for name, tree in trees.items()}
    return state.replace(**full)


def _laid_out(values: np.ndarray, like: Array) -> Array:
    """Returns the values as an array like `like`.

    A copy in every place: the update donates each array of the state, so no two of them may share memory.
    """
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: np.array(values[index], like.dtype))


def cast(params: Params, dtype: DTypeLike) -> Params:
    """Casts floating-point leaves to `dtype`; others (tables of integers, flags) stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)


def split(params: Params, trained: Sequence[str]) -> tuple[Params, Params]:
    """Returns (trained, frozen): two nested dicts that hold each leaf once; empty dicts stay in the second."""
    leaves = sharding.paths(params)
    for pattern in trained:
        if not any(re.search(pattern, path) for path in leaves):
            shown = ", ".join(list(leaves)[:5])
            raise ValueError(f"The pattern {pattern!r} in `trained` matches no parameter. Paths look like: {shown}.")
    chosen = {path for path in leaves if any(re.search(pattern, path) for pattern in trained)}
    if not chosen:
        raise ValueError("No parameter is trained: `trained` is empty. Give at least one pattern, such as '.*'.")
    for path in sorted(chosen):
        if not jnp.issubdtype(leaves[path].dtype, jnp.floating):
            raise ValueError(f"{path!r} holds {leaves[path].dtype} and cannot be trained; leave it out of `trained`.")
    return _pick(params, chosen, True, ""), _pick(params, chosen, False, "")


def merge(first: Params, second: Params) -> dict[str, PyTree[Array]]:
    """Merges two nested dicts. Raises ValueError if a leaf is in both."""
    merged = dict(first)
    for name, value in second.items():
        if name not in merged:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = merge(merged[name], value)
        else:
            raise ValueError(f"Two parameter trees both hold {name!r}.")
    return merged


def empty_paths(params: Params, above: str = "") -> list[str]:
    """Returns the paths of the empty dicts in a tree: the places of parts that have no parameters."""
    found = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            found += empty_paths(value, f"{above}{name}/") if value else [f"{above}{name}"]
    return found


def _pick(params: Params, chosen: set[str], inside: bool, above: str) -> Params:
    picked = {}
    for name, value in params.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            part = _pick(value, chosen, inside, f"{path}/")
            if part or (not value and not inside):
                picked[name] = part
        elif (path in chosen) == inside:
            picked[name] = value
    return picked
