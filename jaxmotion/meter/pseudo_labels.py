"""Pseudo-labels: a meter that tracks points, fits the camera to them, and averages what moves relative to it.

Source: MotionStone (arXiv:2412.05848), Data for Motion NetworkMeter: trajectories of objects and of the camera, whose
"average motion intensity" is the label.
Not specified there; we use: tracker, masks, averages and unit; see `tracks`, `camera`, `objects`, `video.motion_scale`.

    python -m jaxmotion.score CLIPS --meter tracks --out pseudo_labels.jsonl
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmotion.meter.camera import dominant_move, fit_camera
from jaxmotion.meter.estimate import Clip, MotionEstimate
from jaxmotion.meter.objects import Masks, object_displacement
from jaxmotion.meter.tracks import LucasKanade, Tracker
from jaxmotion.video.frames import space_frames
from jaxmotion.video.motion_scale import STEP


@dataclasses.dataclass(frozen=True)
class PseudoLabeller:
    """Measures tracks, a camera, and the objects that move relative to it."""

    tracker: Tracker = LucasKanade()
    """Tracks points."""
    masks: Sequence[Masks] = ()
    """Object masks, whose union counts; without any, objects are what moves by itself."""

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        """Returns one estimate for each clip; its confidence is the share of points that follow the camera."""
        return [self._measure(clip) for clip in clips]

    def _measure(self, clip: Clip) -> MotionEstimate:
        chosen = space_frames(clip.seconds, STEP)
        video, seconds = clip.video[chosen], np.diff(clip.seconds[chosen])
        size = video.shape[1:3]
        tracks = self.tracker(video)
        camera = fit_camera(tracks, size)
        found = [masks(clip.video)[chosen] for masks in self.masks]
        joined = [np.logical_or.reduce(found)] if found else []
        objects, _ = object_displacement(tracks, camera, *joined)
        speed = float(camera.displacement().sum() / seconds.sum())
        return MotionEstimate(
            object_speed=objects * len(seconds) / float(seconds.sum()),
            camera_speed=speed,
            move=dominant_move(camera.moves(), seconds, speed),
            confidence=float(camera.agree.mean()),
        )
