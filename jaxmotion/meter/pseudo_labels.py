"""Labels without annotators: a meter that follows points, finds the camera behind them, and what moves beside it.

Source: MotionStone (arXiv:2412.05848), Data for Motion Estimator: trajectories of objects and of the camera, whose
"average motion intensity" is the label.
Unsaid there, chosen here: tracker, masks, averages and unit; see `tracks`, `camera`, `objects` and `video.unit`.

    python -m jaxmotion.score CLIPS --meter tracks --out pseudo_labels.jsonl
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmotion.meter.camera import dominant_move, fit_camera
from jaxmotion.meter.estimate import Clip, Reading
from jaxmotion.meter.objects import Masks, object_displacement
from jaxmotion.meter.tracks import LucasKanade, Tracker
from jaxmotion.meter.windows import spaced

STEP = 0.125
"""Seconds between the frames that are compared, about."""


@dataclasses.dataclass(frozen=True)
class PseudoLabeller:
    """Tracks, a camera, and what moves beside it, as a meter."""

    tracker: Tracker = LucasKanade()
    """What follows points."""
    masks: Sequence[Masks] = ()
    """Where objects are, by one or several ways whose masks are joined; without any, what moves by itself."""

    def __call__(self, clips: Sequence[Clip]) -> list[Reading]:
        """One reading for each clip; certain as far as points agree with the camera."""
        return [self._read(clip) for clip in clips]

    def _read(self, clip: Clip) -> Reading:
        chosen = spaced(clip.seconds, STEP)
        video, seconds = clip.video[chosen], np.diff(clip.seconds[chosen])
        size = video.shape[1:3]
        tracks = self.tracker(video)
        camera = fit_camera(tracks, size)
        found = [masks(clip.video)[chosen] for masks in self.masks]
        joined = [np.logical_or.reduce(found)] if found else []
        objects, _ = object_displacement(tracks, camera, *joined)
        speed = float(camera.displacement().sum() / seconds.sum())
        return Reading(
            object_speed=objects * len(seconds) / float(seconds.sum()),
            camera_speed=speed,
            move=dominant_move(camera.moves(), seconds, speed),
            confidence=float(camera.agree.mean()),
        )
