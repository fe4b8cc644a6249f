"""The control curve: does a clip move as much as its controls ask, and does a control leave other motion alone?

Every scene is animated with each numeric control swept from low to high while the others stay at their default, and
measures of the clips are compared with the requested values. A control has its *own* measures, those it is meant to
move; its effect on other measures in the same unit is its cross-talk.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.table import Table
from scipy import stats
from tqdm import tqdm

from jaxmotion.evaluation import curve_drawing
from jaxmotion.evaluation.evaluation import Evaluation, Generate, KeyNumber, Numbers, Scene, numeric_range
from jaxmotion.evaluation.measures import MEASURES, GeneratedClips, Measure
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.systems.control import Control, Controls

POINTS = 10
"""Values of a sweep, unless they are given."""
FEWEST_WHOLE = 5
"""A sweep is in whole numbers where the range has at least so many of them."""
SMALLEST_CHANGE = 1e-6
"""Cross-talk is not defined for a control that moves its own measure by less."""
GOOD_RATIO, GOOD_CROSS_TALK = 1 / 3, 0.25
"""A control is reported as good when motion at its lowest value, as a share of that at its highest, is below this; and
when cross-talk is at most this."""


@register()
@dataclasses.dataclass(frozen=True)
class ControlCurve(Evaluation):
    """Sweeps numeric controls and compares requested values with measured motion."""

    controls: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Names of the own measures (`evaluation.measures`) of each control that is swept, such as
    {"object": ("object_speed",)}. Empty: every numeric control of the system, with the measures that it names."""
    values: tuple[float, ...] = ()
    """Ascending values of every control. Empty: ten from the lowest to the highest."""

    def unmet(self, controls: Controls) -> str:
        """Returns which control is missing; empty if there is something to sweep."""
        numeric = [name for name, control in controls.items() if numeric_range(control)]
        missing = [name for name in self.controls if name not in numeric]
        if numeric and not missing:
            return ""
        return f"there is no numeric control {', '.join(missing)}; there are {', '.join(numeric) or 'none'}"

    def entries(self, controls: Controls) -> tuple[str, ...]:
        """Returns the entries of examples that the measures read."""
        measures = self._measures(controls)
        return tuple(dict.fromkeys(entry for measure in measures.values() for entry in measure.entries))

    def measure(self, generate: Generate, scenes: Sequence[Scene], fps: float) -> Numbers:
        """Sweeps every control on every scene with every seed; returns the numbers of `summarize`."""
        unmet = self.unmet(generate.controls)
        if unmet:
            raise ValueError(f"The control curve cannot be measured: {unmet}.")
        measures, sweeps = self._measures(generate.controls), {}
        for name, own in self._own(generate.controls).items():
            sweeps[name] = Sweep(self.values or _range(generate.controls[name]), own)
        return summarize(measure_sweeps(generate, scenes, sweeps, measures, self.seeds, fps))

    def key_numbers(self, numbers: Numbers) -> tuple[KeyNumber, ...]:
        """Returns rank correlation, change, stillness of the lowest value and cross-talk of each own measure."""
        found: list[KeyNumber] = []
        owners = [own for control in numbers["controls"].values() for own in control["own"]]
        for control, curve in numbers["controls"].items():
            for own in curve["own"]:
                name = own if owners.count(own) == 1 else f"{control} {own}"
                found += _measure_numbers(control, name, own, numbers)
            ratio = curve["lowest_over_highest"]
            if ratio is not None:
                good = ratio < GOOD_RATIO
                sentence = f"motion at the lowest {control} as a share of that at the highest (less is stiller)"
                verdict = f"{'under' if good else 'over'} a third"
                found.append(KeyNumber(f"low/high {control}", ratio, sentence, verdict, good, percent=True))
        return tuple(found)

    def table(self, numbers: Numbers) -> Table:
        """Returns means and statistics, a column for each measure, a section for each control."""
        names, scenes = list(numbers["measures"]), len(numbers["scenes"])
        shown = Table("", title=f"Control curve: {numbers['clips']} clips of {scenes} scene{'s' * (scenes != 1)}")
        for name in names:
            shown.add_column(numbers["measures"][name]["label"], justify="right")
        for control, curve in numbers["controls"].items():
            of = curve["measures"]
            for row, value in enumerate(curve["values"]):
                means = (f"{of[name]['mean'][row]:.4f} ± {of[name]['deviation'][row]:.4f}" for name in names)
                shown.add_row(f"{control} {value:g}", *means)
            shown.add_section()
            for label, key in STATISTICS.items():
                values = [of[name].get(key) for name in names]
                if any(value is not None for value in values):
                    shown.add_row(label, *("-" if value is None else f"{value:.3f}" for value in values))
            shown.add_section()
        return shown

    def plot(self, numbers: Numbers, path: Path) -> None:
        """Draws every own measure against the control that moves it."""
        curve_drawing.plot(numbers, path)

    def section(self, numbers: Numbers, directory: Path) -> str:
        """Returns a chart for every control and own measure, and their statistics."""
        return curve_drawing.section(numbers, STATISTICS)

    def _own(self, controls: Controls) -> Mapping[str, tuple[str, ...]]:
        """Returns the own measures of the controls that are swept."""
        return self.controls or {name: control.measures for name, control in controls.items() if numeric_range(control)}

    def _measures(self, controls: Controls) -> dict[str, Measure]:
        """Returns the measures of all swept controls by name.

        Raises:
            ValueError: there is no measure of that name.
        """
        names = list(dict.fromkeys(name for own in self._own(controls).values() for name in own))
        unknown = [name for name in names if name not in MEASURES]
        if unknown:
            raise ValueError(f"There is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}.")
        return {name: MEASURES[name] for name in names}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A control's values and the names of the measures it is meant to move."""

    values: tuple[float, ...]
    own: tuple[str, ...]

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
    measured: Mapping[str, Mapping[str, Float[np.ndarray, "scenes values seeds"]]]

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
            video = generate(scene, [{control: value} for value in sweep.values], seed)
            clips = GeneratedClips(video, fps, scene.mask)
            for name, measure in measures.items():
                measured[control][name][i, :, k] = measure.compute(clips)
            bar.update(len(sweep.values))
    extremes = {control: numeric_range(generate.controls[control]) for control in sweeps}
    names = tuple(scene.name for scene in scenes)
    return Curves(sweeps, measures, names, tuple(seeds), fps, extremes, measured)


STATISTICS = {
    "Spearman's rho, all clips": "spearman",
    "Spearman's rho, mean of the scenes": "spearman_per_scene",
    "steps up that raise it": "monotonicity",
    "change": "change",
    "lowest over highest value": "lowest_over_highest",
    "cross-talk": "largest_cross_talk",
}
"""Statistics of an own measure in words, and their keys."""


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
    cross_talk:          by name of each other measure in the same unit, its change over that of the own measure; None
                         if the own measure does not change. `largest_cross_talk` is the largest of them.

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
            others = [name for name in measured if name != own and curves.measures[name].unit == measure.unit]
            numbers[own] |= _cross_talk(measured, own, others)
        ratios = [numbers[own]["lowest_over_highest"] for own in sweep.own]
        controls[control] = {
            "values": list(sweep.values),
            "own": list(sweep.own),
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


def _curve(values: Float[np.ndarray, "scenes values seeds"], scenes: tuple[str, ...]) -> Json:
    return {
        "mean": values.mean(axis=(0, 2)).tolist(),
        "deviation": values.std(axis=(0, 2)).tolist(),
        "scenes": dict(zip(scenes, values.mean(axis=2).tolist(), strict=True)),
    }


def _statistics(requested: tuple[float, ...], values: Float[np.ndarray, "scenes values seeds"]) -> Json:
    return {
        "spearman": _spearman(requested, values),
        "spearman_per_scene": float(np.mean([_spearman(requested, scene[None]) for scene in values])),
        "monotonicity": float(np.mean(np.diff(values.mean(axis=2), axis=1) > 0.0)),
        "change": _change(values),
    }


def _spearman(requested: tuple[float, ...], values: Float[np.ndarray, "scenes values seeds"]) -> float:
    """Spearman's rho over all entries; 0 where all values are equal and have no order."""
    if np.ptp(values) == 0.0:
        return 0.0
    at = np.broadcast_to(np.asarray(requested)[None, :, None], values.shape)
    return float(np.asarray(stats.spearmanr(at.ravel(), values.ravel()))[0])


def _change(values: Float[np.ndarray, "scenes values seeds"]) -> float:
    return float(np.ptp(values.mean(axis=(0, 2))))


def _ratio(values: Float[np.ndarray, "scenes values seeds"]) -> float | None:
    """Mean motion at the first value over that at the last."""
    lowest, highest = float(values[:, 0].mean()), float(values[:, -1].mean())
    return lowest / highest if highest > 0.0 else None


def _cross_talk(measured: Mapping[str, Float[np.ndarray, "scenes values seeds"]], own: str, others: list[str]) -> Json:
    """The change of other measures over that of the control's own."""
    change = _change(measured[own])
    talk = {name: _change(measured[name]) / change if change > SMALLEST_CHANGE else None for name in others}
    known = [value for value in talk.values() if value is not None]
    return {"cross_talk": talk, "largest_cross_talk": max(known, default=None)}


def _measure_numbers(control: str, name: str, own: str, numbers: Numbers) -> list[KeyNumber]:
    """The key numbers of a control and one of its own measures, which tables call `name`."""
    found = numbers["controls"][control]["measures"][own]
    labels = {each: words["label"] for each, words in numbers["measures"].items()}
    least = numbers["measures"][own]["good_rho"]
    good = found["spearman"] >= least
    sentence = f"rank correlation of the {control} requested and the motion measured by {labels[own]} (1 is perfect)"
    keys = [
        KeyNumber(f"rho {name}", found["spearman"], sentence, f"{'at least' if good else 'below'} {least:g}", good),
        KeyNumber(f"per scene {name}", found["spearman_per_scene"]),
        KeyNumber(f"change {name}", found["change"]),
    ]
    if found["cross_talk"]:
        talk = found["largest_cross_talk"]
        good = talk is not None and talk <= GOOD_CROSS_TALK
        others = " and ".join(labels[other] for other in found["cross_talk"])
        sentence = f"cross-talk of {control}: change of the {others} over that of the {labels[own]} (0: none)"
        verdict = f"{'at most' if good else 'above'} {GOOD_CROSS_TALK:g}"
        keys.append(KeyNumber(f"cross-talk {name}", talk, sentence, verdict, good))
    return keys


def _range(control: Control[float]) -> tuple[float, ...]:
    """Evenly spaced values from a control's lowest to its highest, in whole numbers where the range has enough."""
    values = np.linspace(min(control.sweep), max(control.sweep), POINTS)
    whole = np.unique(np.round(values))
    if all(float(value).is_integer() for value in control.sweep) and len(whole) >= FEWEST_WHOLE:
        return tuple(int(value) for value in whole)
    return tuple(float(value) for value in values)
