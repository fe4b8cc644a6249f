"""Measures that only a run can hand to evaluations: what its system reads off training clips, and the motion meter.

Evaluations and the meter do not know each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmotion.evaluation.curves import is_calibrated
from jaxmotion.evaluation.evaluation import numeric_range
from jaxmotion.evaluation.measures import MEASURES, SCORES, GeneratedClips, Measure
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.foundation.types import Array, Batch, Params
from jaxmotion.meter.estimate import Clip
from jaxmotion.meter.meter import packaged_meter
from jaxmotion.runs.trained import TrainedRun
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.video.motion_scale import AXES, SCORE, score

METER = "meter"


def system_measures(run: TrainedRun) -> dict[str, dict[str, Measure]]:
    """Returns for controls that are in a unit of their own what the system measures of training clips, by control.

    LivePhoto's level is one: how far a clip is from the level that was asked for can be said by nothing else.
    """
    model, controls, found = run.model, run.experiment.system.controls, {}
    if not isinstance(model, VideoDiffusion):
        return {}
    for name, control in controls.items():
        known = [MEASURES[each] for each in control.measures if each in MEASURES]
        limits = numeric_range(control)
        if limits is None or name not in model.measured_entries or any(is_calibrated(control, each) for each in known):
            continue
        unit = control.unit or name
        compute = functools.partial(_entry_of_clips, model.measured_entries[name], run.params)
        found[name] = {f"{name}_of_clips": Measure(f"{name} as training reads it", unit, compute, limits)}
    return found


def meter_measures(run: TrainedRun) -> dict[str, dict[str, Measure]]:
    """Returns the packaged motion meter's measure of every control that is an axis' score."""
    return {
        name: {f"{name}_{METER}": MEASURES[f"{name}_{METER}"]}
        for name, control in run.experiment.system.controls.items()
        if name in AXES and control.unit == SCORE
    }


def _entry_of_clips(
    measured: Callable[[Params, Batch], Array], params: Params, clips: GeneratedClips
) -> Float[np.ndarray, " N"]:
    """Returns a batch entry of clips as the system measures it in training."""
    rates = np.full(len(clips.video), clips.fps, np.float32)
    batch = {VIDEO: jnp.asarray(clips.video), FPS: jnp.asarray(rates)}
    return np.asarray(measured(params, batch), np.float64)


@functools.lru_cache(maxsize=1)  # both axes of the same clips
def _metered_scores(clips: GeneratedClips) -> Float[np.ndarray, "N 2"]:
    estimates = packaged_meter()([Clip.at(video, clips.fps) for video in clips.video])
    return np.asarray(score(np.array([[each.object_speed, each.camera_speed] for each in estimates])))


def _metered(axis: int) -> Callable[[GeneratedClips], Float[np.ndarray, " N"]]:
    return lambda clips: _metered_scores(clips)[:, axis]


_METERED: Mapping[str, Measure] = {
    f"{name}_{METER}": Measure(
        f"{name} speed by the motion meter", SCORE, _metered(axis), SCORES, good_rho=0.85, taken_by=METER
    )
    for axis, name in enumerate(AXES)
}
MEASURES.update(_METERED)
