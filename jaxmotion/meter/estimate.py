"""The interface of motion meters: the shipped network, the pseudo-labeller and the baselines all have it.

The speed of a clip is the mean over its windows, weighted by how long they are; its score is that of this speed. Its
camera move is the one that accounts for the largest part of the camera's path (speed times duration), its confidence
the weighted mean.

Not specified in the papers; we use: how windows add up to a clip.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from jaxmotion.video.motion_scale import Move


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of a video: pictures of any size, and when each is shown."""

    video: UInt8[np.ndarray, "T H W 3"]
    seconds: Float[np.ndarray, " T"]
    """Rising times of the frames."""

    def __post_init__(self) -> None:
        if self.video.dtype != np.uint8 or self.video.ndim != 4 or self.video.shape[-1] != 3:
            raise ValueError(f"A clip is uint8 [T, H, W, 3]; got {self.video.dtype} {self.video.shape}.")
        if len(self.video) < 2:
            raise ValueError(f"Motion needs at least 2 frames; this clip has {len(self.video)}.")
        if len(self.seconds) != len(self.video) or not (np.diff(self.seconds) > 0).all():
            raise ValueError(f"{len(self.video)} frames need as many rising times; got {len(self.seconds)} times.")

    @classmethod
    def at(cls, video: UInt8[np.ndarray, "T H W 3"], fps: float) -> Clip:
        """Returns a clip of evenly spaced frames."""
        if not fps > 0:
            raise ValueError(f"The frame rate is {fps}; it must be above 0 frames per second.")
        return cls(video, np.arange(len(video)) / fps)


@dataclasses.dataclass(frozen=True)
class MotionEstimate:
    """A meter's estimate of the motion of a clip."""

    object_speed: float
    """Diagonals per second, mean over the area of what moves by itself and over time."""
    camera_speed: float
    """Diagonals per second, mean over the four corners and over time."""
    move: Move
    """What the camera mostly does."""
    confidence: float
    """0..1: how likely it is that both scores are within 1 of the truth, as the meter estimates."""


class MotionMeter(Protocol):
    """Measures clips of any size, length and frame rate. `jaxmotion.video.motion_scale.score` turns speeds into 1..10.

    A meter of one number (SSIM, mean flow) gives it for both axes, as the paper does with SSIM (MotionStone, Table 3);
    its numbers need not be diagonals per second, but must rise with motion.
    """

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        """Returns one estimate for each clip."""
        ...


class IdentifiedMeter(MotionMeter, Protocol):
    """A meter whose estimates can be told from those of another."""

    @property
    def name(self) -> str:
        """Says which meter it is, with which weights."""
        ...


@dataclasses.dataclass(frozen=True)
class NamedMeter:
    """Gives a meter a name."""

    meter: MotionMeter
    name: str

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        """Returns the meter's estimates."""
        return self.meter(clips)


def average_estimates(estimates: Sequence[MotionEstimate], weights: Sequence[float]) -> MotionEstimate:
    """Returns the estimate of a clip from those of its windows.

    Args:
        estimates: one or more.
        weights: of the windows, in any unit, such as their seconds.
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    weighted = list(zip(shares, estimates, strict=True))
    still = not any(estimate.camera_speed > 0 for estimate in estimates)
    paths: dict[Move, float] = defaultdict(float)
    for share, estimate in weighted:
        paths[estimate.move] += share * (1.0 if still else estimate.camera_speed)
    return MotionEstimate(
        object_speed=math.fsum(share * estimate.object_speed for share, estimate in weighted),
        camera_speed=math.fsum(share * estimate.camera_speed for share, estimate in weighted),
        move=max(paths, key=lambda move: paths[move]),
        confidence=math.fsum(share * estimate.confidence for share, estimate in weighted),
    )
