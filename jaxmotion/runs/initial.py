"""Parameters before the first step, and what a run would cost."""

from __future__ import annotations

import jax
from rich.console import Console

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import ArrayLike
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.system import Task
from jaxmotion.training.memory import memory_report


def starting_weights(experiment: Experiment, task: Task) -> dict[str, ArrayLike]:
    """Returns array-likes by path for the parameters that do not start from random values, each read when asked for.

    Raises:
        ValueError: a source is missing, damaged, or does not fit the system.
    """
    shapes = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    loaded: dict[str, ArrayLike] = {}
    for name, source in experiment.pretrained.items():
        try:
            loaded.update(source.load(experiment.system, shapes, loaded))
        except CheckpointFileError as error:
            raise CheckpointFileError(f"pretrained.{name}: {error}") from error
    return loaded


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the tables need that much, and files and pipes have no width
    console.print_json(data=experiments.to_json(experiment))
    task = experiment.system.build()
    shapes = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for name, source in experiment.pretrained.items():
        try:
            line = source.describe(experiment.system, shapes)
        except CheckpointFileError as error:
            raise CheckpointFileError(f"pretrained.{name}: {error}") from error
        if line:
            console.print(f"pretrained.{name} is {line}", highlight=False, soft_wrap=True)
    for table in memory_report(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)
