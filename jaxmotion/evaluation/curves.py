"""Control curves as numbers: sweeping controls, measuring the clips, and statistics of what was asked and measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats
from tqdm import tqdm

from jaxmotion.evaluation.evaluation import Generate, Numbers, Scene, numeric_range
from jaxmotion.evaluation.measures import GeneratedClips, Measure
from jaxmotion.foundation.config_json import Json
from jaxmotion.systems.control import Control
from jaxmotion.video.cross_talk import cross_talk

Measured = Float[np.ndarray, "scenes values seeds"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A control's values, the names of the measures it is meant to move, and where other controls are meanwhile."""

    values: tuple[float, ...]
    own: tuple[str, ...]
    held: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Values of other controls; those that are not named are at their default."""

    def __post_init__(self) -> None:
        if len(self.values) < 2 or any(b <= a for a, b in itertools.pairwise(self.values)):
            raise ValueError(f"A control is swept through two or more ascending values; got {self.values}.")
        if not self.own:
            raise ValueError("A control that is swept needs at least one measure of its own.")


@dataclasses.dataclass(frozen=True)
class Curves:
    """Measurements of all clips: by control and by measure, [scenes values seeds]."""

    sweeps: Mapping[str, Sweep]
    measures: Mapping[str, Measure]
    scenes: tuple[str, ...]
    seeds: tuple[int, ...]
    fps: float
    extremes: Mapping[str, tuple[float, float] | None]
    """Lowest and highest value of each control, whether or not they were requested."""
    measured: Mapping[str, Mapping[str, Measured]]
    calibrated: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """By control the measures that are in its unit, so that what is measured can be held against what was asked."""
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Units of the controls, as far as they name one."""

    def __post_init__(self) -> None:
        for control, sweep in self.sweeps.items():
            shape = (len(self.scenes), len(sweep.values), len(self.seeds))
            for name, found in self.measured[control].items():
                if found.shape != shape:
                    raise ValueError(
                        f"The measure {name!r} has values {found.shape} for (scenes, values, seeds) = {shape}."
                    )
                if not np.all(np.isfinite(found)):
                    scene, value, seed = np.argwhere(~np.isfinite(found))[0]
                    raise ValueError(
                        f"The measure {name!r} is not finite for {self.scenes[scene]!r} at {control} "
                        f"{sweep.values[value]:g}, seed {self.seeds[seed]}."
                    )


def measure_sweeps(
    generate: Generate,
    scenes: Sequence[Scene],
    sweeps: Mapping[str, Sweep],
    measures: Mapping[str, Measure],
    seeds: Sequence[int],
    fps: float,
) -> Curves:
    """Generates and measures controls x scenes x values x seeds clips, with a progress bar. Clips are not kept.

    Args:
        generate: called once for each control, scene and seed, with all values of the control.
        measures: every one is measured on every clip.
        fps: frames per second of the clips.

    Raises:
        ValueError: no scene, seed or control, or a measure that is not finite for a clip.
    """
    if not scenes or not seeds or not sweeps:
        raise ValueError(
            "The control curve needs at least one scene, one seed and one control; got "
            f"{len(scenes)} scenes, {len(seeds)} seeds, {len(sweeps)} controls."
        )
    measured = {
        control: {name: np.zeros((len(scenes), len(sweep.values), len(seeds))) for name in measures}
        for control, sweep in sweeps.items()
    }
    total = sum(len(sweep.values) for sweep in sweeps.values()) * len(scenes) * len(seeds)
    with tqdm(total=total, desc="control curve", unit="clip", disable=None) as bar:
        for (control, sweep), (i, scene), (k, seed) in itertools.product(
            sweeps.items(), enumerate(scenes), enumerate(seeds)
        ):
            video = generate(scene, [{**sweep.held, control: value} for value in sweep.values], seed)
            clips = GeneratedClips(video, fps, scene.mask)
            for name, measure in measures.items():
                measured[control][name][i, :, k] = measure.compute(clips)
            bar.update(len(sweep.values))
    extremes = {control: numeric_range(generate.controls[control]) for control in sweeps}
    names = tuple(scene.name for scene in scenes)
    calibrated = {
        control: tuple(name for name in sweep.own if is_calibrated(generate.controls[control], measures[name]))
        for control, sweep in sweeps.items()
    }
    units = {control: generate.controls[control].unit for control in sweeps}
    return Curves(sweeps, measures, names, tuple(seeds), fps, extremes, measured, calibrated, units)


def is_calibrated(control: Control[float], measure: Measure) -> bool:
    """Returns whether a control asks for numbers of a measure: in the same unit, or, if it names none, range."""
    if control.unit:
        return control.unit == measure.unit
    return numeric_range(control) == measure.limits


def summarize(curves: Curves) -> Numbers:
    """Returns the numbers of a control curve, as JSON values.

    `controls/CONTROL/measures/MEASURE` has for every measure `mean` and `deviation` over scenes and seeds at each
    value, and `scenes`, the mean over seeds of each scene; and for the control's own measures:

    spearman:            Spearman's rho of requested value and measured motion over all clips; 0 if nothing varies.
    spearman_per_scene:  the same for each scene by itself, averaged.
    monotonicity:        share of steps from one value to the next at which a scene's motion (mean of seeds) rises.
    change:              distance between the lowest and the highest mean.
    lowest_over_highest: mean motion at the control's lowest value over that at its highest; None if nothing moves at
                         the highest, if one of them was not requested, or if a still clip does not measure 0.
    cross_talk:          by name of each other measure in the same unit, the mean of its changes in every scene and
                         seed over the change of the own measure (`video.cross_talk`); None if that does not change.
                         `largest_cross_talk` is the largest of them.
    calibration_error:   mean over all clips of |measured - asked|, where both are in one unit; otherwise None.
    error_by_value:      the same for each value. bias_by_value: mean of measured - asked.

    `controls/CONTROL/lowest_over_highest` is the largest of its measures, so the control's lowest value is at least
    that still by every one.
    """
    controls, clips = {}, 0
    for control, sweep in curves.sweeps.items():
        measured = curves.measured[control]
        numbers = {name: _curve(values, curves.scenes) for name, values in measured.items()}
        for own in sweep.own:
            numbers[own] |= _statistics(sweep.values, measured[own])
            measure = curves.measures[own]
            spans = (sweep.values[0], sweep.values[-1]) == curves.extremes[control] and measure.limits[0] == 0.0
            numbers[own]["lowest_over_highest"] = _ratio(measured[own]) if spans else None
            alike = (measure.unit, measure.taken_by)
            others = [
                name for name, each in curves.measures.items() if name != own and (each.unit, each.taken_by) == alike
            ]
            numbers[own] |= _cross_talk(measured, own, others)
            numbers[own] |= _calibration(sweep.values, measured[own], own in curves.calibrated.get(control, ()))
        ratios = [numbers[own]["lowest_over_highest"] for own in sweep.own]
        controls[control] = {
            "values": list(sweep.values),
            "own": list(sweep.own),
            "held": dict(sweep.held),
            "unit": curves.units.get(control, ""),
            "lowest_over_highest": None if None in ratios else max(ratios),
            "measures": numbers,
        }
        clips += len(curves.scenes) * len(sweep.values) * len(curves.seeds)
    return {
        "scenes": list(curves.scenes),
        "seeds": list(curves.seeds),
        "clips": clips,
        "fps": curves.fps,
        "measures": {name: _words(measure) for name, measure in curves.measures.items()},
        "controls": controls,
    }


def _words(measure: Measure) -> Json:
    """Returns the parts of a measure that drawing needs, so that numbers can be shown where it is not known."""
    fields = ("label", "unit", "limits", "good_rho")
    return {name: getattr(measure, name) for name in fields} | {"limits": list(measure.limits)}


def _curve(values: Measured, scenes: tuple[str, ...]) -> Json:
    return {
        "mean": values.mean(axis=(0, 2)).tolist(),
        "deviation": values.std(axis=(0, 2)).tolist(),
        "scenes": dict(zip(scenes, values.mean(axis=2).tolist(), strict=True)),
    }


def _statistics(requested: tuple[float, ...], values: Measured) -> Json:
    return {
        "spearman": _spearman(requested, values),
        "spearman_per_scene": float(np.mean([_spearman(requested, scene[None]) for scene in values])),
        "monotonicity": float(np.mean(np.diff(values.mean(axis=2), axis=1) > 0.0)),
        "change": _change(values),
    }


def _spearman(requested: tuple[float, ...], values: Measured) -> float:
    """Spearman's rho over all entries; 0 where all values are equal and have no order."""
    if np.ptp(values) == 0.0:
        return 0.0
    at = np.broadcast_to(np.asarray(requested)[None, :, None], values.shape)
    return float(np.asarray(stats.spearmanr(at.ravel(), values.ravel()))[0])


def _change(values: Measured) -> float:
    return float(np.ptp(values.mean(axis=(0, 2))))


def _ratio(values: Measured) -> float | None:
    """Mean motion at the first value over that at the last."""
    lowest, highest = float(values[:, 0].mean()), float(values[:, -1].mean())
    return lowest / highest if highest > 0.0 else None


def _cross_talk(measured: Mapping[str, Measured], own: str, others: Sequence[str]) -> Json:
    """The cross-talk of an own measure with each other one; a scene in one seed is a group."""
    by_group = {name: np.moveaxis(measured[name], 1, 2).reshape(-1, measured[name].shape[1]) for name in (own, *others)}
    talk = {name: cross_talk(by_group[own], by_group[name]).ratio for name in others}
    known = [value for value in talk.values() if value is not None]
    return {"cross_talk": talk, "largest_cross_talk": max(known, default=None)}


def _calibration(asked: tuple[float, ...], values: Measured, calibrated: bool) -> Json:
    """How far what was measured is from what was asked."""
    if not calibrated:
        return {"calibration_error": None}
    apart = values - np.asarray(asked)[None, :, None]
    return {
        "calibration_error": float(np.abs(apart).mean()),
        "error_by_value": np.abs(apart).mean(axis=(0, 2)).tolist(),
        "bias_by_value": apart.mean(axis=(0, 2)).tolist(),
    }
