"""Camera motion from tracked points: the affine map that most of them agree on, its speed and its moves.

The camera's speed is the mean displacement of the four corners under that map; so are the speeds of its four moves,
each on its own. Everything is in diagonals per second; `jaxmotion.video.geometry` has the definitions.

Not specified in the paper; we use: an affine map found by RANSAC (OpenCV) and fitted to those that agree.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jaxmotion.meter.tracks import Tracks
from jaxmotion.video import motion_scale
from jaxmotion.video.geometry import corners
from jaxmotion.video.motion_scale import CAMERA_MOVES, STATIC, Move
from jaxmotion.video.opencv import opencv
from jaxmotion.video.tracked_speed import RANSAC_THRESHOLD

FEWEST = 12
"""Least points that a map is fitted to; with fewer the camera counts as still, with confidence 0."""


@dataclasses.dataclass(frozen=True)
class CameraMotion:
    """The camera's motion from frame to frame.

    maps: takes a point of a frame to the next, in pixels. agree: points that follow the map.
    """

    maps: Float[np.ndarray, "T-1 2 3"]
    agree: Bool[np.ndarray, "T-1 N"]
    size: tuple[int, int]

    def displacement(self) -> Float[np.ndarray, " T-1"]:
        """Returns the mean displacement of the corners at every step, diagonals."""
        at = corners(*self.size)
        moved = at @ self.maps[..., :2].swapaxes(-1, -2) + self.maps[:, None, :, 2]
        return np.linalg.norm(moved - at, axis=-1).mean(-1) / np.hypot(*self.size)

    def moves(self) -> Float[np.ndarray, "T-1 4"]:
        """Returns the displacement of the corners by pan, tilt, zoom and roll alone at every step, diagonals."""
        height, width = self.size
        linear = self.maps[..., :2]
        middle = linear @ (np.array([width, height]) / 2) + self.maps[..., 2] - np.array([width, height]) / 2
        growth = np.sqrt(np.abs(np.linalg.det(linear))) - 1
        turn = np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])
        return np.stack([*np.abs(middle.T) / np.hypot(height, width), np.abs(growth) / 2, np.abs(turn) / 2], -1)


def fit_camera(tracks: Tracks, size: tuple[int, int]) -> CameraMotion:
    """Fits the camera to a clip's tracks; `size` is (height, width)."""
    cv2 = opencv()
    threshold = RANSAC_THRESHOLD * float(np.hypot(*size))
    maps, agree = [], []
    for start, end, valid in zip(tracks.start, tracks.end, tracks.valid, strict=True):
        found, inside = np.eye(2, 3), np.zeros(len(valid), bool)
        if valid.sum() >= FEWEST:
            cv2.setRNGSeed(0)
            found, chosen = cv2.estimateAffine2D(
                start[valid], end[valid], method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=500
            )
            found = np.eye(2, 3) if found is None else found
            if chosen is not None:
                inside[valid] = chosen[:, 0].astype(bool)
        maps.append(found)
        agree.append(inside)
    return CameraMotion(np.stack(maps), np.stack(agree), size)


def dominant_move(moves: Float[np.ndarray, "T-1 4"], seconds: Float[np.ndarray, " T-1"], speed: float) -> Move:
    """Returns the move that makes up most of the path of a camera of that speed."""
    if motion_scale.score(speed) < STATIC:
        return "static"
    return CAMERA_MOVES[int(moves.sum(0).argmax())]


def residuals(tracks: Tracks, camera: CameraMotion) -> Float[np.ndarray, "T-1 N 2"]:
    """Returns the motion of every point relative to the camera's, pixels."""
    carried = tracks.start @ camera.maps[..., :2].swapaxes(-1, -2) + camera.maps[:, None, :, 2]
    return tracks.end - carried
