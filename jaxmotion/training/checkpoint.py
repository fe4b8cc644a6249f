"""Checkpoints: written asynchronously and atomically, readable on another number of devices.

A run folder holds

    checkpoints/STEP/trained      trained parameters, float32
    checkpoints/STEP/ema          their exponential moving average, if the run keeps one
    checkpoints/STEP/optimizer    the optimiser's state
    checkpoints/STEP/counters     steps done and skipped
    checkpoints/STEP/data         the position in the data, one file per process
    checkpoints/STEP/meta         the step, and the places of parts without parameters
    checkpoints/STEP/checksums.json   of all these files (see `checksums`)
    frozen                        frozen parameters, written once
    damaged/STEP                  checkpoints that were found damaged

A folder named by a step is complete: Orbax writes under another name and renames at the end. Unfinished folders of a
killed run are removed at the next start.
"""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxmotion.foundation.errors import CheckpointError, SaveError
from jaxmotion.foundation.types import Array
from jaxmotion.training.checksums import write_checksums
from jaxmotion.training.restore import (
    CHECKPOINTS,
    FROZEN,
    _Meta,
    _name_read_errors,
    _quiet,
    _read,
    check_fit,
    forget_unfinished,
    latest_step,
    root_cause,
)
from jaxmotion.training.state import TrainState, empty_paths

Loader = grain.DatasetIterator[Mapping[str, np.ndarray]]
"""Batches of this process's rows, with a position that can be saved."""


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
                    max_to_keep=keep,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
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
                checkpointer.wait_until_finished()
                if jax.process_index() == 0:
                    write_checksums(self.directory / FROZEN)

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
        """Returns the state saved after `step`, laid out like `abstract`; moves `loader` to the saved position.

        Raises:
          CheckpointError: it does not fit `abstract`, or cannot be read.
        """
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
        with _name_read_errors(folder):
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

    def _write_checksums(self) -> None:
        """Writes the checksums of the step that is being written; Orbax then gives its folder the final name."""
        if jax.process_index() == 0:
            (folder,) = (self.directory / CHECKPOINTS).glob(f"{self._writing}.*tmp*")
            write_checksums(folder)

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
        forget_unfinished()
        atexit.register(forget_unfinished)  # what other threads were still writing by now
        newest = latest_step(self.directory)
        left = (
            f"The checkpoint of step {newest} is intact" if newest is not None else "No checkpoint was written before"
        )
        raise SaveError(
            f"{what} in {self.directory}: {why}. {left}; the same command continues from there once the folder can be "
            "written."
        )


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
