"""Ranking quality of motion meters, axis by axis: pairwise accuracy, rank correlation, and cross-talk of the axes.

A meter's numbers are [N 2], object and camera; a meter that knows one number gives it twice. They need to rise with
motion, and need no unit.

Source: MotionStone (arXiv:2412.05848), Table 3: of two clips the one that moves more must score higher, object and
camera apart; one point for each pair in the right order.
Not specified in the paper; we use: half a point for equal scores (as a coin would get); no pairs from judges' ties.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.table import Table
from scipy.stats import spearmanr

from jaxmotion.foundation.config_json import Json, JsonValue
from jaxmotion.video import cross_talk as axes
from jaxmotion.video.motion_scale import AXES

APART = 1.0
"""Clips whose true scores differ by less are no pair: people would not agree on them either."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of clips by their indices, the one that moves more first; `hard` are those in which the other axis is the
    other way round, so that one number for both is right on one axis at most.
    """

    stronger: np.ndarray
    weaker: np.ndarray
    hard: np.ndarray


def pairs_of(truth: Float[np.ndarray, "N 2"], axis: int, apart: float = APART) -> Pairs:
    """Returns all pairs of clips whose true scores on an axis are far enough apart."""
    difference = truth[:, None, axis] - truth[None, :, axis]
    other = truth[:, None, 1 - axis] - truth[None, :, 1 - axis]
    stronger, weaker = np.nonzero(difference >= apart)
    return Pairs(stronger, weaker, (other <= -apart)[stronger, weaker])


def judged_pairs(judged: Sequence[tuple[int, int, str, str]], axis: int) -> Pairs:
    """Returns an axis' pairs from judgements (a, b, stronger_object, stronger_camera: `a`, `b`, `tie` or nothing)."""
    kept = [(a, b, (o, c)) for a, b, o, c in judged if (o, c)[axis] in ("a", "b")]
    first = [(a, b) if verdicts[axis] == "a" else (b, a) for a, b, verdicts in kept]
    hard = [{verdicts[0], verdicts[1]} == {"a", "b"} for _, _, verdicts in kept]
    indices = np.asarray(first, int).reshape(-1, 2)
    return Pairs(indices[:, 0], indices[:, 1], np.asarray(hard, bool))


def pairs_right(numbers: Float[np.ndarray, " N"], pairs: Pairs) -> dict[str, float | int]:
    """Returns the share of pairs in the right order, and the number of pairs.

    `right` counts all pairs, `right_hard` the hard ones; `right_balanced` counts these and the rest half and half, so
    that one number for both axes gains nothing from pairs in which both move more.
    """
    ahead = numbers[pairs.stronger] - numbers[pairs.weaker]
    points = np.where(ahead > 0, 1.0, np.where(ahead == 0, 0.5, 0.0))
    hard, plain = _mean(points[pairs.hard]), _mean(points[~pairs.hard])
    return {
        "right": _mean(points),
        "right_hard": hard,
        "right_balanced": (hard + plain) / 2,
        "pairs": len(points),
        "pairs_hard": int(pairs.hard.sum()),
    }


def ranking_metrics(
    numbers: Float[np.ndarray, "N 2"], truth: Float[np.ndarray, "N 2"], apart: float = APART
) -> dict[str, Json]:
    """Returns pairwise accuracy and Spearman's rho against true scores, axis by axis."""
    result = {}
    for index, axis in enumerate(AXES):
        right = pairs_right(numbers[:, index], pairs_of(truth, index, apart))
        result[axis] = {**right, "rho": _rho(numbers[:, index], truth[:, index])}
    return result


def cross_talk(numbers: Float[np.ndarray, "G V 2"], moved: int) -> dict[str, float]:
    """Measures how much the estimate of one axis changes with the other's motion.

    Args:
        numbers: of G groups of V clips, in which only the speed of the axis `moved` differs, rising.

    Returns:
        own: mean change of the moved axis from the slowest to the fastest clip. other: mean absolute change of the
        other axis. ratio: the second over the first. As for the dials of a run (`video.cross_talk`).
    """
    talk = axes.cross_talk(numbers[..., moved], numbers[..., 1 - moved])
    return {"own": talk.own, "other": talk.other, "ratio": float("inf") if talk.ratio is None else talk.ratio}


def table(results: Mapping[str, Json], title: str) -> Table:
    """Returns a table of meters in rows: pairs right (all, hard, balanced) and rho per axis, cross-talk if measured."""
    shown = Table(title=title)
    shown.add_column("meter")
    groups = ("right", "hard", "balanced")
    columns = [f"{axis} {group}" for group in groups for axis in AXES]
    for column in (*columns, "mean", "rho object", "rho camera", "camera to object", "object to camera"):
        shown.add_column(column, justify="right")
    for meter, result in results.items():
        both = [result[axis] for axis in AXES]
        cells = [
            *(_percent(axis["right"]) for axis in both),
            *(_percent(axis["right_hard"]) for axis in both),
            *(_percent(axis["right_balanced"]) for axis in both),
            _percent(float(np.mean([axis["right_balanced"] for axis in both]))),
            *(f"{axis['rho']:.3f}" if "rho" in axis else "" for axis in both),
            *(f"{result['cross_talk'][axis]['ratio']:.2f}" if "cross_talk" in result else "" for axis in AXES[::-1]),
        ]
        shown.add_row(meter, *cells)
    return shown


def write(results: Mapping[str, JsonValue], path: Path) -> None:
    """Writes the numbers as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def _rho(numbers: np.ndarray, truth: np.ndarray) -> float:
    """Returns Spearman's rank correlation."""
    return float(spearmanr(numbers, truth)[0])  # pyright: ignore[reportArgumentType]


def _mean(points: np.ndarray) -> float:
    return float(points.mean()) if len(points) else float("nan")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else ""
