"""What is said about a clip: how the readings of its windows add up, and the record that is written.

The speed of a clip is the mean over its windows, weighted by how long they are; its score is that of this speed. Its
camera move is the one that accounts for the largest part of the camera's path (speed times duration), its confidence
the weighted mean.

Unsaid in the papers, chosen here: how windows add up to a clip.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from jaxmotion.meter.estimate import Move, Reading
from jaxmotion.meter.sinks import Record
from jaxmotion.meter.windows import Plan, Span
from jaxmotion.video import motion_scale as unit


def summed(measured: Sequence[tuple[Span, Reading]]) -> Reading:
    """The reading of a clip from those of its windows."""
    seconds = math.fsum(span.weight for span, _ in measured)
    weighted = [(span.weight / seconds, reading) for span, reading in measured]
    still = not any(reading.camera_speed > 0 for _, reading in weighted)
    paths: dict[Move, float] = defaultdict(float)
    for weight, reading in weighted:
        paths[reading.move] += weight * (1.0 if still else reading.camera_speed)
    return Reading(
        object_speed=math.fsum(weight * reading.object_speed for weight, reading in weighted),
        camera_speed=math.fsum(weight * reading.camera_speed for weight, reading in weighted),
        move=max(paths, key=lambda move: paths[move]),
        confidence=math.fsum(weight * reading.confidence for weight, reading in weighted),
    )


def record_of(
    plan: Plan,
    measured: Sequence[tuple[Span, Reading]],
    *,
    size: tuple[int, int],
    digest: str,
    meter: str,
    most: int,
) -> Record:
    """The record of a clip.

    Args:
        plan: which windows were looked at.
        measured: those that could be decoded, with their readings.
        size: displayed (height, width).
        digest: of the file's content.
        meter: the meter's name.
        most: windows of a video at most, as asked for; 0: all.

    Raises:
        ValueError: the meter gave something else than numbers.
    """
    measured = sorted(measured, key=lambda each: each[0].seconds[0])
    clip = summed(measured)
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
    total = sum(map(len, plan.parts))
    gone = total - len(measured)
    notes = [plan.note, f"{gone} of {total} windows cannot be decoded" if gone else ""]
    if plan.sampled:
        record["sampled"] = most
    if any(notes):
        record["note"] = "; ".join(filter(None, notes))
    if total > 1:
        record["windows"] = [
            {"start": round(float(span.seconds[0]), 3), "end": round(float(span.seconds[-1]), 3), **_scores(reading)}
            for span, reading in measured
        ]
    return record


def _scores(reading: Reading) -> Record:
    return {
        "object": round(float(unit.score(reading.object_speed)), 3),
        "camera": round(float(unit.score(reading.camera_speed)), 3),
        "move": reading.move,
        "confidence": round(reading.confidence, 3),
    }
