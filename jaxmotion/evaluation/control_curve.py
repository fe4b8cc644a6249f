"""The control curve: does a clip move as much as its controls ask, and does a control leave other motion alone?

Every scene is animated with each numeric control swept from low to high while the others stay where they are held, and
measures of the clips are compared with the requested values. A control has its *own* measures, those it is meant to
move; its effect on other measures in the same unit is its cross-talk. Where a control is in the unit of its measure,
the calibration error says how far clips are from what was asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
from rich.table import Table

from jaxmotion.evaluation import curve_drawing
from jaxmotion.evaluation.curves import Sweep, measure_sweeps, summarize
from jaxmotion.evaluation.evaluation import Evaluation, Generate, KeyNumber, Numbers, Scene, numeric_range
from jaxmotion.evaluation.measures import MEASURES, Measure
from jaxmotion.foundation.config_json import register
from jaxmotion.systems.control import Control, Controls

POINTS = 10
"""Values of a sweep, unless they are given."""
FEWEST_WHOLE = 5
"""A sweep is in whole numbers where the range has at least so many of them."""
GOOD_RATIO, GOOD_CROSS_TALK, GOOD_ERROR = 1 / 3, 0.25, 1.0
"""A control is reported as good when motion at its lowest value, as a share of that at its highest, is below this; when
cross-talk is at most this; and when clips are at most so far from what was asked, on average."""


@register()
@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """How one control is swept."""

    values: tuple[float, ...] = ()
    """Ascending. Empty: those of the control curve."""
    held: dict[str, float] = dataclasses.field(default_factory=dict)
    """Values of other controls meanwhile, such as {"camera": 1.0}. Those that are not named are where they say
    themselves (`Control.held`), else at their default."""


@runtime_checkable
class MeasuresItself(Protocol):
    """A generator that has measures of its own: what its system reads off training clips, another network."""

    def own_measures(self, scenes: Sequence[Scene]) -> Mapping[str, Mapping[str, Measure]]:
        """Returns by control further measures, by name, that it is meant to move on clips of these scenes."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class ControlCurve(Evaluation):
    """Sweeps numeric controls and compares requested values with measured motion."""

    controls: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Names of the own measures (`evaluation.measures`) of each control that is swept, such as
    {"object": ("object_speed",)}. Empty: every numeric control of the system, with the measures that it names."""
    values: tuple[float, ...] = ()
    """Ascending values of every control. Empty: ten from the lowest to the highest."""
    sweeps: dict[str, SweepSettings] = dataclasses.field(default_factory=dict)
    """Of single controls: {"object": SweepSettings(held={"camera": 1.0})}."""

    def unmet(self, controls: Controls) -> str:
        """Returns which control is missing; empty if there is something to sweep."""
        numeric = [name for name, control in controls.items() if numeric_range(control)]
        held = [name for sweep in self.sweeps.values() for name in sweep.held if name not in controls]
        missing = [name for name in dict.fromkeys((*self.controls, *self.sweeps)) if name not in numeric]
        if not numeric or missing:
            return f"there is no numeric control {', '.join(missing)}; there are {', '.join(numeric) or 'none'}"
        if held:
            return f"there is no control {', '.join(held)} to hold; there are {', '.join(controls)}"
        self._measures(controls)
        return ""

    def entries(self, controls: Controls) -> tuple[str, ...]:
        """Returns the entries of examples that the measures read."""
        measures = self._measures(controls)
        return tuple(dict.fromkeys(entry for measure in measures.values() for entry in measure.entries))

    def measure(self, generate: Generate, scenes: Sequence[Scene], fps: float) -> Numbers:
        """Sweeps every control on every scene with every seed; returns the numbers of `summarize`."""
        unmet = self.unmet(generate.controls)
        if unmet:
            raise ValueError(f"The control curve cannot be measured: {unmet}.")
        further = generate.own_measures(scenes) if isinstance(generate, MeasuresItself) else {}
        measures, sweeps = self._measures(generate.controls), {}
        for name, own in self._own(generate.controls).items():
            measures |= further.get(name, {})
            sweeps[name] = self._sweep(name, (*own, *further.get(name, {})), generate.controls)
        return summarize(measure_sweeps(generate, scenes, sweeps, measures, self.seeds, fps))

    def is_current(self, numbers: Numbers) -> bool:
        """Returns whether numbers have all that is shown; those of earlier versions have no error."""
        curves = numbers["controls"].values()
        return all("calibration_error" in curve["measures"][own] for curve in curves for own in curve["own"])

    def key_numbers(self, numbers: Numbers) -> tuple[KeyNumber, ...]:
        """Returns rank correlation, change, stillness, cross-talk and calibration error of each own measure."""
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

    def with_changes(self, changes: Mapping[str, object]) -> Self:
        """Returns this evaluation with some fields changed; `values` then go for every control."""
        changed = super().with_changes(changes)
        if "values" not in changes:
            return changed
        sweeps = {name: dataclasses.replace(sweep, values=()) for name, sweep in changed.sweeps.items()}
        return dataclasses.replace(changed, sweeps=sweeps)

    def _sweep(self, name: str, own: tuple[str, ...], controls: Controls) -> Sweep:
        """Returns how a control is swept."""
        given = self.sweeps.get(name, SweepSettings())
        held = {other: each.held for other, each in controls.items() if other != name and each.held is not None}
        return Sweep(given.values or self.values or _range(controls[name]), own, {**held, **given.held})

    def _own(self, controls: Controls) -> Mapping[str, tuple[str, ...]]:
        """Returns the own measures of the controls that are swept."""
        swept = self.controls or {name: each.measures for name, each in controls.items() if numeric_range(each)}
        return {**swept, **{name: controls[name].measures for name in self.sweeps if name not in swept}}

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


STATISTICS = {
    "Spearman's rho, all clips": "spearman",
    "Spearman's rho, mean of the scenes": "spearman_per_scene",
    "steps up that raise it": "monotonicity",
    "change": "change",
    "lowest over highest value": "lowest_over_highest",
    "cross-talk": "largest_cross_talk",
    "mean |measured - asked|": "calibration_error",
}
"""Statistics of an own measure in words, and their keys."""


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
    if found["calibration_error"] is not None:
        error = found["calibration_error"]
        sentence = f"calibration error of {control}: how far the {labels[own]} is from what was asked, on average"
        verdict = f"{'at most' if error <= GOOD_ERROR else 'above'} {GOOD_ERROR:g}"
        keys.append(KeyNumber(f"error {name}", error, sentence, verdict, error <= GOOD_ERROR))
    return keys


def _range(control: Control[float]) -> tuple[float, ...]:
    """Evenly spaced values from a control's lowest to its highest, in whole numbers where the range has enough."""
    values = np.linspace(min(control.sweep), max(control.sweep), POINTS)
    whole = np.unique(np.round(values))
    only_whole = all(isinstance(value, int) for value in control.sweep)
    if only_whole or (all(float(value).is_integer() for value in control.sweep) and len(whole) >= FEWEST_WHOLE):
        return tuple(int(value) for value in whole)
    return tuple(float(value) for value in values)
