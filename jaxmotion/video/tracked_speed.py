"""Object and camera speed of a clip whose first frame is known, by points tracked from there to the end.

For judging clips that were made on request: where the object is in the first frame is known, for that frame was given.
Net motion from the first frame on is less noisy than a sum over steps, and the same where motion is steady. It uses no
network, and nothing that a motion estimator has learnt.

Source: the pseudo-labels of MotionStone (arXiv:2412.05848, Data for Motion Estimator): tracks, object masks, averages.
Not specified there; we use: Lucas-Kanade tracks chained over the clip, an affine camera, net motion.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxmotion.video.geometry import corners
from jaxmotion.video.opencv import opencv

COMFORTABLE = 128
"""Smaller clips are enlarged until their shorter side has so many pixels: a patch must fit into an object."""
SPACING = 4
"""Pixels between the points that are followed."""
BORDER = 13
"""Pixels around the object that belong to neither: a patch there sees both."""
PATCH = 15
FORWARD_BACKWARD_LIMIT = 1.0
"""Pixels by which a point may miss its start on the way back."""
MIN_TRACKED_SHARE = 0.15
"""Share of the points that must still be there."""
FEWEST = 4
"""... and at least so many points."""
FEWEST_FOR_AFFINE = 40
"""With fewer background points, the camera is a translation."""
RANSAC_THRESHOLD = 0.004
"""Diagonals by which a point may miss the camera's map and still agree with it."""


class Speeds(NamedTuple):
    """Speeds in diagonals per second."""

    object: float
    camera: float


def tracked_speeds(video: UInt8[np.ndarray, "T H W 3"], mask: Bool[np.ndarray, "H W"] | None, fps: float) -> Speeds:
    """Measures the speed of the object and the camera of a clip, by points tracked from the first frame.

    Args:
        mask: where the object is in the first frame; None: nowhere, and its speed is 0.

    Raises:
        ValueError: fewer than two frames, or a mask of another size.
    """
    if len(video) < 2:
        raise ValueError(f"Motion needs two frames or more; the clip has {len(video)}.")
    mask = np.zeros(video.shape[1:3], bool) if mask is None else mask
    if mask.shape != video.shape[1:3]:
        raise ValueError(f"The mask is {mask.shape}, the frames are {video.shape[1:3]}.")
    factor = max(1, round(COMFORTABLE / min(mask.shape)))
    grey = [_grey(frame, factor) for frame in video]
    large = mask.repeat(factor, 0).repeat(factor, 1)
    start, places, there = _track(grey)
    on = _sample_mask(large, start)
    behind = ~_sample_mask(_dilate(large), start)
    size = grey[0].shape
    diagonal = float(np.hypot(*size))
    camera = _camera(start, places, there, behind, size)
    speed = _corner_distance(camera[0], size) / diagonal * fps / camera[1]
    step = _last_tracked_step(there, on)
    if step is None:
        return Speeds(0.0, speed)
    chosen = on & there[step]
    at_step = _fit_map(start[behind & there[step]], places[step][behind & there[step]], size)
    carried = start[chosen] @ at_step[:, :2].T + at_step[:, 2]
    left = np.linalg.norm(np.median(places[step][chosen] - carried, axis=0))
    return Speeds(float(left) / diagonal * fps / (step + 1), speed)


def _track(grey: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tracks a grid of points; returns start [N 2], places [T-1 N 2], and whether they are still tracked [T-1 N]."""
    cv2 = opencv()
    height, width = grey[0].shape
    x, y = np.arange(SPACING // 2, width, SPACING), np.arange(SPACING // 2, height, SPACING)
    start = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)
    settings = {"winSize": (PATCH, PATCH), "maxLevel": 2, "minEigThreshold": 1e-4}
    now, alive, places, there = start[:, None], np.ones(len(start), bool), [], []
    for before, after in itertools.pairwise(grey):
        after_points, found, _ = cv2.calcOpticalFlowPyrLK(before, after, now, None, **settings)
        back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, after_points, None, **settings)
        missed = np.linalg.norm(back - now, axis=-1)[:, 0]
        inside = ((after_points[:, 0] >= 0) & (after_points[:, 0] < [width, height])).all(-1)
        alive = alive & (found[:, 0] == 1) & (again[:, 0] == 1) & (missed < FORWARD_BACKWARD_LIMIT) & inside
        now = after_points
        places.append(now[:, 0].astype(np.float64))
        there.append(alive)
    return start.astype(np.float64), np.stack(places), np.stack(there)


def _camera(
    start: np.ndarray, places: np.ndarray, there: np.ndarray, behind: np.ndarray, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "2 3"], int]:
    """Returns the background's map over as many steps as it is tracked, and that number; no motion if it is not."""
    step = _last_tracked_step(there, behind)
    if step is None:
        return np.eye(2, 3), 1
    chosen = behind & there[step]
    return _fit_map(start[chosen], places[step][chosen], size), step + 1


def _fit_map(start: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "2 3"]:
    """Fits the affine map that most points agree on; to few points their median translation; to none the identity."""
    if len(start) >= FEWEST_FOR_AFFINE:
        cv2 = opencv()
        cv2.setRNGSeed(0)
        threshold = RANSAC_THRESHOLD * float(np.hypot(*size))
        found, _ = cv2.estimateAffine2D(
            start, end, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=500, confidence=0.999
        )
        if found is not None:
            return found
    moved = np.median(end - start, axis=0) if len(start) else np.zeros(2)
    return np.concatenate([np.eye(2), moved[:, None]], axis=1)


def _last_tracked_step(there: Bool[np.ndarray, "T-1 N"], of: Bool[np.ndarray, " N"]) -> int | None:
    """Returns the last step at which enough of the points are still tracked."""
    needed = max(FEWEST, MIN_TRACKED_SHARE * of.sum())
    steps = np.flatnonzero((there & of).sum(1) >= needed)
    return int(steps[-1]) if len(steps) else None


def _corner_distance(camera: Float[np.ndarray, "2 3"], size: tuple[int, int]) -> float:
    at = corners(*size)
    moved = at @ camera[:, :2].T + camera[:, 2]
    return float(np.linalg.norm(moved - at, axis=-1).mean())


def _grey(frame: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "H2 W2"]:
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame)
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    return np.asarray(opencv().cvtColor(np.asarray(picture), opencv().COLOR_RGB2GRAY))


def _dilate(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    return np.asarray(opencv().dilate(mask.astype(np.uint8), np.ones((BORDER, BORDER)))) > 0


def _sample_mask(mask: Bool[np.ndarray, "H W"], points: Float[np.ndarray, "N 2"]) -> Bool[np.ndarray, " N"]:
    return mask[points[:, 1].astype(int), points[:, 0].astype(int)]
