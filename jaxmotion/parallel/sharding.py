"""Sharding of arrays over the mesh: rules from parameter paths to partition specs.

A rule is (regular expression, PartitionSpec). The expression is searched in the '/'-joined path of a parameter, and the
first rule that matches gives the spec. Modules know nothing of this; they may call `constrain` on activations.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.foundation.types import Shaped

BATCH_AXES = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""

Json = TypeVar("Json", bound=JsonValue)
Results = TypeVar("Results", bound=PyTree[jax.Array])
Rules = Sequence[tuple[str, P]]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Partition spec of one array. `dropped` names the rule's mesh axes that did not divide their dimension."""

    spec: P
    dropped: tuple[str, ...] = ()


def paths(tree: PyTree[jax.Array]) -> dict[str, jax.Array]:
    """Returns the leaves of a tree by '/'-joined path, e.g. `denoiser/conv_in/kernel`.

    Leaves are arrays, or their shapes (`jax.ShapeDtypeStruct`).
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def place(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh | AbstractMesh) -> Placement | None:
    """Returns the placement of one array: that of the first rule that matches `path`, or None if no rule does.

    A mesh axis that does not divide its dimension is left out for that dimension (the array is whole along it).
    """
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), None)
    if spec is None:
        return None
    if len(spec) > len(shape):
        raise ValueError(f"The sharding rule for {path!r} names {len(spec)} dimensions; the array has {len(shape)}.")
    entries, dropped = [], []
    for size, entry in zip(shape, spec, strict=False):
        axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        unknown = [axis for axis in axes if axis not in mesh.shape]
        if unknown:
            raise ValueError(
                f"The sharding rule for {path!r} names the mesh axis {unknown[0]!r}; the mesh has {mesh.axis_names}."
            )
        if size % math.prod(mesh.shape[axis] for axis in axes):
            dropped.append(f"{'+'.join(axes)} does not divide {size}")
            axes = ()
        entries.append(entry if axes else None)
    return Placement(P(*entries), tuple(dropped))


def placements(tree: PyTree[Shaped], rules: Rules, mesh: Mesh | AbstractMesh) -> dict[str, Placement]:
    """Returns the placement of every leaf by path. Raises ValueError naming all paths that match no rule."""
    found = {path: place(path, leaf.shape, rules, mesh) for path, leaf in paths(tree).items()}
    missing = [path for path, placement in found.items() if placement is None]
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise ValueError(
            f"No sharding rule matches {shown}. End the table with a rule that catches the rest: ('.*', P())."
        )
    return {path: placement for path, placement in found.items() if placement is not None}


def shardings(tree: PyTree[Shaped], rules: Rules, mesh: Mesh | AbstractMesh) -> PyTree[NamedSharding]:
    """Returns `tree` with each leaf (anything with a `.shape`) replaced by its NamedSharding."""
    found = placements(tree, rules, mesh)

    def named(path: jax.tree_util.KeyPath, _: Shaped) -> NamedSharding:
        return NamedSharding(mesh, found[jax.tree_util.keystr(path, simple=True, separator="/")].spec)

    return jax.tree_util.tree_map_with_path(named, tree)


def replicated_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding under which every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of a batch: rows split over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts into which a batch is split; the batch size must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: jax.Array, *spec: str | tuple[str, ...] | None) -> jax.Array:
    """Constrains the layout of `x`, one entry per dimension: `constrain(x, BATCH_AXES, "context", None, None, None)`.

    Entries that do not divide their dimension are left out, as in `place`. Without a mesh (`jax.set_mesh`) there is
    nothing to lay out, and only then is `x` returned as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    entries = [
        None if entry is None or size % _ways(entry, mesh) else entry
        for size, entry in zip(x.shape, spec, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, P(*entries))


def _ways(entry: str | tuple[str, ...], mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts into which an entry of a spec splits its dimension."""
    return math.prod(mesh.shape[axis] for axis in ((entry,) if isinstance(entry, str) else entry))


def batch_shard_count(rows: int) -> int:
    """Returns the number of parts into which a batch is split over the current mesh (`jax.set_mesh`); 1 without any."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or rows % batch_shards(mesh) else batch_shards(mesh)


def interleave_rows(x: jax.Array, parts: int) -> jax.Array:
    """Reshapes [B ...] to [parts, B / parts ...] by every `parts`-th row, so each part has rows of every device."""
    return constrain(jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), None, BATCH_AXES)


def restore_rows(x: jax.Array) -> jax.Array:
    """Inverts `interleave_rows`: [parts, B / parts ...] to [B ...] in the original order."""
    return constrain(jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), BATCH_AXES)


def map_rows(function: Callable[[jax.Array], Results], x: jax.Array, at_once: int) -> Results:
    """Applies a function of rows [B ...] to at most `at_once` of the rows of each device after the others; 0: to all.

    Rows stay on the devices that have them, and all devices are busy. (`jax.lax.map` over a batch that is split would
    hand each part of it to all devices.) Rows are added where `at_once` leaves unequal parts, and thrown away again.
    """
    rows, devices = x.shape[0], batch_shard_count(x.shape[0])
    here = rows // devices
    if at_once == 0 or at_once >= here:
        return function(x)
    parts = -(-here // at_once)
    added = -here % parts
    if added:
        x = jnp.pad(x.reshape(devices, here, *x.shape[1:]), ((0, 0), (0, added), *[(0, 0)] * (x.ndim - 1)))
        x = constrain(x, BATCH_AXES).reshape(-1, *x.shape[2:])

    def original_rows(y: jax.Array) -> jax.Array:
        y = restore_rows(y)
        return y.reshape(devices, here + added, *y.shape[1:])[:, :here].reshape(rows, *y.shape[1:]) if added else y

    return jax.tree.map(original_rows, jax.lax.map(function, interleave_rows(x, parts)))


def process_slice(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): the part of the global batch that this process must load, and the number of parts.

    Usually the process index and count. Processes whose devices hold the same rows (a `tensor` or `context` axis that
    crosses processes) load the same part.
    """
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices).reshape(batch_shards(mesh), -1)
    rows = {process: tuple(np.flatnonzero((processes == process).any(axis=1))) for process in np.unique(processes)}
    parts = sorted(set(rows.values()))
    if sum(map(len, parts)) != len(processes) or len({len(part) for part in parts}) != 1:
        raise ValueError(
            f"The mesh {dict(mesh.shape)} gives processes overlapping or unequal parts of the batch; use other sizes."
        )
    return parts.index(rows[jax.process_index()]), len(parts)


def broadcast_from_first(value: Json) -> Json:
    """Broadcasts a JSON value of the first process to all processes, which must all call this."""
    if jax.process_count() == 1:
        return value
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(encoded.size)))
    buffer = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        buffer[:] = encoded
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())


def do_on_first(action: Callable[[], None], expected: type[Exception]) -> None:
    """Runs an action in the first process. All processes must call this, and all raise its expected error."""
    failed = None
    if jax.process_index() == 0:
        try:
            action()
        except expected as error:
            failed = str(error)
    failed = broadcast_from_first(failed)
    if failed is not None:
        raise expected(failed)


def distribute(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global arrays of a batch of which each process holds its rows (`process_slice`)."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
