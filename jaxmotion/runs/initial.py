"""Parameters before the first step, and what a run would cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxmotion.meter.meter import packaged_meter
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems import pretrained as start
from jaxmotion.systems.motionstone.intensity import METER
from jaxmotion.systems.system import Task
from jaxmotion.training import checkpoint
from jaxmotion.training.memory import estimate


def starting_weights(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Array-likes by path for the parameters that do not start from random values; each is read when it is asked for.

    Raises:
        ValueError: a source is missing, damaged, or does not fit the system.
    """
    sources = experiment.start_from
    like = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    found: dict[str, Any] = {}
    if sources.run:
        saved = sharding.paths(checkpoint.restore_params(Path(sources.run), weights=sources.run_weights))
        found = {path: array for path, array in saved.items() if path in like}
        wrong = [path for path, array in found.items() if tuple(array.shape) != tuple(like[path].shape)]
        if wrong or not found:
            what = f"other shapes of {', '.join(wrong[:5])}" if wrong else "none of the parameters"
            raise ValueError(f"start_from.run is {sources.run}, which has {what} of this system.")
    found = {**_meter_weights(like), **found}
    return start.load(sources, experiment.system, like, found)


def _meter_weights(like: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the motion meter in the package, for a system that scores its clips with it.

    Raises:
        ValueError: the system has an estimator of another size.
    """
    mine = {path: array for path, array in like.items() if path.startswith(f"{METER}/")}
    if not mine:
        return {}
    weights = {f"{METER}/{path}": array for path, array in sharding.paths(packaged_meter().params).items()}
    if {path: array.shape for path, array in mine.items()} != {path: array.shape for path, array in weights.items()}:
        raise ValueError("The system's estimator is not of the size of the motion meter in the package; give its run.")
    return weights


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the tables need that much, and files and pipes have no width
    console.print_json(data=experiments.to_json(experiment))
    task = experiment.system.build()
    like = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for field, source in start.check(experiment.start_from, like).items():
        console.print(f"start_from.{field} is {source}", highlight=False, soft_wrap=True)
    for table in estimate(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)
