"""Points that do not follow the camera: where the objects of a clip are when nobody has said so."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from skimage.measure import label

NOISE = 4.0
"""A point moves by itself if its residual is so many times the usual one."""
LEAST = 0.0015
"""... and at least so many diagonals."""
GROUP = 3
"""Points side by side that make an object; fewer are noise."""


def select_moving(
    residual: Float[np.ndarray, " N"], valid: Bool[np.ndarray, " N"], grid: tuple[int, int]
) -> Bool[np.ndarray, " N"]:
    """Selects points in groups whose motion beside the camera's stands out from that of the others.

    Args:
        residual: length of each point's motion beside the camera's, in diagonals.
        valid: points that could be followed.
        grid: rows and columns that the points form.
    """
    if not valid.any():
        return np.zeros(len(valid), bool)
    usual = float(np.median(residual[valid]))
    apart = (valid & (residual > max(NOISE * usual, LEAST))).reshape(grid)
    labels = np.asarray(label(apart, connectivity=2))
    sizes = np.bincount(labels.ravel())
    return (apart & (sizes[labels] >= GROUP)).ravel()
