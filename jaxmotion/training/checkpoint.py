"""Checkpoints: written asynchronously and atomically, readable on another number of devices.

A run folder holds

    checkpoints/STEP/trained      trained parameters, float32
    checkpoints/STEP/ema          their exponential moving average, if the run keeps one
    checkpoints/STEP/optimizer    the optimiser's state
    checkpoints/STEP/counters     steps done and skipped
    checkpoints/STEP/data         the position in the data, one file per process
    checkpoints/STEP/meta         the step, and the places of parts without parameters
    frozen                        frozen parameters, written once

A folder named by a step is complete: Orbax writes under another name and renames at the end. Unfinished folders of a
killed run are removed at the next start.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from jaxmotion.foundation.errors import CheckpointError, SaveError
from jaxmotion.foundation.types import Array, Params
from jaxmotion.parallel import sharding
from jaxmotion.training.state import TrainState, empty_paths, merge

CHECKPOINTS = "checkpoints"
FROZEN = "frozen"
Loader = grain.DatasetIterator[Mapping[str, np.ndarray]]
"""Batches of this process's rows, with a position that can be saved."""


class _Meta(TypedDict):
    """Content of a checkpoint's `meta`."""

    step: int
    empty: list[str]  # paths of frozen parts without parameters
    frozen: bool  # whether the run has frozen parameters


class Checkpoints:
    """The checkpoints of one run folder. `save` returns as soon as the arrays are copied; `wait` ends the writing."""

    def __init__(self, directory: str | Path, keep: int):
        _quiet()
        self.directory = Path(directory).absolute()
        self._writing: int | None = None  # the step that may still be on its way to the disk
        with self._name_errors("The folder of the checkpoints could not be made"):
            self._manager = ocp.CheckpointManager(
                self.directory / CHECKPOINTS,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
                ),
            )

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return latest_step(self.directory)

    def save_frozen(self, state: TrainState) -> None:
        """Writes the frozen parameters, which all checkpoints of a run share. Returns when they are on disk."""
        if jax.tree.leaves(state.frozen):
            with (
                self._name_errors("The frozen parameters could not be written"),
                ocp.StandardCheckpointer() as checkpointer,
            ):
                checkpointer.save(self.directory / FROZEN, state.frozen, force=True)

    def save(self, step: int, state: TrainState, loader: Loader) -> None:
        """Starts writing the state after `step` and the loader's position. Raises SaveError if the last failed."""
        trees = {"trained": state.trained, "ema": state.ema, "optimizer": state.optimizer, "counters": _counters(state)}
        items: dict[str, ocp.args.CheckpointArgs] = {
            name: ocp.args.StandardSave(tree) for name, tree in trees.items() if jax.tree.leaves(tree)
        }
        meta: _Meta = {"step": step, "empty": empty_paths(state.frozen), "frozen": bool(jax.tree.leaves(state.frozen))}
        items["data"] = grain.checkpoint.CheckpointSave(_Position(loader))
        items["meta"] = ocp.args.JsonSave(meta)
        self.wait()  # the manager would wait too, but an error here is that of the step before
        self._writing = step
        with self._name_errors(f"The checkpoint of step {step} could not be written"):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, abstract: TrainState, loader: Loader) -> TrainState:
        """Returns the state saved after `step`, laid out like `abstract`; moves `loader` to the saved position."""
        folder = self.directory / CHECKPOINTS / str(step)
        _check_processes(folder / "data")
        trees = {"trained": abstract.trained, "ema": abstract.ema, "optimizer": abstract.optimizer}
        trees = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)} | {
            "counters": _counters(abstract)
        }
        check_fit(folder / "trained", abstract.trained)
        items: dict[str, ocp.args.CheckpointArgs] = {
            name: ocp.args.StandardRestore(tree) for name, tree in trees.items()
        }
        items["data"] = grain.checkpoint.CheckpointRestore(_Position(loader))
        read = self._manager.restore(step, args=ocp.args.Composite(**items))
        frozen = abstract.frozen
        if jax.tree.leaves(frozen):
            check_fit(self.directory / FROZEN, frozen)
            frozen = _read(self.directory / FROZEN, frozen)
        return abstract.replace(frozen=frozen, **{"ema": {}, "optimizer": abstract.optimizer} | _flat(read, trees))

    def check(self) -> None:
        """Raises SaveError if a write in the background has failed."""
        with self._name_errors(f"The checkpoint of step {self._writing} could not be written"):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when everything is on disk. Raises SaveError if a write failed."""
        with self._name_errors(f"The checkpoint of step {self._writing} could not be written"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def preempted(self, step: int) -> bool:
        """Returns whether some process of a multi-process run was preempted; all processes get the same answer."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Finishes pending writes and stops their threads."""
        with self._name_errors(f"The checkpoint of step {self._writing} could not be written"):
            self._manager.close()

    @contextlib.contextmanager
    def _name_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except SaveError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # what Orbax and TensorStore raise
            why = root_cause(error)
        else:
            return
        _forget_unfinished()
        atexit.register(_forget_unfinished)  # what other threads were still writing by now
        newest = latest_step(self.directory)
        left = (
            f"The checkpoint of step {newest} is intact" if newest is not None else "No checkpoint was written before"
        )
        raise SaveError(
            f"{what} in {self.directory}: {why}. {left}; the same command continues from there once the folder can be "
            "written."
        )


def latest_step(directory: str | Path) -> int | None:
    """Returns the step of the newest complete checkpoint of a run folder, or None."""
    folder = Path(directory).absolute() / CHECKPOINTS
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


def restore_params(
    directory: str | Path,
    step: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
    *,
    mesh: Mesh | None = None,
    rules: sharding.Rules = (),
) -> Params:
    """Reads all parameters of a run as one nested dict, for use without training.

    Args:
      directory: the run folder.
      step: which checkpoint; the newest by default.
      weights: "raw" are the weights being trained, "ema" their running mean (or themselves if the run kept none).
      mesh, rules: lay the parameters out over a mesh; without them they go to the first device of this process.

    Raises:
      CheckpointError: there is no such checkpoint.
    """
    directory = Path(directory).absolute()
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights is {weights!r}; it can be 'ema' or 'raw'.")
    newest = latest_step(directory)
    if newest is None:
        raise CheckpointError(f"{directory} holds no complete checkpoint; train first, with --run {directory}.")
    folder = directory / CHECKPOINTS / str(newest if step is None else step)
    if not folder.is_dir():
        steps = sorted(ocp.utils.checkpoint_steps(directory / CHECKPOINTS))
        raise CheckpointError(f"{directory} holds no checkpoint of step {step}; it holds {', '.join(map(str, steps))}.")
    mean = folder / "ema"
    trained = mean if weights == "ema" and mean.is_dir() else folder / "trained"
    params = _read(trained, _describe(trained, mesh, rules))
    meta = _meta(folder)
    if meta["frozen"]:
        params = merge(params, _read(directory / FROZEN, _describe(directory / FROZEN, mesh, rules)))
    for path in meta["empty"]:
        *above, name = path.split("/")
        part = params
        for piece in above:
            part = part.setdefault(piece, {})
        part.setdefault(name, {})
    return params


def check_fit(folder: Path, wanted: Params) -> None:
    """Raises CheckpointError, naming paths, unless the arrays in `folder` have the paths and shapes of `wanted`."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing; the run folder is not whole.")
    saved, mine = sharding.paths(_saved_shapes(folder)), sharding.paths(wanted)
    lines = [f"  {path} is not in the checkpoint" for path in mine.keys() - saved.keys()]
    lines += [f"  {path} is only in the checkpoint" for path in saved.keys() - mine.keys()]
    lines += [
        f"  {path} is {tuple(saved[path].shape)} in the checkpoint and {tuple(mine[path].shape)} in the model"
        for path in mine.keys() & saved.keys()
        if tuple(saved[path].shape) != tuple(mine[path].shape)
    ]
    if lines:
        more = [f"  and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise CheckpointError(
            "\n".join([f"The checkpoint {folder} does not fit the model:", *sorted(lines)[:10], *more])
        )


def root_cause(error: BaseException) -> str:
    """Returns the innermost cause of an error in one line, in plain words when the disk is full."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if any("No space left" in str(each) or "ENOSPC" in str(each) or "Disk quota" in str(each) for each in chain):
        return "no space is left on the disk"
    text = " ".join(str(chain[-1]).split())
    if "[os_error_code" in text:  # a chain of file names, then the system's own words
        text = text.rpartition(" [os_error_code")[0].rpartition(": ")[2]
    return text[:300] or type(chain[-1]).__name__


class _Position:
    """Adapter of a loader to Grain's checkpoint handler, which wants a state of bytes; here JSON."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def get_state(self) -> bytes:
        state = self._loader.get_state()
        return state if isinstance(state, bytes) else json.dumps(state).encode()

    def set_state(self, state: bytes) -> None:
        as_bytes = isinstance(self._loader.get_state(), bytes)
        position: Any = state if as_bytes else json.loads(state)
        self._loader.set_state(position)

    def start_prefetch(self) -> None:
        """Starts prefetching, in iterators that can. Grain calls it after `set_state`."""
        getattr(self._loader, "start_prefetch", lambda: None)()


COUNTERS = {"step": "step", "skipped": "skipped", "skipped_in_row": "consecutive_skipped"}
"""Fields of the state that count steps, by their names in checkpoints."""


def _counters(state: TrainState) -> dict[str, Array]:
    return {saved: getattr(state, field) for saved, field in COUNTERS.items()}


def _flat(read: Mapping[str, PyTree[Array]], trees: Iterable[str]) -> dict[str, PyTree[Array]]:
    return {name: read[name] for name in trees if name != "counters"} | {
        field: read["counters"][saved] for saved, field in COUNTERS.items()
    }


def _check_processes(folder: Path) -> None:
    """Raises CheckpointError unless the data position was saved by as many processes (`process_I-of-N.json`)."""
    if (folder / f"process_{jax.process_index()}-of-{jax.process_count()}.json").is_file():
        return
    saved = {path.stem.rpartition("-")[2] for path in folder.glob("process_*.json")}
    raise CheckpointError(
        f"The position in the data was saved by {' or '.join(sorted(saved)) or 'no'} process(es) and this run has "
        f"{jax.process_count()}. Continue with as many processes as before."
    )


def _saved_shapes(folder: Path) -> Params:
    """Returns shapes and types of the arrays in `folder`, as a tree of dicts."""
    _quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(folder).item_metadata.tree


def _describe(folder: Path, mesh: Mesh | None, rules: sharding.Rules) -> Params:
    """Returns shapes, types and shardings with which the arrays in `folder` are read."""
    saved = _saved_shapes(folder)
    if mesh is None:
        alone = SingleDeviceSharding(jax.local_devices()[0])
        layout = jax.tree.map(lambda _: alone, saved)
    else:
        layout = sharding.shardings(saved, rules, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(tuple(x.shape), x.dtype, sharding=s), saved, layout)


def _read(folder: Path, abstract: Params) -> dict[str, PyTree[Array]]:
    _quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, abstract)


def _meta(folder: Path) -> _Meta:
    _quiet()
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder / "meta")


def _forget_unfinished() -> None:
    """Collects the coroutines that a failed write of Orbax leaves behind; Python would warn of each at exit."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


def _once(record: logging.LogRecord) -> bool:
    """Filters from Orbax's log the traces of errors, which it raises too, and a warning about items read alone."""
    if record.name == "asyncio":
        return "orbax" not in record.getMessage()
    alone = record.levelno == logging.WARNING and "Metadata file does not exist" in record.getMessage()
    return "orbax" not in record.pathname or not (record.exc_info or alone)


def _quiet() -> None:
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_once)  # the same filter is added only once
