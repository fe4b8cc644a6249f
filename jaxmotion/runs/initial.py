"""Parameters before the first step, and what a run would cost."""

from __future__ import annotations

import logging

import jax
from rich.console import Console

from jaxmotion.foundation.config_json import parts_by_flag
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import ArrayLike
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.system import Task
from jaxmotion.training.memory import memory_report

_LOG = logging.getLogger(__name__)


def starting_weights(experiment: Experiment, task: Task) -> dict[str, ArrayLike]:
    """Returns array-likes by path for the parameters that do not start from random values, each read when asked for.

    Raises:
        ValueError: a source is missing, damaged, does not fit the system, or says that it is of another network.
    """
    shapes = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    loaded: dict[str, ArrayLike] = {}
    for name, source in experiment.pretrained.items():
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


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the tables need that much, and files and pipes have no width
    console.print_json(data=experiments.to_json(experiment))
    experiment.system.check_start()
    task = experiment.system.build()
    shapes = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for name, source in experiment.pretrained.items():
        try:
            _check_differences(experiment, name, source, fetch=False)
            line = source.describe(experiment.system, shapes)
        except CheckpointFileError as error:
            raise CheckpointFileError(f"pretrained.{name}: {error}") from error
        if line:
            console.print(f"pretrained.{name} is {line}", highlight=False, soft_wrap=True)
    for table in memory_report(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)
