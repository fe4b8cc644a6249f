"""An evaluation: a value of the config that measures what a trained run generates.

`Experiment.evaluations` has them by name. Each generates the clips that it needs from scenes that training never saw,
and returns numbers as JSON values, which are kept as `evaluate/NAME.json` in the folder of the run together with the
evaluation that made them. From these numbers it prints a table, draws a plot and a section of `report.html`, and gives
the few key numbers by which runs are compared.

A new evaluation is a subclass with `@register()` that implements `measure` and `key_numbers`; everything else has a
default. It is used by its place in a config: `evaluations={"fvd": FrechetVideoDistance(), ...}`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Bool, UInt8
from rich.table import Table

from jaxmotion.evaluation import page
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.example import Example
from jaxmotion.foundation.files import atomic_file, is_file_name, read_json
from jaxmotion.systems.control import Control, Controls, ControlValues

FOLDER = "evaluate"
"""Folder in that of a run where numbers and plots are written."""
EVALUATION = "evaluation"
"""Key of the evaluation itself among the numbers of a file."""

Numbers = Json
"""The result of an evaluation, as JSON values."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture to animate and what is known about it."""

    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    """The first frame, at the size of the system's clips."""
    prompt: str = ""
    mask: Bool[np.ndarray, "H W"] | None = None
    """Object pixels of the picture; None: unknown."""
    example: Example = dataclasses.field(default_factory=dict)
    """The held-out example that it was taken from (its clip, its boxes, ...); empty for a photo."""


class Generate(Protocol):
    """Makes clips with a trained system."""

    @property
    def controls(self) -> Controls:
        """Controls of the system by name."""
        ...

    def __call__(self, scene: Scene, values: Sequence[ControlValues], seed: int) -> UInt8[np.ndarray, "N T H W 3"]:
        """One clip of the scene for each set of control values, all from the same noise.

        A control that is not named is at its default, or at the value of the scene's example if it has no default.
        """
        ...


@dataclasses.dataclass(frozen=True)
class KeyNumber:
    """A number by which runs are compared, and a tile of the report if it has a sentence."""

    name: str
    """Short name, such as `rho flow`: the column of a table."""
    value: float | None
    """None: not defined for this run."""
    sentence: str = ""
    """For the report; empty: only in tables."""
    verdict: str = ""
    """How the number compares with what is good: `at least 0.9`."""
    good: bool = True
    percent: bool = False

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{100 * self.value:.0f} %" if self.percent else f"{self.value:.2f}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Base class of evaluations, which are frozen dataclasses with `@register()`."""

    seeds: tuple[int, ...] = dataclasses.field(default=(0, 1), kw_only=True)
    """Seeds of the noise; each gives one clip of everything that is generated."""

    def unmet(self, controls: Controls) -> str:
        """Returns why a system with these controls cannot be measured; empty if it can."""
        return ""

    def entries(self, controls: Controls) -> tuple[str, ...]:
        """Returns the entries of held-out examples that scenes must have (`Scene.example`), as far as data has them."""
        return ()

    def measure(self, generate: Generate, scenes: Sequence[Scene], fps: float) -> Numbers:
        """Generates clips and returns the numbers.

        Args:
            fps: frames per second of the clips.

        Raises:
            ValueError: it cannot be measured; the message says what would do.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it measures.")

    def key_numbers(self, numbers: Numbers) -> tuple[KeyNumber, ...]:
        """Returns the numbers by which runs are compared."""
        return ()

    def table(self, numbers: Numbers) -> Table:
        """Returns the numbers as a table for the terminal."""
        shown = Table("", "", title=type(self).__name__)
        for key in self.key_numbers(numbers):
            shown.add_row(key.name, str(key))
        return shown

    def is_current(self, numbers: Numbers) -> bool:
        """Returns whether numbers that are read from a file have all that this version shows."""
        return True

    def plot(self, numbers: Numbers, path: Path) -> None:
        """Draws the numbers into an image file; by default there is no plot."""

    def section(self, numbers: Numbers, directory: Path) -> str:
        """Returns the section of the report, as HTML that needs no other file.

        Args:
            directory: folder of the run, for evaluations that show clips they have written.
        """
        rows = [(key.sentence or key.name, [key.value]) for key in self.key_numbers(numbers)]
        return page.section(type(self).__name__, "", page.numbers_table([""], rows)) if rows else ""

    def with_changes(self, changes: Mapping[str, object]) -> Self:
        """Returns this evaluation with those fields changed that it has, such as `seeds` or `values`."""
        own = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if name in own})  # pyright: ignore


def numeric_range(control: Control[Any]) -> tuple[float, float] | None:
    """Returns the lowest and highest value of a control's sweep; None if it has no two numbers to sweep through."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in control.sweep)
    if len(control.sweep) < 2 or not numbers:
        return None
    return min(control.sweep), max(control.sweep)


def comparison(found: Mapping[str, Sequence[KeyNumber]], title: str) -> Table:
    """Returns a table with one row of key numbers for each run, for the terminal."""
    columns = list(dict.fromkeys(key.name for keys in found.values() for key in keys))
    shown = Table("", title=title)
    for column in columns:
        shown.add_column(column, justify="right")
    for run, keys in found.items():
        by_name = {key.name: "-" if key.value is None else f"{key.value:.3f}" for key in keys}
        shown.add_row(run, *(by_name.get(column, "") for column in columns))
    return shown


def numbers_path(directory: Path, name: str) -> Path:
    """Returns the file that holds the numbers of an evaluation.

    Raises:
        ValueError: its name, which a run's config gives, would lead elsewhere.
    """
    if not is_file_name(name):
        raise ValueError(f"The evaluation {name!r} of {directory} cannot name a file; give it a plain name.")
    return directory / FOLDER / f"{name}.json"


def write_numbers(directory: Path, name: str, evaluation: Evaluation, numbers: Numbers) -> Path:
    """Writes the numbers of an evaluation, and its plot, into the folder of a run; returns the JSON file."""
    path = numbers_path(directory, name)
    text = json.dumps({EVALUATION: config_json.to_json(evaluation), **numbers}, indent=2, allow_nan=False)
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    evaluation.plot(numbers, path.with_suffix(".png"))
    return path


def read_numbers(path: Path) -> tuple[Evaluation, Numbers] | None:
    """Returns an evaluation and its numbers from a file of `write_numbers`; None if an earlier version wrote it.

    Raises:
        ValueError: the file is no JSON, or its evaluation is not known.
    """
    try:
        numbers = read_json(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); remove it, or make it again.") from error
    if EVALUATION not in numbers:
        return None
    evaluation = config_json.from_json(numbers[EVALUATION], Evaluation)
    return (evaluation, numbers) if evaluation.is_current(numbers) else None
