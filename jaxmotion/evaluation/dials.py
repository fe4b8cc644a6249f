"""Two dials: does the object move as much as was asked, and the camera, and does one dial leave the other's axis alone?

Every scene is animated with each dial turned from low to high while the other stands still. Both axes of the clips are
measured, in scores of `video.unit`; a dial's cross-talk is the change of the other axis over the change of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats
from tqdm import tqdm

from jaxmotion.evaluation.control import CONTROL
from jaxmotion.evaluation.plot import PLOT
from jaxmotion.foundation.entries import CAMERA, OBJECT
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.motion_scale import AXES


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture to animate, what to say about it, and where its object is."""

    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    prompt: str
    mask: Bool[np.ndarray, "H W"] | None = None


Make = Callable[[Scene, Sequence[Mapping[str, float]], int], UInt8[np.ndarray, "N T H W 3"]]
"""(scene, settings of the dials, seed) to clips, one for each setting."""
Speeds = Callable[[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, "H W"] | None], tuple[float, float]]
"""(clip, where its object is in the first frame) to object and camera speed, diagonals per second."""


@dataclasses.dataclass(frozen=True)
class Turned:
    """What was measured: for each axis the scores of the clips, [dial of that axis turned, axis measured]."""

    dials: Mapping[str, str]
    """For each axis, the name of its dial."""
    values: tuple[float, ...]
    scenes: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Float[np.ndarray, "2 2 scenes values seeds"]


def measure_dials(
    make: Make,
    scenes: Sequence[Scene],
    dials: Mapping[str, str],
    speeds: Speeds,
    *,
    values: Sequence[float] = tuple(range(1, 11)),
    seeds: Sequence[int] = (0, 1),
) -> Turned:
    """Animates and measures, with a progress bar.

    Args:
        dials: for each axis the name of its dial; both may be the same one.

    Raises:
        ValueError: no scene or seed, or fewer than two ascending values.
    """
    values, seeds = tuple(values), tuple(seeds)
    if not scenes or not seeds:
        raise ValueError(f"Dials need a scene and a seed; got {len(scenes)} scenes and {len(seeds)} seeds.")
    if len(values) < 2 or any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError(f"A dial is turned through two or more ascending values; got {values}.")
    measured = np.zeros((2, 2, len(scenes), len(values), len(seeds)))
    distinct = list(dict.fromkeys(dials[axis] for axis in AXES))
    total = len(distinct) * len(scenes) * len(values) * len(seeds)
    with tqdm(total=total, desc="turning dials", unit="clip", disable=None) as bar:
        for dial, (s, scene), (k, seed) in itertools.product(distinct, enumerate(scenes), enumerate(seeds)):
            clips = make(scene, [{dial: value} for value in values], seed)
            found = np.array([speeds(clip, scene.mask) for clip in clips])
            for turned, axis in enumerate(AXES):
                if dials[axis] == dial:
                    measured[turned, :, s, :, k] = unit.score(found.T)
            bar.update(len(values))
    names = tuple(scene.name for scene in scenes)
    return Turned(dict(dials), values, names, seeds, measured)


def summary(turned: Turned) -> dict[str, Any]:
    """The numbers, as JSON values. For each AXIS, whose dial is turned:

    rho_AXIS:            Spearman's rho of what was asked and that axis' score over all clips; 0 if nothing varies.
    rho_per_scene_AXIS:  the same for each scene by itself, averaged.
    change_AXIS:         how far that axis' mean score goes from its lowest to its highest.
    cross_talk_AXIS:     the same of the other axis, over that; None if nothing changes.
    """
    numbers: dict[str, Any] = {}
    for own, axis in enumerate(AXES):
        scores = turned.scores[own]
        numbers[f"rho_{axis}"] = _rho(turned.values, scores[own])
        numbers[f"rho_per_scene_{axis}"] = float(np.mean([_rho(turned.values, one[None]) for one in scores[own]]))
        change, other = (float(np.ptp(scores[each].mean((0, 2)))) for each in (own, 1 - own))
        numbers[f"change_{axis}"] = change
        numbers[f"cross_talk_{axis}"] = other / change if change > 1e-6 else None
        numbers[f"curves_{axis}"] = {
            name: {"mean": scores[i].mean((0, 2)).tolist(), "deviation": scores[i].std((0, 2)).tolist()}
            for i, name in enumerate(AXES)
        }
    clips = len(set(turned.dials.values())) * int(np.prod(turned.scores.shape[2:]))
    return {
        **numbers,
        "dials": dict(turned.dials),
        "values": list(turned.values),
        "scenes": list(turned.scenes),
        "seeds": list(turned.seeds),
        "clips": clips,
    }


def table(found: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """The numbers of `summary` of one or several systems, by name, for people."""
    shown = Table(title=title)
    for column in ("", *(f"{what} {axis}" for axis in AXES for what in ("rho", "per scene", "change", "cross-talk"))):
        shown.add_column(column, justify="right" if column else "left")
    for name, numbers in found.items():
        cells = []
        for axis in AXES:
            talk = numbers[f"cross_talk_{axis}"]
            cells += [f"{numbers[f'rho_{axis}']:.3f}", f"{numbers[f'rho_per_scene_{axis}']:.3f}"]
            cells += [f"{numbers[f'change_{axis}']:.2f}", "-" if talk is None else f"{talk:.2f}"]
        shown.add_row(name, *cells)
    return shown


def write(numbers: Mapping[str, Any], directory: Path) -> Path:
    """Writes `control.json` into the folder of a run, whole or not at all, and returns its path."""
    path = directory / CONTROL
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    part.replace(path)
    return path


def plot(numbers: Mapping[str, Any], directory: Path) -> Path:
    """Draws, for each dial, what both axes did when it was turned; returns the path."""
    path = directory / PLOT
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {OBJECT: "#c2491d", CAMERA: "#2f5d8a"}
    for panel, axis in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
        for name, curve in numbers[f"curves_{axis}"].items():
            style = {"linewidth": 2.2, "marker": "o"} if name == axis else {"linewidth": 1.4, "linestyle": "--"}
            panel.errorbar(
                numbers["values"], curve["mean"], yerr=curve["deviation"], color=colours[name], capsize=3,
                elinewidth=0.9, label=f"{name} score that was measured", **style,
            )  # fmt: skip
        talk = numbers[f"cross_talk_{axis}"]
        said = "-" if talk is None else f"{talk:.2f}"
        panel.set_title(
            f"{axis} dial: rho = {numbers[f'rho_{axis}']:.3f}, cross-talk = {said}", loc="left", fontsize=11
        )
        panel.set_xlabel(f"{numbers['dials'][axis]} score that was asked for")
        panel.set_ylim(1, 10)
        panel.grid(axis="y", color="#e4e1db")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=9)
    figure.supxlabel("mean of all clips, one standard deviation up and down", fontsize=8)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, dpi=150, format="png")
    part.replace(path)
    return path


def _rho(values: Sequence[float], scores: Float[np.ndarray, "scenes values seeds"]) -> float:
    if np.ptp(scores) == 0.0:
        return 0.0
    asked = np.broadcast_to(np.asarray(values)[None, :, None], scores.shape)
    return float(np.asarray(stats.spearmanr(asked.ravel(), scores.ravel()))[0])
