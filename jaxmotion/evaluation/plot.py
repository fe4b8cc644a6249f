"""The control curve as a picture: measured motion against the level that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxmotion.evaluation.measures import LABELS

PLOT = "evaluate/control.png"
"""Where the plot of a run is written, in the folder of the run."""

_INK, _SOFT, _LINE, _ACCENT, _FAINT = "#1c1c1e", "#6e6c68", "#e4e1db", "#c2491d", "#c9c4bb"


def plot_control(numbers: Mapping[str, Any], directory: Path) -> Path:
    """Draw the curves of `control.summary` into the folder of a run and return the path.

    Thick: the mean over all clips, with one standard deviation up and down. Thin: each photo, averaged over its seeds.
    """
    path = directory / PLOT
    path.parent.mkdir(parents=True, exist_ok=True)
    curves = numbers["curve"]
    figure = Figure(figsize=(5.2 * len(curves), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, curve) in zip(axes, curves.items(), strict=True):
        _draw(panel, name, curve, numbers)
    figure.supxlabel(
        "bold: mean of all clips, one standard deviation up and down; thin: the photos", color=_SOFT, fontsize=8
    )
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, dpi=150, format="png")
    part.replace(path)
    return path


def _draw(axes: Axes, name: str, curve: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    levels = numbers["levels"]
    title, unit = LABELS.get(name, (name, name))
    for photo in curve["photos"].values():
        axes.plot(levels, photo, color=_FAINT, linewidth=1.0)
    axes.errorbar(
        levels,
        curve["mean"],
        yerr=curve["deviation"],
        color=_ACCENT,
        linewidth=2.2,
        marker="o",
        markersize=5,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )
    axes.set_title(f"{title}:  rho = {numbers[f'spearman_{name}']:.3f}", color=_INK, fontsize=11, loc="left")
    axes.set_xlabel("level that was asked for", color=_SOFT)
    axes.set_ylabel(unit, color=_SOFT)
    axes.set_xticks(levels)
    axes.set_ylim(bottom=0.0)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
