"""Controls: batch entries that a person sets, such as how fast the camera moves.

A control says how its values are read from a command line, checked, put into a batch and named. Nothing outside it
knows whether a value is a number, a text or a list of boxes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.example import Example

Value = TypeVar("Value")
ControlValues = Mapping[str, object]
"""Values of one clip by control: {"object": 3.0, "camera": 10.0}. Controls that are not named are at their default."""
Controls = Mapping[str, "Control[Any]"]
"""Controls of a system by the batch entry that each fills."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control(Generic[Value]):
    """Base of controls. A subclass is a frozen dataclass with `@register()`; `Value` is the type of one value."""

    default: Value | None = None
    """The value when nothing is said; None: it must be given."""
    description: str = ""
    """One line for the help of command lines."""
    measures: tuple[str, ...] = ("ssim", "flow")
    """Names of the measures (`evaluation.measures`) that the control is meant to move; control curves show these."""
    unit: str = ""
    """Unit of the values. How far clips are from what was asked is defined for measures in the same unit."""
    held: Value | None = None
    """The value while another control is swept for a control curve; None: the default."""

    @property
    def metavar(self) -> str:
        """The placeholder for values in the help of command lines."""
        return "VALUE"

    @property
    def sweep(self) -> tuple[Value, ...]:
        """Values for previews and control curves; () for a control that cannot be swept."""
        return ()

    def parse(self, text: str) -> tuple[Value, ...]:
        """Returns the values that a command line asks for; one clip is made of each.

        Raises:
            ValueError: the text does not stand for values; says what came and what would do.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its values are read from a command line.")

    def check(self, value: Value) -> Value:
        """Returns a value given from Python, in its own type.

        Raises:
            ValueError: this is no value of the control; says what came and what would do.
        """
        return value

    def entry(self, values: Sequence[Value]) -> np.ndarray:
        """Returns the batch entry [B ...] of one value for each clip."""
        return np.stack([np.asarray(value) for value in values])

    def describe(self, name: str, value: Value) -> str:
        """Returns the value in words, for labels of grids: `object 3`."""
        return f"{name} {value}"

    def filename_part(self, name: str, value: Value) -> str:
        """Returns the value as a part of file names: `object03`."""
        return f"{name}{re.sub(r'[^0-9A-Za-z.]+', '_', str(value))[:40]}"

    def from_example(self, name: str, example: Example) -> Value | None:
        """Returns the value at which previews of a training example hold this control.

        The example's own value where it has the entry, else the default. A control whose entries have another form
        than its values must override this.
        """
        return example.get(name, self.default)


@register()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scalar(Control[float]):
    """A number between two ends, such as a motion score from 1 to 10."""

    default: float | None = 5.0
    description: str = ""
    low: float = 1.0
    high: float = 10.0
    integer: bool = False
    """Only whole numbers are values."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"A scalar lies between two ends; got low {self.low} and high {self.high}.")
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"The default {self.default} lies outside {self.low:g} to {self.high:g}.")

    @property
    def metavar(self) -> str:
        """The placeholder for values in the help of command lines."""
        return "N[,N...]" if self.integer else "X[,X...]"

    @property
    def sweep(self) -> tuple[float, ...]:
        """The low end, the default (else the middle) and the high end."""
        middle = (self.low + self.high) / 2 if self.default is None else self.default
        values = (self.low, middle, self.high)
        return _unique([round(value) for value in values] if self.integer else values)

    def parse(self, text: str) -> tuple[float, ...]:
        """Returns the numbers of `5` or `1,5,10`, each once, in this order."""
        values = _unique([self._number(part.strip()) for part in text.split(",") if part.strip()])
        if not values:
            raise ValueError(f"no value was asked for; {self._describe_values}")
        return values

    def check(self, value: float) -> float:
        """Returns the number, as an int where only whole numbers are values."""
        return self._number(value)

    def entry(self, values: Sequence[float]) -> np.ndarray:
        """Returns int32 or float32 [B]."""
        return np.asarray(values, np.int32 if self.integer else np.float32)

    def describe(self, name: str, value: float) -> str:
        """Returns `object 3`, `object 2.5`."""
        return f"{name} {value:g}"

    def filename_part(self, name: str, value: float) -> str:
        """Returns `object03`, `object2.5`."""
        return f"{name}{value:02g}"

    def from_example(self, name: str, example: Example) -> float | None:
        """Returns the default, whatever was measured on the example, so that previews of all clips can be compared."""
        return self.default

    def _number(self, came: Any) -> float:
        try:
            number = float(came) if not self.integer else int(came) if isinstance(came, str) else operator.index(came)
        except (TypeError, ValueError):
            number = math.nan
        if not self.low <= number <= self.high:
            raise ValueError(f"{self._describe_values}; got {came!r}")
        return number

    @property
    def _describe_values(self) -> str:
        kind = "whole numbers" if self.integer else "numbers"
        examples = ",".join(f"{value:g}" for value in self.sweep)
        return f"values are {kind} from {self.low:g} to {self.high:g}, e.g. {examples}"


def check_known(controls: Controls, names: Sequence[str] | Mapping[str, object]) -> None:
    """Raises ValueError when there is no control of one of these names."""
    unknown = sorted(set(names) - set(controls))
    if unknown:
        raise ValueError(f"This system has no control {', '.join(unknown)}; it has {', '.join(controls) or 'none'}.")


def combinations(controls: Controls, requested: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Returns every combination of the requested values, in the order of the controls; the others at their default.

    Args:
        requested: one or more values for each control named: {"object": (2.0, 9.0), "camera": (5.0,)}.

    Raises:
        ValueError: there is no such control, a value is none of it, or one without a default is not given.
    """
    check_known(controls, requested)
    values = {name: _check_values(name, control, requested.get(name)) for name, control in controls.items()}
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def sweeps(controls: Controls, held: ControlValues | None = None) -> list[dict[str, object]]:
    """Returns each control that can be swept at the values of its sweep, all others held.

    Args:
        held: values of controls while they are not swept; by default, their default.
    """
    at = {name: control.default for name, control in controls.items()} | dict(held or {})
    settings = [at, *({**at, name: value} for name, control in controls.items() for value in control.sweep)]
    given = [{name: value for name, value in each.items() if value is not None} for each in settings]
    # Two controls are both at their default once; that the label is the same is all that a person can see.
    found = {describe(controls, each): each for each in given[1:]}
    return list(found.values()) or given


def control_entries(controls: Controls, values: Sequence[ControlValues]) -> dict[str, np.ndarray]:
    """Returns the batch entries [B ...] of one set of values for each clip.

    Raises:
        ValueError: there is no such control, a value is none of it, or one without a default is not given.
    """
    check_known(controls, [name for each in values for name in each])
    requested = [{name: (value,) for name, value in each.items()} for each in values]
    rows = [{name: _check_values(name, each, row.get(name))[0] for name, each in controls.items()} for row in requested]
    return {name: control.entry([row[name] for row in rows]) for name, control in controls.items()}


def parse_values(controls: Controls, texts: Mapping[str, str | None]) -> dict[str, Sequence[object]]:
    """Returns the values of each control that a command line gives; None: it was not given.

    Raises:
        ValueError: a text does not stand for values of its control.
    """
    values: dict[str, Sequence[object]] = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            values[name] = controls[name].parse(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return values


def describe(controls: Controls, values: ControlValues) -> str:
    """Returns values in words: `object 3, camera 10`."""
    return ", ".join(controls[name].describe(name, value) for name, value in values.items())


def filename_suffix(controls: Controls, values: ControlValues, separator: str = "-") -> str:
    """Returns values for the end of a file name, the separator before each: `-object03-camera10`."""
    parts = (f"{separator}{controls[name].filename_part(name, value)}" for name, value in values.items())
    return re.sub(r"[/\\\x00]", "_", "".join(parts))  # a config, perhaps of somebody else, names its controls


def _check_values(name: str, control: Control[Any], values: Sequence[object] | None) -> tuple[Any, ...]:
    """The values of one control, each once; its default when none are given."""
    if values is None and control.default is None:
        raise ValueError(f"The control {name!r} has no default; it must be given.")
    if values is None:
        return (control.default,)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"The control {name!r} takes a tuple of values, one clip each, such as (x,); got {values!r}.")
    if not values:
        raise ValueError(f"No {name} was asked for; leave the control out for its default.")
    try:
        checked = [control.check(value) for value in values]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return _unique(checked)


def _unique(values: Sequence[Value]) -> tuple[Value, ...]:
    """The values, each once; all of them when they cannot be hashed, such as arrays."""
    try:
        return tuple(dict.fromkeys(values))
    except TypeError:
        return tuple(values)
