"""The unit of motion: a score from 1 (still) to 10, which is a speed on a logarithmic scale.

Speeds are in frame diagonals per second, so that neither the size of the picture nor the frame rate plays a part. The
camera's speed is that of the four image corners under the map that takes the background from frame to frame; the
object's is that of the moving things' points after the camera's motion is taken away, averaged over their area. Both
are means over time; `jaxmotion.video.geometry` says it in full.

    s = 1 + 9 log(1 + v / V0) / log(1 + FASTEST / V0)

Equal steps of the score are equal ratios of speed above V0, and equal differences below it, where measurements are
mostly noise. Scores 2, 4, 6 and 8 are 0.011, 0.054, 0.16 and 0.41 diagonals per second.

Source: the range 1..10 is MotionStone's (arXiv:2412.05848, Motion Intensity Estimation).
Not specified in the paper; we use: the unit, V0 and FASTEST.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax  # loader workers import this module and no JAX

LOWEST, HIGHEST = 1.0, 10.0
V0 = 0.02
"""Diagonals per second: about the slowest motion that people call motion."""
FASTEST = 1.0
"""Diagonals per second that score 10: a whip pan. Whatever is faster scores 10 as well."""
AXES = ("object", "camera")
"""The two axes of motion: names of scores in batches, records and files."""
SCORE = "motion score, 1 (still) to 10"
"""The unit, for people, and of controls and measures that are in it."""
Move = Literal["static", "pan", "tilt", "zoom", "roll"]
"""What a camera mostly does."""
CAMERA_MOVES: tuple[Move, ...] = ("pan", "tilt", "zoom", "roll")
MOVES: tuple[Move, ...] = ("static", *CAMERA_MOVES)
STATIC = 1.35
"""A camera that scores less stands still: half of the score's distance to what a trembling hand makes."""
STEP = 0.125
"""Seconds between the frames that motion is measured on, about."""

Numbers = TypeVar("Numbers", float, np.ndarray, "jax.Array")


def score(speed: Numbers) -> Numbers:
    """Returns the score 1..10 of a speed in diagonals per second; speeds are clipped to 0..FASTEST."""
    xp = _namespace(speed)
    return LOWEST + (HIGHEST - LOWEST) * xp.log1p(xp.clip(speed, 0.0, FASTEST) / V0) / np.log1p(FASTEST / V0)  # pyright: ignore[reportReturnType]


def speed(score: Numbers) -> Numbers:
    """Returns the speed in diagonals per second of a score; the inverse of `score`. Scores are clipped to 1..10."""
    xp = _namespace(score)
    share = (xp.clip(score, LOWEST, HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return V0 * xp.expm1(share * np.log1p(FASTEST / V0))  # pyright: ignore[reportReturnType]


def _namespace(numbers: float | np.ndarray | jax.Array) -> ModuleType:
    """Returns the module of the functions for these numbers: `jax.numpy` for JAX's arrays, otherwise `numpy`."""
    return getattr(numbers, "__array_namespace__", lambda: np)()
