"""Measures of the motion of a generated clip, taken on its pixels. Larger numbers mean more motion.

`MEASURES` has them by name. A plugin adds its own under a new name: `MEASURES["depth"] = Measure(...)`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmotion.foundation.types import Array
from jaxmotion.video import motion_scale
from jaxmotion.video.flow import motion_speed
from jaxmotion.video.ssim import ssim
from jaxmotion.video.tracked_speed import find_object, tracked_speeds

CLIPS_AT_ONCE = 8

SCORES = (motion_scale.LOWEST, motion_scale.HIGHEST)
MASKS = "masks"
"""Entry of an example: where its objects are, bool [N T H W]."""
DIAGONALS = "image diagonals per second"


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedClips:
    """Clips of one scene, as a measure sees them."""

    video: UInt8[np.ndarray, "N T H W 3"]
    fps: float
    """Frames per second."""
    mask: Bool[np.ndarray, "H W"] | None = None
    """Object pixels of the first frame, which all clips share; None: nobody says."""

    @functools.cached_property
    def tracked_scores(self) -> Float[np.ndarray, "N 2"]:
        """Object and camera motion as scores 1..10; see `video.tracked_speed`.

        Where nobody says where the object is, all clips together do.
        """
        mask = find_object(self.video) if self.mask is None else self.mask
        speeds = np.array([tracked_speeds(clip, mask, self.fps) for clip in self.video])
        return np.asarray(motion_scale.score(speeds))


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of each clip, with the words and the axis that tables and charts give it."""

    label: str
    """Name for people, such as "optical flow"."""
    unit: str
    """Unit of the numbers. Measures in the same unit are compared: the cross-talk of a control is defined for them."""
    compute: Callable[[GeneratedClips], Float[np.ndarray, " N"]]
    limits: tuple[float, float | None] = (0.0, None)
    """Value of a still clip and highest possible value; None: unbounded."""
    entries: tuple[str, ...] = ()
    """Entries of an example (`Scene.example`) that it reads."""
    good_rho: float = 0.9
    """Rank correlation from which a control is reported as good; lower for noisier measures."""
    taken_by: str = ""
    """What takes it, if measures in one unit are taken in several ways; cross-talk is within one of them."""


def ssim_change(clips: GeneratedClips) -> Float[np.ndarray, " N"]:
    """1 minus the mean SSIM of neighbouring frames: between 0 (still) and about 1; the frame rate plays no part.

    LivePhoto's intensity I (arXiv:2312.02928, Eq. 4) sums T-1 SSIMs and divides by T; this is 1 - I T/(T-1), so that it
    orders clips of one length as the paper does, from the other end, and starts at 0.
    """
    video = clips.video
    starts = range(0, len(video), CLIPS_AT_ONCE)
    return np.concatenate([np.asarray(_ssim_change(video[start : start + CLIPS_AT_ONCE])) for start in starts])


def flow_speed(clips: GeneratedClips) -> Float[np.ndarray, " N"]:
    """Mean displacement of all pixels by optical flow, in image diagonals per second."""
    return np.asarray(motion_speed(clips.video, clips.fps))


def tracked_object_score(clips: GeneratedClips) -> Float[np.ndarray, " N"]:
    """Motion score of the object, relative to the background."""
    return clips.tracked_scores[:, 0]


def tracked_camera_score(clips: GeneratedClips) -> Float[np.ndarray, " N"]:
    """Motion score of the camera."""
    return clips.tracked_scores[:, 1]


MEASURES: dict[str, Measure] = {
    "ssim": Measure("SSIM", "1 - SSIM of neighbouring frames", ssim_change),
    "flow": Measure("optical flow", DIAGONALS, flow_speed),
    "object_speed": Measure("object speed", motion_scale.SCORE, tracked_object_score, SCORES, (MASKS,), 0.85),
    "camera_speed": Measure("camera speed", motion_scale.SCORE, tracked_camera_score, SCORES, (MASKS,), 0.85),
}


@jax.jit
def _ssim_change(video: UInt8[Array, "N T H W 3"]) -> Float[Array, " N"]:
    frames = jnp.asarray(video, jnp.float32) / 255.0
    return 1.0 - jnp.mean(ssim(frames[:, :-1], frames[:, 1:]), axis=1)
