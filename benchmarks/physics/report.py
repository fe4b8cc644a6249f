"""Numbers of the benchmark: how near measured scores are to the true ones, by axis, band and condition."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from benchmarks.physics.clip import Clip, Truth, true_motion
from benchmarks.physics.measuring import Measurement
from jaxmotion.video import motion_scale
from jaxmotion.video.motion_scale import AXES

BANDS = ((1.0, 3.0), (3.0, 5.0), (5.0, 7.0), (7.0, 8.5), (8.5, 10.1))
"""Of true scores."""
NEAR = 1.0
"""Scores from the truth that still count as right."""
WORST = 30
BARS = {"camera": 0.97, "object": 0.92, "bias": 0.5, "least confident tenth": 0.5}
"""What a good meter holds: least shares within 1 of the two axes, largest bias in any band, and least share of the
misses that lie in the least confident tenth of the clips."""


@dataclasses.dataclass(frozen=True)
class Results:
    """Clips with their true and measured scores.

    true, measured [N 2]: object and camera. confidence [N].
    """

    clips: Sequence[Clip]
    truths: Sequence[Truth]
    true: Float[np.ndarray, "N 2"]
    measured: Float[np.ndarray, "N 2"]
    confidence: Float[np.ndarray, " N"]

    @property
    def off(self) -> Float[np.ndarray, "N 2"]:
        """Measured minus true."""
        return self.measured - self.true

    def of(self, chosen: Sequence[int]) -> Results:
        """Returns those of some clips."""
        index = np.array(chosen, int)
        return Results(
            [self.clips[i] for i in index],
            [self.truths[i] for i in index],
            self.true[index],
            self.measured[index],
            self.confidence[index],
        )


def gather(clips: Sequence[Clip], measured: Sequence[Measurement]) -> Results:
    """Returns clips, truths and measurements side by side."""
    truths = [true_motion(clip) for clip in clips]
    true = np.array([[motion_scale.score(t.object_speed), motion_scale.score(t.camera_speed)] for t in truths])
    scores = np.array([[each.object, each.camera] for each in measured])
    return Results(clips, truths, true, scores, np.array([each.confidence for each in measured]))


def summarize(results: Results) -> dict:
    """Returns all numbers as JSON values."""
    missed = (np.abs(results.off) > NEAR).any(1)
    return {
        "clips": len(results.clips),
        "within 1": {axis: _share(results.off[:, i]) for i, axis in enumerate(AXES)},
        "mean absolute error": {axis: _rounded(np.abs(results.off[:, i]).mean()) for i, axis in enumerate(AXES)},
        "bias by band": {axis: bias_by_band(results, i) for i, axis in enumerate(AXES)},
        "confidence": confidence_numbers(results.confidence, missed),
        "conditions": {name: _condition(part) for name, part in by_condition(results).items()},
        "parts": {name: _condition(part) for name, part in by_part(results).items()},
        "worst": [describe_result(results, i) for i in np.argsort(-np.abs(results.off).max(1))[:WORST]],
    }


def broken_bars(summary: Mapping, bars: Mapping[str, float]) -> list[str]:
    """Returns a sentence for each bar that is not held."""
    broken = [
        f"{axis}: {summary['within 1'][axis]:.3f} within 1, asked is {bars[axis]}"
        for axis in AXES
        if summary["within 1"][axis] < bars[axis]
    ]
    for axis in AXES:
        for name, band in summary["bias by band"][axis].items():
            if band["clips"] and abs(band["bias"]) > bars["bias"]:
                broken.append(f"{axis}: bias {band['bias']:+.2f} from {name}, asked is at most {bars['bias']}")
    caught = summary["confidence"]["misses in the least confident tenth"]
    if caught is not None and caught < bars["least confident tenth"]:
        broken.append(
            f"the least confident tenth holds {caught} of the misses, asked is {bars['least confident tenth']}"
        )
    return broken


def bias_by_band(results: Results, axis: int) -> dict:
    """Returns the mean of measured minus true in each band of true scores."""
    bands = {}
    for low, high in BANDS:
        inside = (results.true[:, axis] >= low) & (results.true[:, axis] < high)
        off = results.off[inside, axis]
        bands[f"{low:g} to {min(high, 10):g}"] = {
            "clips": int(inside.sum()),
            "bias": _rounded(off.mean()) if len(off) else None,
            "within 1": _share(off),
        }
    return bands


def confidence_numbers(confidence: Float[np.ndarray, " N"], missed: np.ndarray) -> dict:
    """Returns how well confidence tells misses (a score more than 1 off, on either axis) from the rest."""
    count, total = max(1, round(len(missed) / 10)), int(missed.sum())
    order = np.argsort(confidence, kind="stable")
    higher = confidence[~missed][:, None] - confidence[missed][None]
    return {
        "misses": total,
        "misses in the least confident tenth": _rounded(missed[order[:count]].sum() / total) if total else None,
        "right is more confident": _rounded(((higher > 0) + 0.5 * (higher == 0)).mean()) if higher.size else None,
        "mean": _rounded(confidence.mean()),
        "share right": _rounded(1 - missed.mean()),
    }


def by_condition(results: Results) -> Mapping[str, Results]:
    """Returns the results of each condition."""
    groups = defaultdict(list)
    for index, clip in enumerate(results.clips):
        groups[clip.condition].append(index)
    return {name: results.of(chosen) for name, chosen in groups.items()}


def by_part(results: Results) -> Mapping[str, Results]:
    """Returns the results by frame rate, size, shape, area of things, what moves, and the way of measuring."""
    groups = defaultdict(list)
    for index, (clip, truth) in enumerate(zip(results.clips, results.truths, strict=True)):
        still = [truth.object_speed == 0, truth.camera_speed == 0]
        moving = ["both", "object only", "camera only", "still"][2 * still[0] + still[1]] if any(still) else "both"
        if still == [True, False]:
            moving = "camera only"
        elif still == [False, True]:
            moving = "object only"
        rate = "to 12" if clip.fps <= 12 else "15 to 30" if clip.fps <= 30 else "above 30"
        side = min(clip.width, clip.height)
        size = "below 128" if side < 128 else "to 360" if side <= 360 else "above"
        shape = "portrait" if clip.height > clip.width else "square" if clip.height == clip.width else "landscape"
        for name in (f"moves: {moving}", f"fps: {rate}", f"px: {size}", f"shape: {shape}", f"by: {clip.by}"):
            groups[name].append(index)
        if truth.area:
            area = "below 5" if truth.area < 0.05 else "5 to 15" if truth.area < 0.15 else "above 15"
            groups[f"area: {area} %"].append(index)
    return {name: results.of(groups[name]) for name in sorted(groups)}


def describe_result(results: Results, index: int) -> dict:
    """Returns what a clip is and what was measured, short enough to be listed."""
    clip, truth = results.clips[index], results.truths[index]
    moves = [[f"{move.kind} {move.curve.kind}" for move in shot.camera] for shot in clip.scenes]
    things = [
        ["+".join(f"{m.kind} {m.curve.kind}" for m in thing.moves) for thing in shot.things] for shot in clip.scenes
    ]
    return {
        "name": clip.name,
        "true": [_rounded(x) for x in results.true[index]],
        "measured": [_rounded(x) for x in results.measured[index]],
        "confidence": _rounded(results.confidence[index]),
        "format": f"{clip.width}x{clip.height}, {clip.fps:g} fps, {len(clip.times)} frames, crf {clip.crf},"
        f" by {clip.by}",
        "camera": moves,
        "things": things,
        "area": _rounded(truth.area),
        "backdrops": [f"{shot.backdrop.kind} {shot.backdrop.photograph}" for shot in clip.scenes],
        "effects": [[name, {key: _rounded(value) for key, value in values.items()}] for name, values in clip.effects],
        "shutter": _rounded(clip.shutter),
    }


def draw_scatter(results: Results, path: Path) -> None:
    """Draws measured over true scores for both axes, a colour for each condition."""
    figure, axes = plt.subplots(1, 2, figsize=(17, 7.5), constrained_layout=True)
    groups = by_condition(results)
    colours = plt.get_cmap("nipy_spectral")(np.linspace(0.03, 0.97, len(groups)))
    for place, axis in enumerate(AXES):
        panel = axes[place]
        panel.fill_between([1, 10], [0, 9], [2, 11], color="0.93", zorder=0)
        panel.plot([1, 10], [1, 10], color="0.7", lw=1, zorder=1)
        for index, (name, part) in enumerate(groups.items()):
            style = {"marker": "osD^v"[index % 5], "s": 20, "color": colours[index], "alpha": 0.8, "linewidths": 0}
            panel.scatter(part.true[:, place], part.measured[:, place], label=name, **style)
        panel.set(xlim=(0.8, 10.2), ylim=(0.8, 10.2), xlabel=f"true {axis} score", ylabel=f"measured {axis} score")
        panel.set_title(f"{axis}: {100 * _share(results.off[:, place]):.1f} % within 1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def format_tables(summary: Mapping) -> str:
    """Returns the numbers as text with Markdown tables."""
    near, biases, sure = summary["within 1"], summary["bias by band"], summary["confidence"]
    bands = list(biases["object"])
    lines = [
        f"{summary['clips']} clips. Within 1 score: object {100 * near['object']:.1f} %, "
        f"camera {100 * near['camera']:.1f} %. Misses in the least confident tenth: "
        f"{sure['misses in the least confident tenth']} of {sure['misses']} "
        f"(right is more confident than missed: {sure['right is more confident']}).",
        "",
        *(f"- not held: {sentence}" for sentence in broken_bars(summary, BARS)),
        "",
        "| bias in bands of true scores | " + " | ".join(bands) + " |",
        "|---" * (len(bands) + 1) + "|",
    ]
    for axis in AXES:
        cells = [f"{b['bias']:+.2f} ({b['clips']})" if b["clips"] else "" for b in biases[axis].values()]
        lines.append(f"| {axis} | " + " | ".join(cells) + " |")
    head = "clips | object within 1 | camera within 1 | object bias | camera bias | confidence"
    for title in ("conditions", "parts"):
        lines += ["", f"| {title} | {head} |", "|---" * 7 + "|"]
        for name, part in summary[title].items():
            share, bias = part["within 1"], part["bias"]
            lines.append(
                f"| {name} | {part['clips']} | {100 * share['object']:.0f} % | {100 * share['camera']:.0f} % "
                f"| {bias['object']:+.2f} | {bias['camera']:+.2f} | {part['confidence']:.2f} |"
            )
    lines += ["", "Worst clips (object, camera):", ""]
    for each in summary["worst"]:
        true, measured = each["true"], each["measured"]
        lines.append(
            f"- {each['name']}: true {true[0]:.2f} {true[1]:.2f}, measured {measured[0]:.2f} {measured[1]:.2f}, "
            f"confidence {each['confidence']:.2f}; {each['format']}; camera {each['camera']}, things {each['things']}, "
            f"area {each['area']}, {each['effects']}"
        )
    return "\n".join(lines) + "\n"


def _condition(part: Results) -> dict:
    return {
        "clips": len(part.clips),
        "within 1": {axis: _share(part.off[:, i]) for i, axis in enumerate(AXES)},
        "bias": {axis: _rounded(part.off[:, i].mean()) for i, axis in enumerate(AXES)},
        "confidence": _rounded(part.confidence.mean()),
    }


def _share(off: np.ndarray) -> float:
    return _rounded((np.abs(off) <= NEAR).mean()) if len(off) else float("nan")


def _rounded(value: float) -> float:
    return round(float(value), 3)
