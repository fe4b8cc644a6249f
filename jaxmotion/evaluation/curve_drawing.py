"""A control curve as a plot and as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxmotion.evaluation import page
from jaxmotion.evaluation.calibration_table import calibration_table, describe_calibration
from jaxmotion.evaluation.chart import Line, line_chart
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_file

_INK, _SOFT, _LINE, _ACCENT, _FAINT = "#1c1c1e", "#6e6c68", "#e4e1db", "#c2491d", "#c9c4bb"
_OTHERS = ("#3b6ea5", "#5b8a3c", "#7a5195", "#8a6d3b")
_BOLD = "bold: mean of all clips, one standard deviation up and down"


def plot(numbers: Json, path: Path) -> None:
    """Draws each own measure against its control.

    Thick: the mean over all clips, with one standard deviation up and down. Dashed: other measures in the same unit.
    Thin: each scene, averaged over its seeds. Dotted, where both are in one unit: the diagonal, exactly as asked.
    """
    panels = [(control, own) for control, curve in numbers["controls"].items() for own in curve["own"]]
    figure = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (control, own) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, control, own, numbers)
    words = f"{_BOLD}; thin: the scenes; dashed: other motion; dotted: exactly as asked"
    figure.supxlabel(words, color=_SOFT, fontsize=8)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=150, format="png")


def section(numbers: Json, statistics: Mapping[str, str]) -> str:
    """Returns the section of the report: a chart for each control and own measure, and a table of the statistics."""
    controls, words = numbers["controls"], numbers["measures"]
    pairs = [(control, own) for control, curve in controls.items() for own in curve["own"]]
    charts = [(f"{control}, by {words[own]['label']}", _chart(control, own, numbers)) for control, own in pairs]
    rows, calibration = [], []
    for control, own in pairs:
        found = controls[control]["measures"][own]
        rows.append((f"{control}: {words[own]['label']}", [found.get(key) for key in statistics.values()]))
        known = found["calibration_error"] is not None
        sentence = page.words(describe_calibration(control, own, numbers))
        calibration.append(calibration_table(control, own, numbers) if known else sentence)
    values = max(len(curve["values"]) for curve in controls.values())
    text = (
        f"{numbers['clips']} clips: {page.count(len(numbers['scenes']), 'scene')} at {values} values of "
        f"{page.count(len(controls), 'control')}, with {page.count(len(numbers['seeds']), 'seed')} each. The bold line "
        "is the mean of all clips with one standard deviation up and down; "
    )
    if any(_others(curve, own) for curve in controls.values() for own in curve["own"]):
        text += (
            "thin: other motion, which should stay where it is. Cross-talk is its change in each scene over that of "
            "the bold line."
        )
    else:
        text += "the thin ones are the scenes."
    if any(controls[control]["measures"][own]["calibration_error"] is not None for control, own in pairs):
        text += " Dotted: exactly as asked."
    for control, curve in controls.items():
        if curve["held"]:
            held = " and ".join(f"{other} at {value:g}" for other, value in curve["held"].items())
            text += f" {control.capitalize()} is swept with {held}."
    content = page.plots(charts) + page.numbers_table(list(statistics), rows) + "".join(calibration)
    return page.section("Does it move as much as requested?", text, content)


def _chart(control: str, own: str, numbers: Json) -> str:
    """One measure against one control as SVG; behind it the other measures in its unit, or else the scenes."""
    curve, words = numbers["controls"][control], numbers["measures"]
    values, found = curve["values"], curve["measures"][own]
    behind = {name: (words[name]["label"], curve["measures"][name]["mean"]) for name in _others(curve, own)}
    thin = behind.values() or found["scenes"].items()
    lines = [Line(values, means, "faint", name=name) for name, means in thin]
    points = [
        f"{control} {value:g}: {mean:.3g} ± {deviation:.2g}"
        for value, mean, deviation in zip(values, found["mean"], found["deviation"], strict=True)
    ]
    if found["calibration_error"] is not None:
        lines.append(Line(values, values, "diagonal", name="exactly as asked"))
    lines.append(Line(values, found["mean"], "main", found["deviation"], points, words[own]["label"]))
    return line_chart(
        lines,
        says=f"Measured motion by {words[own]['label']} against {control}: {'; '.join(points)}.",
        x_label=f"{control} that was requested",
        y_label=words[own]["unit"],
        x_ticks=values,
        zero=words[own]["limits"][0] == 0.0,
    )


def _draw(axes: Axes, control: str, own: str, numbers: Json) -> None:
    curve, words = numbers["controls"][control], numbers["measures"]
    values, found = curve["values"], curve["measures"][own]
    for scene in found["scenes"].values():
        axes.plot(values, scene, color=_FAINT, linewidth=1.0)
    for name, colour in zip(_others(curve, own), _OTHERS, strict=False):
        other = curve["measures"][name]
        axes.errorbar(
            values, other["mean"], yerr=other["deviation"], color=colour, linewidth=1.4, linestyle="--",
            elinewidth=0.9, capsize=3, label=words[name]["label"],
        )  # fmt: skip
    axes.errorbar(
        values, found["mean"], yerr=found["deviation"], color=_ACCENT, linewidth=2.2, marker="o", markersize=5,
        elinewidth=1.2, capsize=3, zorder=3, label=words[own]["label"],
    )  # fmt: skip
    title = f"{words[own]['label']}:  rho {found['spearman']:.3f}"
    if found["calibration_error"] is not None:
        axes.plot(values, values, color=_SOFT, linewidth=1.2, linestyle=":", zorder=2, label="exactly as asked")
    if found["largest_cross_talk"] is not None:
        title += f", cross-talk {found['largest_cross_talk']:.2f}"
    if found["calibration_error"] is not None:
        title += f", off by {found['calibration_error']:.2f}"
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    held = ", ".join(f"{other} held at {value:g}" for other, value in curve["held"].items())
    axes.set_xlabel(f"{control} that was requested{held and f' ({held})'}", color=_SOFT)
    axes.set_ylabel(words[own]["unit"], color=_SOFT)
    axes.set_xticks(values)
    axes.set_ylim(*words[own]["limits"])
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)


def _others(curve: Json, own: str) -> list[str]:
    """The other measures in the unit of an own one."""
    return list(curve["measures"][own]["cross_talk"])
