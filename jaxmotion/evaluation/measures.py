"""How much a clip moves, measured on its pixels: more is more motion, 0 is a still picture.

A measure is a function of clips [N T H W 3] and their frame rate that returns one number for each clip. The control
curve and everything after it takes any such functions by name; these two are the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxmotion.foundation.types import Array
from jaxmotion.video.flow import motion_speed
from jaxmotion.video.ssim import ssim

Measure = Callable[[UInt8[np.ndarray, "N T H W 3"], float], Float[Any, " N"]]

CLIPS_AT_ONCE = 8


def ssim_change(video: UInt8[np.ndarray, "N T H W 3"], fps: float) -> Float[np.ndarray, " N"]:
    """1 minus the mean SSIM of neighbouring frames: between 0 (still) and about 1; the frame rate plays no part.

    LivePhoto's intensity I (arXiv:2312.02928, Eq. 4) sums T-1 SSIMs and divides by T; this is 1 - I T/(T-1), so that it
    orders clips of one length as the paper does, from the other end, and starts at 0.
    """
    starts = range(0, len(video), CLIPS_AT_ONCE)
    return np.concatenate([np.asarray(_ssim_change(video[start : start + CLIPS_AT_ONCE])) for start in starts])


def flow_speed(video: UInt8[np.ndarray, "N T H W 3"], fps: float) -> Float[np.ndarray, " N"]:
    """Mean displacement of all pixels by optical flow, in image diagonals per second."""
    return np.asarray(motion_speed(video, fps))


MEASURES: Mapping[str, Measure] = {"ssim": ssim_change, "flow": flow_speed}

LABELS = {
    "ssim": ("SSIM", "1 - SSIM of neighbouring frames"),
    "flow": ("optical flow", "image diagonals per second"),
}
"""What a measure is called and the unit of its axis."""


@jax.jit
def _ssim_change(video: UInt8[Array, "N T H W 3"]) -> Float[Array, " N"]:
    frames = jnp.asarray(video, jnp.float32) / 255.0
    return 1.0 - jnp.mean(ssim(frames[:, :-1], frames[:, 1:]), axis=1)
