"""Trying evaluations before a training: on clips in which nothing moves, so that what is missing is said at once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxmotion.evaluation.evaluation import Scene, numbers_path
from jaxmotion.foundation.text_files import escape
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.scenes import evaluation_scenes, required_controls
from jaxmotion.sampling.generate import Generator
from jaxmotion.systems.control import Controls, ControlValues, check_known

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StillPictures:
    """A generator (`evaluation.Generate`) whose clips show the picture and nothing moves."""

    experiment: Experiment

    @property
    def controls(self) -> Controls:
        return self.experiment.system.controls

    def __call__(self, scene: Scene, values: Sequence[ControlValues], seed: int) -> UInt8[np.ndarray, "N T H W 3"]:
        for each in values:
            check_known(self.controls, each)
            for name, value in each.items():
                self.controls[name].check(value)
        clip = np.stack([scene.picture] * self.experiment.system.frames)
        return np.stack([clip] * len(values))


def rehearse(
    name: str, experiment: Experiment, *, count: int = 1, changes: Mapping[str, object] | None = None
) -> tuple[str, ...]:
    """Returns the evaluations of an experiment that it allows, after each was tried on a still picture.

    Raises:
        ValueError: none is left, one cannot be measured, or the system makes no clips; the message names the row.
    """
    controls, allowed = experiment.system.controls, []
    if not isinstance(experiment.system.build(), Generator):
        raise ValueError(f"{name} cannot be evaluated: {type(experiment.system).__name__} makes no clips.")
    for each, configured in experiment.evaluations.items():
        evaluation = configured.with_changes(changes or {}).with_changes({"seeds": (0,)})
        try:
            numbers_path(Path(name), each)
            unmet = evaluation.unmet(controls)
            if unmet:
                _LOG.warning(escape(f"{each} is left out for {name}: {unmet}."))
                continue
            entries = (*evaluation.entries(controls), *required_controls(controls))
            scenes = evaluation_scenes(experiment, entries, None, min(count, 1))
            evaluation.measure(StillPictures(experiment), scenes, experiment.data.fps)
        except ValueError as error:
            raise ValueError(f"{name} cannot be evaluated, so nothing is trained yet. {each}: {error}") from error
        allowed.append(each)
    if not allowed:
        raise ValueError(f"{name} has no evaluation that it allows, so there is nothing to compare it by.")
    return tuple(allowed)
