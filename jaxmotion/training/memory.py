"""Memory of a run, before anything is allocated: a table of parameters and bytes per device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import PyTree
from rich.markup import escape
from rich.table import Table

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Shaped
from jaxmotion.parallel import sharding
from jaxmotion.training.config import TrainConfig
from jaxmotion.training.state import TrainState
from jaxmotion.training.step import Task, abstract_state, build_program


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters whose paths begin alike, all trained or all frozen. Bytes are those of the stored parameters."""

    path: str
    trained: bool
    arrays: int
    shape: tuple[int, ...] | None  # of a group of one array
    parameters: int
    bytes: int
    bytes_per_device: int
    sharding: tuple[str, ...]  # the different partition specs in the group, over the mesh axes larger than 1
    dropped: tuple[str, ...]  # mesh axes that a rule names and that do not divide their dimension


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Memory of a run. All bytes are of one device (the fullest), and plain integers."""

    mesh: dict[str, int]
    groups: tuple[Group, ...]
    trained_parameters: int
    frozen_parameters: int
    master: int  # trained parameters, float32
    frozen: int  # frozen parameters, in the computing type
    compute: int  # copies of the trained parameters in the computing type, when that is not float32
    gradients: int  # float32; twice when gradients are accumulated
    optimizer: int
    ema: int
    working: (
        int | None
    )  # largest working memory of the compiled step: activations, gradients and copies; None: not compiled

    @property
    def state(self) -> int:
        """Bytes that stay in memory between steps."""
        return self.master + self.frozen + self.optimizer + self.ema

    @property
    def total(self) -> int:
        """Bytes of state and working memory; without a compiled step, activations are not counted."""
        return self.state + (self.compute + self.gradients if self.working is None else self.working)

    def as_json(self) -> Json:
        """Returns everything as JSON values."""
        return {**dataclasses.asdict(self), "state": self.state, "total": self.total}

    def tables(self) -> tuple[Table, Table]:
        """Returns (parameters by group, memory per device), to be printed with rich."""
        return _parameter_table(self), _memory_table(self)


def memory_report(
    task: Task,
    config: TrainConfig,
    mesh: Mesh | AbstractMesh,
    batch: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    *,
    depth: int = 2,
) -> MemoryReport:
    """Returns the memory that training `task` needs on each device of `mesh`. Allocates nothing.

    Args:
      task, config: as for `loop.run`.
      mesh: the devices; an AbstractMesh (`parallel.mesh.make_abstract_mesh`) for devices that are not here.
      batch: shapes of a global batch. When given, the step is compiled for `mesh`, which must be of real devices, and
        its working memory is the compiler's own number (of this backend; another one lays out memory otherwise).
      depth: pieces of a path by which parameters are grouped.
    """
    state = abstract_state(task, config, mesh)
    narrow = jnp.dtype(config.precision).itemsize < 4
    master = bytes_per_device(state.trained)
    return MemoryReport(
        mesh=dict(mesh.shape),
        groups=tuple(groups(state, task.sharding, mesh, depth)),
        trained_parameters=count(state.trained),
        frozen_parameters=count(state.frozen),
        master=master,
        frozen=bytes_per_device(state.frozen),
        compute=master * jnp.dtype(config.precision).itemsize // 4 if narrow else 0,
        gradients=master * (2 if config.accumulate > 1 else 1),
        optimizer=bytes_per_device(state.optimizer),
        ema=bytes_per_device(state.ema),
        working=None if batch is None else _working(task, config, mesh, batch),
    )


def groups(state: TrainState, rules: sharding.Rules, mesh: Mesh | AbstractMesh, depth: int) -> list[Group]:
    """Groups the parameters of a state (arrays, or shapes with shardings) by the first pieces of their paths."""
    members: dict[tuple[str, bool], dict[str, jax.Array]] = {}
    for trained, tree in ((True, state.trained), (False, state.frozen)):
        for path, leaf in sharding.paths(tree).items():
            group = "/".join(path.split("/")[:depth])
            members.setdefault((group, trained), {})[path] = leaf
    found = []
    for (group, trained), leaves in members.items():
        placed = [sharding.place(path, leaf.shape, rules, mesh) for path, leaf in leaves.items()]
        shapes = [leaf.shape for leaf in leaves.values()]
        found.append(
            Group(
                path=group if len(leaves) > 1 else next(iter(leaves)),
                trained=trained,
                arrays=len(leaves),
                shape=tuple(shapes[0]) if len(shapes) == 1 else None,
                parameters=count(leaves),
                bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values()),
                bytes_per_device=bytes_per_device(leaves),
                sharding=tuple(sorted({_spec_text(placement.spec, mesh) for placement in placed if placement})),
                dropped=tuple(sorted({text for placement in placed if placement for text in placement.dropped})),
            )
        )
    return found


def count(tree: PyTree[Shaped]) -> int:
    """Returns the number of elements in a tree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def bytes_per_device(tree: PyTree[jax.Array]) -> int:
    """Returns the bytes of a tree of arrays, or of shapes with shardings, on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def size_text(size: int) -> str:
    """Returns bytes as text: 512 B, 3.2 KiB, 1.5 GiB."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _working(
    task: Task, config: TrainConfig, mesh: Mesh | AbstractMesh, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> int:
    if not isinstance(mesh, Mesh):
        raise ValueError("The working memory of a step can only be had on a mesh of real devices; leave `batch` out.")
    with jax.set_mesh(mesh):
        program = build_program(task, config, mesh)
        analysis = program.update.lower(program.abstract, dict(batch)).compile().memory_analysis()
    if analysis is None:
        raise ValueError("This backend's compiler does not tell the working memory of a step; leave `batch` out.")
    return int(analysis.temp_size_in_bytes)


def _spec_text(spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> str:
    entries = []
    for entry in spec:
        axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        entries.append("+".join(axis for axis in axes if mesh.shape[axis] > 1) or "-")
    return "(" + ", ".join(entries) + ")" if any(entry != "-" for entry in entries) else "whole"


def _parameter_table(plan: MemoryReport) -> Table:
    table = Table(title="Parameters", title_justify="left")
    for name in ("path", "", "shape"):
        table.add_column(name)
    for name in ("parameters", "bytes", "per device"):
        table.add_column(name, justify="right")
    table.add_column("sharding")
    for group in plan.groups:
        table.add_row(
            group.path,
            "trained" if group.trained else "frozen",
            " x ".join(map(str, group.shape)) if group.shape is not None else f"{group.arrays} arrays",
            f"{group.parameters:,}",
            size_text(group.bytes),
            size_text(group.bytes_per_device),
            escape("; ".join((*group.sharding, *(f"[{text}]" for text in group.dropped)))),
        )
    for name, number in (("trained", plan.trained_parameters), ("frozen", plan.frozen_parameters)):
        table.add_row("all", name, "", f"{number:,}", "", "", "", style="bold")
    return table


def _memory_table(plan: MemoryReport) -> Table:
    axes = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    table = Table(title="Memory of one device", title_justify="left")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    rows = [
        ("trained parameters, float32", plan.master),
        ("frozen parameters", plan.frozen),
        ("optimiser", plan.optimizer),
        ("running mean (EMA)", plan.ema),
        ("gradients, float32", plan.gradients),
        ("copies in the computing type", plan.compute),
    ]
    table.add_row("mesh", axes)
    for name, size in rows:
        table.add_row(name, size_text(size))
    if plan.working is None:
        table.add_row("activations", "not estimated")
        table.add_row("at least", size_text(plan.total), style="bold")
    else:
        table.add_row("working memory of the compiled step\n(the two above and activations)", size_text(plan.working))
        table.add_row("in all", size_text(plan.total), style="bold")
    return table
