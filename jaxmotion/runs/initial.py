"""Parameters before the first step, and what a run would cost."""

from __future__ import annotations

import logging
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from rich.console import Console

from jaxmotion.foundation.config_json import parts_by_flag
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import ArrayLike, Params
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.system import Task, TaskWithout
from jaxmotion.training.memory import memory_report
from jaxmotion.training.state import cast

_LOG = logging.getLogger(__name__)


def idle_parts(experiment: Experiment, entries: Collection[str]) -> frozenset[str]:
    """Returns the parts that training on such data does without: no step reads them, and a source has them."""
    return experiment.system.idle_parts(entries) & {source.whole_part for source in experiment.pretrained.values()}


def read_parts(experiment: Experiment, task: Task, parts: Collection[str]) -> Params:
    """Returns parts that a run was trained without, from their sources, in the type that it computes in.

    Raises:
        CheckpointFileError: a source is gone, or does not give a part whole.
    """
    shapes = sharding.paths({part: jax.eval_shape(task.init, jax.random.key(0))[part] for part in parts})
    found: dict[str, ArrayLike] = {}
    for name, source in experiment.pretrained.items():
        if source.whole_part in parts:
            try:
                found.update(source.load(experiment.system, shapes, found))
            except CheckpointFileError as error:
                raise CheckpointFileError(
                    f"This run was trained without its {source.whole_part}, which pretrained.{name} gives: {error}"
                ) from error
    missing = sorted(shapes.keys() - found.keys())
    if missing:
        raise CheckpointFileError(f"This run was trained without {missing[0]}, and no source of it gives that.")
    arrays = {path: jnp.asarray(np.asarray(found[path])) for path in shapes}
    return cast(unflatten_dict(arrays, sep="/"), experiment.train.precision)


def starting_weights(
    experiment: Experiment, task: Task, without: Collection[str] = frozenset()
) -> dict[str, ArrayLike]:
    """Returns array-likes by path for the parameters that do not start from random values, each read when asked for.

    Args:
        without: parts whose sources are not even looked at.

    Raises:
        ValueError: a source is missing, damaged, does not fit the system, or says that it is of another network.
    """
    shapes = sharding.paths(jax.eval_shape(TaskWithout(task, frozenset(without)).init, jax.random.key(0)))
    loaded: dict[str, ArrayLike] = {}
    for name, source in experiment.pretrained.items():
        if source.whole_part in without:
            continue
        try:
            _check_differences(experiment, name, source)
            loaded.update(source.load(experiment.system, shapes, loaded))
        except CheckpointFileError as error:
            raise CheckpointFileError(f"pretrained.{name}: {error}") from error
    return loaded


def _check_differences(experiment: Experiment, name: str, source: PretrainedSource, *, fetch: bool = True) -> None:
    """Compares what lies beside a source's weights with the experiment; what only differs is logged.

    Raises:
        CheckpointFileError: the network would compute something else than it was trained for.
    """
    parts = {**parts_by_flag(experiment.system, "system"), **parts_by_flag(experiment.sampling, "sampling")}
    found = [each for each in source.differences(parts, fetch=fetch) if each.field not in source.accepts]
    wrong = [each for each in found if each.decides]
    if wrong:
        lines = "".join(f"\n  {each}" for each in wrong)
        fields = " ".join(dict.fromkeys(each.field for each in wrong))
        raise CheckpointFileError(
            f"these weights are of another network than the experiment's:{lines}\nSet the experiment to what the file "
            f"says; if it is the file that is wrong, --pretrained.{name}.accepts {fields}"
        )
    for each in found:
        _LOG.warning("pretrained.%s: %s. --pretrained.%s.accepts %s if so meant.", name, each, name, each.field)


def _entries(experiment: Experiment) -> Collection[str]:
    """Returns the entries of the data where they decide what is loaded; none where the data is not there yet."""
    if not experiment.system.idle_parts(experiment.system.precomputable()):
        return ()
    try:
        return experiment.data.open().entries
    except (OSError, ValueError):
        return ()


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the tables need that much, and files and pipes have no width
    console.print_json(data=experiments.to_json(experiment))
    experiment.system.check_start()
    without = idle_parts(experiment, _entries(experiment))
    task = TaskWithout(experiment.system.build(), without)
    shapes = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for name, source in experiment.pretrained.items():
        if source.whole_part in without:
            console.print(f"pretrained.{name} is not loaded: training reads no {source.whole_part}", highlight=False)
            continue
        try:
            _check_differences(experiment, name, source, fetch=False)
            line = source.describe(experiment.system, shapes)
        except CheckpointFileError as error:
            raise CheckpointFileError(f"pretrained.{name}: {error}") from error
        if line:
            console.print(f"pretrained.{name} is {line}", highlight=False, soft_wrap=True)
    for table in memory_report(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)
