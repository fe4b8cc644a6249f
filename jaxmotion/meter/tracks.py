"""Point tracks from each frame of a clip to the next, on a grid that is laid anew for every frame.

Source: MotionStone (arXiv:2412.05848), Data for Motion NetworkMeter: "the tracking method", whose name is lost.
Not specified in the paper; we use: pyramidal Lucas-Kanade (Bouguet 2001, as in OpenCV) out of the box, and RAFT as the
better one (`raft_tracks`); both followed there and back again, and dropped where that does not lead home.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmotion.video.opencv import opencv

POINTS = (14, 24)
"""Rows and columns of the grid; of a picture that is taller than wide, the other way round."""
LARGEST = 480
"""Pixels of the longer side at which points are followed."""


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Positions of points in a frame and in the next one, in pixels of the clip (x y; a pixel's middle is at 0.5)."""

    start: Float[np.ndarray, "T-1 N 2"]
    end: Float[np.ndarray, "T-1 N 2"]
    valid: Bool[np.ndarray, "T-1 N"]
    grid: tuple[int, int]
    """Rows and columns that the N points form."""


Tracker = Callable[[UInt8[np.ndarray, "T H W 3"]], Tracks]


@dataclasses.dataclass(frozen=True)
class LucasKanade:
    """Tracks points by OpenCV's pyramidal Lucas-Kanade. Needs the extra `opencv`."""

    window: int = 15
    """Pixels a side of the patch that is compared."""
    levels: int = 4
    """Halvings of the picture."""
    forward_backward_limit: float = 1.0
    """Pixels by which a point may miss its start on the way back."""
    texture: float = 1e-4
    """Least smaller eigenvalue of a patch's gradients, as OpenCV norms it."""

    def __call__(self, video: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
        """Tracks the grid through a clip."""
        cv2 = opencv()
        height, width = video.shape[1:3]
        scale = min(1.0, LARGEST / max(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        grey = [
            cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for frame in video
        ]
        start, grid = grid_points(size[1], size[0])
        first = start.astype(np.float32).reshape(-1, 1, 2) - 0.5
        settings = {"winSize": (self.window, self.window), "maxLevel": self.levels, "minEigThreshold": self.texture}
        ends, valid = [], []
        for before, after in itertools.pairwise(grey):
            there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, first, None, **settings)
            back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **settings)
            missed = np.linalg.norm(back - first, axis=-1)[:, 0]
            ends.append(there[:, 0] + 0.5)
            valid.append((found[:, 0] == 1) & (again[:, 0] == 1) & (missed < self.forward_backward_limit))
        factor = np.array([width / size[0], height / size[1]])
        end = np.stack(ends).astype(np.float64)
        return Tracks(np.broadcast_to(start, end.shape) * factor, end * factor, np.stack(valid), grid)


def grid_points(height: int, width: int) -> tuple[Float[np.ndarray, "N 2"], tuple[int, int]]:
    """Returns the grid's points (x y) in a picture of that size, and its rows and columns."""
    rows, columns = POINTS if width >= height else POINTS[::-1]
    y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), (rows, columns)
