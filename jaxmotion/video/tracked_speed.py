"""Object and camera speed of a clip whose first frame is known, by points tracked from there to the end.

For judging clips that were made on request: where the object is in the first frame is known, for that frame was given;
on a photograph, where nobody says so, the points that do not follow the camera are the object. Net motion from the
first frame on is less noisy than a sum over steps, and the same where motion is steady. It uses no network, and nothing
that a motion estimator has learnt.

Source: the pseudo-labels of MotionStone (arXiv:2412.05848, Data for Motion Estimator): tracks, object masks, averages.
Not specified there; we use: Lucas-Kanade tracks chained over the clip, an affine camera, net motion; in clips of fewer
than 86 pixels, and where points get lost, whole regions in place of points (`region_speed`).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxmotion.video.moving_points import select_moving
from jaxmotion.video.opencv import opencv
from jaxmotion.video.region_speed import Speeds, camera_step, is_plausible, region_speeds, scene_places

SMALL = 86
"""Pixels of the shorter side below which a clip has too few for patches; its regions are aligned as a whole."""
REDUCED = 64
"""Pixels of the shorter side at which regions are aligned where points of a larger clip get lost."""
COMFORTABLE = 128
"""Smaller clips are enlarged until their shorter side has so many pixels before points in them are tracked."""
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


def tracked_speeds(video: UInt8[np.ndarray, "T H W 3"], mask: Bool[np.ndarray, "H W"] | None, fps: float) -> Speeds:
    """Measures the speed of the object and the camera of a clip, following both from the first frame.

    Args:
        mask: where the object is in the first frame; nowhere: its speed is 0. None: not known; `find_object` says.

    Raises:
        ValueError: fewer than two frames, or a mask of another size.
    """
    if len(video) < 2:
        raise ValueError(f"Motion needs two frames or more; the clip has {len(video)}.")
    if mask is not None and mask.shape != video.shape[1:3]:
        raise ValueError(f"The mask is {mask.shape}, the frames are {video.shape[1:3]}.")
    mask = find_object(video[None]) if mask is None else mask
    if min(mask.shape) < SMALL:
        return region_speeds(video, mask, fps)
    points = _track(video)
    on = _sample_mask(mask, points.start)
    camera = points.camera(~_sample_mask(_dilate(mask), points.start))
    own = None if camera is None else points.own_step(on, camera[0])
    if camera is not None and (own is not None or not mask.any()):
        return Speeds((own or 0.0) * fps, camera_step(*camera, points.size) * fps)
    by_region = region_speeds(*_reduce(video, mask), fps)
    return by_region if camera is None else Speeds(by_region.object, camera_step(*camera, points.size) * fps)


def find_object(clips: UInt8[np.ndarray, "N T H W 3"]) -> Bool[np.ndarray, "H W"]:
    """Returns where the object is in the first frame that clips share: where points do not follow the camera.

    In at least half of the clips in which anything moves by itself, so that a mistake in one of them does not count.
    """
    tracked = [_track(clip) for clip in clips]
    moving = np.stack([points.moving() for points in tracked])
    lively = moving.any(1)
    return tracked[0].cover(moving[lively].mean(0) >= 0.5 if lively.any() else moving[0])


@dataclasses.dataclass(frozen=True)
class _Points:
    """Points on a grid of the first frame, and their places in the later ones, in pixels (a middle at whole numbers).

    A small clip was enlarged by `factor` for them.
    """

    start: Float[np.ndarray, "N 2"]
    places: Float[np.ndarray, "T-1 N 2"]
    there: Bool[np.ndarray, "T-1 N"]
    size: tuple[int, int]
    grid: tuple[int, int]
    factor: int

    def last_step(self, of: Bool[np.ndarray, " N"]) -> int | None:
        """Returns the last step at which enough of the points are still tracked."""
        needed = max(FEWEST, MIN_TRACKED_SHARE * of.sum())
        steps = np.flatnonzero((self.there & of).sum(1) >= needed)
        return int(steps[-1]) if len(steps) else None

    def fit(self, of: Bool[np.ndarray, " N"], step: int) -> Float[np.ndarray, "2 3"]:
        """Returns the map that most of the points follow until a step."""
        chosen = of & self.there[step]
        return _fit_map(self.start[chosen], self.places[step][chosen], self.size)

    def camera(self, behind: Bool[np.ndarray, " N"]) -> tuple[Float[np.ndarray, "2 3"], int] | None:
        """Returns the background's map over as many steps as it is tracked, and that number; None if it is lost."""
        step = self.last_step(behind)
        return None if step is None else (self.fit(behind, step), step + 1)

    def own_step(self, on: Bool[np.ndarray, " N"], camera: Float[np.ndarray, "2 3"]) -> float | None:
        """Returns the object's motion beside the camera's, in diagonals a step; None if it is lost at once.

        Args:
            camera: the background's map, should it be lost at the step until which the object is tracked.
        """
        step = self.last_step(on)
        if step is None:
            return None
        behind = ~_dilate_points(on, self.grid)
        enough = (self.there[step] & behind).sum() >= FEWEST
        at_step = self.fit(behind, step) if enough else camera
        chosen = on & self.there[step]
        moved = np.median(scene_places(self.places[step][chosen], at_step) - self.start[chosen], axis=0)
        return float(np.linalg.norm(moved) / np.hypot(*self.size) / (step + 1))

    def moving(self) -> Bool[np.ndarray, " N"]:
        """Selects points that move by themselves at half or more of the steps at which they are tracked."""
        everywhere = np.ones(len(self.start), bool)
        often = np.zeros(len(self.start))
        for step, there in enumerate(self.there):
            if there.sum() < FEWEST:
                continue
            left = scene_places(self.places[step], self.fit(everywhere, step)) - self.start
            often += select_moving(np.linalg.norm(left, axis=-1) / np.hypot(*self.size), there, self.grid)
        return often >= np.maximum(1, self.there.sum(0) / 2)

    def cover(self, on: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, "H W"]:
        """Returns the pixels of the clip around the points."""
        cells = on.reshape(self.grid).repeat(SPACING, 0).repeat(SPACING, 1)
        height, width = (side // self.factor for side in self.size)
        whole = np.zeros(self.size, bool)
        whole[: cells.shape[0], : cells.shape[1]] = cells[: self.size[0], : self.size[1]]
        return whole.reshape(height, self.factor, width, self.factor).mean((1, 3)) >= 0.5


def _track(video: UInt8[np.ndarray, "T H W 3"]) -> _Points:
    """Tracks a grid of points from the first frame through the clip."""
    cv2 = opencv()
    factor = max(1, round(COMFORTABLE / min(video.shape[1:3])))
    grey = [_grey(frame, factor) for frame in video]
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
    size = (height, width)
    return _Points(start.astype(np.float64), np.stack(places), np.stack(there), size, (len(y), len(x)), factor)


def _fit_map(start: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "2 3"]:
    """Fits the affine map that most points agree on; to few points their median translation; to none the identity."""
    if len(start) >= FEWEST_FOR_AFFINE:
        cv2 = opencv()
        cv2.setRNGSeed(0)
        threshold = RANSAC_THRESHOLD * float(np.hypot(*size))
        found, _ = cv2.estimateAffine2D(
            start, end, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=500, confidence=0.999
        )
        if found is not None and is_plausible(found):
            return found
    moved = np.median(end - start, axis=0) if len(start) else np.zeros(2)
    return np.concatenate([np.eye(2), moved[:, None]], axis=1)


def _grey(frame: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "H2 W2"]:
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame)
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    return np.asarray(opencv().cvtColor(np.asarray(picture), opencv().COLOR_RGB2GRAY))


def _reduce(
    video: UInt8[np.ndarray, "T H W 3"], mask: Bool[np.ndarray, "H W"]
) -> tuple[UInt8[np.ndarray, "T h w 3"], Bool[np.ndarray, "h w"]]:
    """Returns the clip and the mask at a size at which regions are aligned fast."""
    cv2 = opencv()
    height, width = mask.shape
    scale = min(1.0, REDUCED / min(height, width))
    size = (round(width * scale), round(height * scale))
    frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video])
    return frames, cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5


def _dilate(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    return np.asarray(opencv().dilate(mask.astype(np.uint8), np.ones((BORDER, BORDER)))) > 0


def _dilate_points(on: Bool[np.ndarray, " N"], grid: tuple[int, int]) -> Bool[np.ndarray, " N"]:
    """Selects the points and those whose patches may see them."""
    reach = 2 * (BORDER // 2 // SPACING) + 1
    return np.asarray(opencv().dilate(on.reshape(grid).astype(np.uint8), np.ones((reach, reach)))).ravel() > 0


def _sample_mask(mask: Bool[np.ndarray, "H W"], points: Float[np.ndarray, "N 2"]) -> Bool[np.ndarray, " N"]:
    return mask[points[:, 1].astype(int), points[:, 0].astype(int)]
