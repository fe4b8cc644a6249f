"""Reading of checkpoints: which is the newest that is intact, and its parameters."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, TypedDict

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from jaxmotion.foundation.errors import CheckpointError
from jaxmotion.foundation.types import Array, Params
from jaxmotion.parallel import sharding
from jaxmotion.training.checksums import find_damage
from jaxmotion.training.state import merge

CHECKPOINTS = "checkpoints"
FROZEN = "frozen"
DAMAGED = "damaged"
Weights = Literal["ema", "raw"]
"""The running mean of the trained parameters (or themselves if the run kept none), or themselves."""
_LOG = logging.getLogger(__name__)


class _Meta(TypedDict):
    """Content of a checkpoint's `meta`."""

    step: int
    empty: list[str]  # paths of frozen parts without parameters
    frozen: bool  # whether the run has frozen parameters


def latest_step(directory: str | Path) -> int | None:
    """Returns the step of the newest complete checkpoint of a run folder, or None."""
    folder = Path(directory).absolute() / CHECKPOINTS
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


def newest_intact_step(directory: str | Path, weights: Weights | None = None) -> int | None:
    """Returns the step of the newest checkpoint that is not damaged, or None if there is none; damaged ones are logged.

    Args:
      weights: look only at what is read to use these parameters; None: at everything.

    Raises:
      CheckpointError: all checkpoints are damaged.
    """
    folder = Path(directory).absolute() / CHECKPOINTS
    steps = sorted(ocp.utils.checkpoint_steps(folder), reverse=True) if folder.is_dir() else []
    for step in steps:
        damage = find_damage(folder / str(step), _parts(folder / str(step), weights) if weights else ())
        if damage is None:
            return step
        _LOG.warning("The checkpoint %s is damaged: %s. It is left out.", folder / str(step), damage)
    if steps:
        raise CheckpointError(
            f"All {len(steps)} checkpoints in {folder} are damaged; in that of step {step}, {damage}. Put a copy of "
            "one there, or start in another folder with --run."
        )
    return None


def set_damaged_aside(directory: str | Path) -> None:
    """Moves checkpoints that are newer than the newest intact one to `damaged/`, and says so; all processes call this.

    Raises:
      CheckpointError: no checkpoint is intact, or the frozen parameters are damaged.
    """
    sharding.do_on_first(lambda: _set_damaged_aside(Path(directory).absolute()), CheckpointError)


def _set_damaged_aside(directory: Path) -> None:
    intact = newest_intact_step(directory)
    if intact is None:
        return
    if _meta(directory / CHECKPOINTS / str(intact))["frozen"] and (damage := find_damage(directory / FROZEN)):
        raise CheckpointError(
            f"The frozen parameters in {directory / FROZEN} are damaged: {damage}. Put a copy of that folder there, or "
            "start in another folder with --run."
        )
    for step in ocp.utils.checkpoint_steps(directory / CHECKPOINTS):
        if step > intact:
            aside = directory / DAMAGED / f"{step}"
            while aside.exists():
                aside = aside.with_name(f"{aside.name}_")
            aside.parent.mkdir(exist_ok=True)
            (directory / CHECKPOINTS / str(step)).rename(aside)
            _LOG.warning("It was set aside as %s; the run goes on from step %d.", aside, intact)


def restore_params(
    directory: str | Path,
    step: int | None = None,
    weights: Weights = "ema",
    *,
    mesh: Mesh | None = None,
    rules: sharding.Rules = (),
) -> Params:
    """Reads all parameters of a run as one nested dict, for use without training; arguments as `restore_with_step`."""
    return restore_with_step(directory, step, weights, mesh=mesh, rules=rules)[0]


def restore_with_step(
    directory: str | Path,
    step: int | None = None,
    weights: Weights = "ema",
    *,
    mesh: Mesh | None = None,
    rules: sharding.Rules = (),
) -> tuple[Params, int]:
    """Reads all parameters of a run as one nested dict, for use without training, and the step that they are of.

    Args:
      directory: the run folder.
      step: which checkpoint; the newest that is intact by default.
      weights: "raw" are the weights being trained, "ema" their running mean (or themselves if the run kept none).
      mesh, rules: lay the parameters out over a mesh; without them they go to the first device of this process.

    Raises:
      CheckpointError: there is no such checkpoint.
    """
    directory = Path(directory).absolute()
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights is {weights!r}; it can be 'ema' or 'raw'.")
    if latest_step(directory) is None:
        raise CheckpointError(f"{directory} holds no complete checkpoint; train first, with --run {directory}.")
    found = newest_intact_step(directory, weights) if step is None else step
    folder = directory / CHECKPOINTS / str(found)
    if found is None or not folder.is_dir():
        steps = sorted(ocp.utils.checkpoint_steps(directory / CHECKPOINTS))
        raise CheckpointError(f"{directory} holds no checkpoint of step {step}; it holds {', '.join(map(str, steps))}.")
    parts = _parts(folder, weights)
    if step is not None:
        _check_intact(folder, parts)
    trained = folder / parts[0]
    params = _read(trained, _describe(trained, mesh, rules))
    meta = _meta(folder)
    if meta["frozen"]:
        _check_intact(directory / FROZEN)
        params = merge(params, _read(directory / FROZEN, _describe(directory / FROZEN, mesh, rules)))
    for path in meta["empty"]:
        *above, name = path.split("/")
        part = params
        for piece in above:
            part = part.setdefault(piece, {})
        part.setdefault(name, {})
    return params, found


def _parts(folder: Path, weights: Weights) -> tuple[str, str]:
    """Names of what is read of a checkpoint to use its parameters."""
    return "ema" if weights == "ema" and (folder / "ema").is_dir() else "trained", "meta"


def _check_intact(folder: Path, parts: Collection[str] = ()) -> None:
    damage = find_damage(folder, parts)
    if damage:
        raise CheckpointError(f"The checkpoint {folder} is damaged: {damage}. Take another step, or a copy of it.")


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


def _saved_shapes(folder: Path) -> Params:
    """Returns shapes and types of the arrays in `folder`, as a tree of dicts."""
    _quiet()
    with _name_read_errors(folder), ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder).item_metadata
    if metadata is None:
        raise CheckpointError(
            f"The checkpoint {folder} cannot be read: what describes its arrays is missing or damaged."
        )
    return metadata.tree


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
    with _name_read_errors(folder), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, abstract)


@contextlib.contextmanager
def _name_read_errors(folder: Path) -> Iterator[None]:
    """Turns what Orbax, TensorStore and Grain raise when they read a damaged folder into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001  Orbax raises bare ones
        why = root_cause(error)
    else:
        return
    forget_unfinished()
    raise CheckpointError(f"The checkpoint {folder} cannot be read: {why}.")


def _meta(folder: Path) -> _Meta:
    """Reads what Orbax wrote as JSON, without Orbax, whose readers wait for all processes."""
    with _name_read_errors(folder):
        return json.loads((folder / "meta" / "metadata").read_text(encoding="utf-8"))


def _once(record: logging.LogRecord) -> bool:
    """Filters from Orbax's log the traces of errors, which it raises too, and a warning about items read alone."""
    if record.name == "asyncio":
        return "orbax" not in record.getMessage()
    alone = record.levelno == logging.WARNING and "Metadata file does not exist" in record.getMessage()
    return "orbax" not in record.pathname or not (record.exc_info or alone)


def _quiet() -> None:
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_once)  # the same filter is added only once


def forget_unfinished() -> None:
    """Collects the coroutines that a failed write of Orbax leaves behind; Python would warn of each at exit."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
