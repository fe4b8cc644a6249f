"""What was measured beside what was asked, in words and colours, for the report."""

from __future__ import annotations

import html

from jaxmotion.foundation.config_json import Json

CLOSE, NEAR = 0.5, 1.0
"""A mean error up to here is coloured as close, and as near."""
UNBIASED = 0.25
"""Clips that are less off than this on average are as asked, or scatter."""


def calibration_table(control: str, own: str, numbers: Json) -> str:
    """Returns a table of a control that is in the unit of its measure: asked, measured, and how far apart they are."""
    curve, label = numbers["controls"][control], numbers["measures"][own]["label"]
    found, values = curve["measures"][own], curve["values"]
    errors, biases = found["error_by_value"], found["bias_by_value"]
    asked = "".join(f"<th>{value:g}</th>" for value in values)
    measured = "".join(
        f'<td class="{_colour(error)}">{mean:.1f}</td>' for mean, error in zip(found["mean"], errors, strict=True)
    )
    words = "".join(f"<td>{html.escape(_words(*pair))}</td>" for pair in zip(errors, biases, strict=True))
    rows = (("asked", asked), (f"{label}, measured", measured), ("which is", words))
    body = "".join(f"<tr><th>{html.escape(name)}</th>{cells}</tr>" for name, cells in rows)
    text = html.escape(describe_calibration(control, own, numbers))
    return f'<p class="words">{text}</p><table class="asked">{body}</table>'


def describe_calibration(control: str, own: str, numbers: Json) -> str:
    """Returns in a sentence how far clips are from what was asked, or why that cannot be said."""
    curve, words = numbers["controls"][control], numbers["measures"][own]
    found = curve["measures"][own]
    if found["calibration_error"] is None:
        unit = curve["unit"] or "a unit of its own"
        return f"How far the {words['label']} is from what was asked is not defined: {control} is in {unit}."
    errors = found["error_by_value"]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return (
        f"Asked for {control}, clips are {found['calibration_error']:.2f} off by {words['label']} on average; most at "
        f"{curve['values'][worst]:g}, where it is {_words(errors[worst], found['bias_by_value'][worst])}."
    )


def _words(error: float, bias: float) -> str:
    if abs(bias) >= UNBIASED:
        return f"{abs(bias):.1f} too {'much' if bias > 0 else 'little'}"
    return "as asked" if error < CLOSE else f"off by {error:.1f} either way"


def _colour(error: float) -> str:
    return "close" if error <= CLOSE else "near" if error <= NEAR else "far"
