"""What a meter is given and what it says, the same for the shipped estimator, the pseudo-labeller and the baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, UInt8

Move = Literal["static", "pan", "tilt", "zoom", "roll"]
MOVES: tuple[Move, ...] = ("static", "pan", "tilt", "zoom", "roll")


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
        """A clip of evenly spaced frames."""
        if not fps > 0:
            raise ValueError(f"The frame rate is {fps}; it must be above 0 frames per second.")
        return cls(video, np.arange(len(video)) / fps)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a meter says about a clip."""

    object_speed: float
    """Diagonals per second, mean over the area of what moves by itself and over time."""
    camera_speed: float
    """Diagonals per second, mean over the four corners and over time."""
    move: Move
    """What the camera mostly does."""
    confidence: float
    """0..1: how likely it is that both scores are within 1 of the truth, as the meter believes."""


class Meter(Protocol):
    """Measures clips of any size, length and frame rate. `jaxmotion.video.motion_scale.score` turns speeds into 1..10.

    A meter that knows one number only (SSIM, mean flow) gives it for both axes, as the paper does with SSIM
    (MotionStone, Table 3); its numbers need not be diagonals per second, but must rise with motion.
    """

    def __call__(self, clips: Sequence[Clip]) -> list[Reading]:
        """One reading for each clip."""
        ...


@dataclasses.dataclass(frozen=True)
class Named:
    """A meter with a name that tells its readings from those of others."""

    meter: Meter
    name: str

    def __call__(self, clips: Sequence[Clip]) -> list[Reading]:
        """What the meter says."""
        return self.meter(clips)
