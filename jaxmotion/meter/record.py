"""Records: the scores of a clip and its windows as they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxmotion.meter.estimate import MotionEstimate, average_estimates
from jaxmotion.meter.sinks import Record
from jaxmotion.meter.windows import Window, WindowPlan
from jaxmotion.video import motion_scale


def make_record(
    plan: WindowPlan,
    measured: Sequence[tuple[Window, MotionEstimate]],
    *,
    size: tuple[int, int],
    lost: int,
    cuts: int,
    digest: str,
    meter: str,
    max_windows: int,
) -> Record:
    """Returns the record of a clip.

    Args:
        plan: its windows.
        measured: the windows that could be decoded, with their estimates.
        size: displayed (height, width).
        lost: how many windows could not be decoded.
        cuts: how many cuts were found.
        digest: of the file's content.
        meter: the meter's name.
        max_windows: requested limit of windows per video; 0: all.

    Raises:
        ValueError: the meter gave something else than numbers.
    """
    measured = sorted(measured, key=lambda each: each[0].seconds[0])
    clip = average_estimates([estimate for _, estimate in measured], [window.weight for window, _ in measured])
    if not all(map(math.isfinite, (clip.object_speed, clip.camera_speed, clip.confidence))):
        raise ValueError("the meter gave no number for it")
    record: Record = {
        "path": plan.path,
        **_scores(clip),
        "object_speed": float(f"{clip.object_speed:.5g}"),
        "camera_speed": float(f"{clip.camera_speed:.5g}"),
        "seconds": round(plan.seconds, 3),
        "fps": round(plan.fps, 3),
        "width": size[1],
        "height": size[0],
        "hash": digest,
        "meter": meter,
    }
    total = len(measured) + lost
    notes = [plan.note, f"{lost} of {total} windows cannot be decoded" if lost else ""]
    if cuts:
        record["cuts"] = cuts
    if plan.sampled:
        record["sampled"] = max_windows
    if any(notes):
        record["note"] = "; ".join(filter(None, notes))
    if total > 1:
        record["windows"] = [
            {"start": round(float(w.seconds[0]), 3), "end": round(float(w.seconds[-1]), 3), **_scores(estimate)}
            for w, estimate in measured
        ]
    return record


def _scores(estimate: MotionEstimate) -> Record:
    return {
        "object": round(float(motion_scale.score(estimate.object_speed)), 3),
        "camera": round(float(motion_scale.score(estimate.camera_speed)), 3),
        "move": estimate.move,
        "confidence": round(estimate.confidence, 3),
    }
