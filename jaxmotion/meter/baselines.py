"""Baselines with the interface of a motion meter, for comparisons and for pseudo-labels.

`tracks`, the pseudo-labeller, measures both axes; all others measure one number and give it for both, as MotionStone
does with SSIM (Table 3), on frames about 1/8 s apart and at most 256 pixels wide, so that neither the frame rate nor
the resolution of a clip decides.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxmotion.meter.estimate import Clip, MotionEstimate, MotionMeter
from jaxmotion.meter.pseudo_labels import PseudoLabeller
from jaxmotion.meter.subject_amplitude import subject_amplitude
from jaxmotion.video import gradients
from jaxmotion.video.codec_vectors import encode_codec_motion
from jaxmotion.video.flow import motion_speed
from jaxmotion.video.frames import space_frames
from jaxmotion.video.motion_scale import STEP
from jaxmotion.video.opencv import opencv
from jaxmotion.video.ssim import dissimilarity

LARGEST = 256


@dataclasses.dataclass(frozen=True)
class ScalarMeter:
    """A meter of one number for both axes."""

    measure: Callable[[UInt8[np.ndarray, "T H W 3"], float], float]
    """Returns the motion of a clip, given the seconds from frame to frame."""

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        """Returns one estimate for each clip."""
        estimates = []
        for clip in clips:
            chosen = space_frames(clip.seconds, STEP)
            step = float(np.diff(clip.seconds[chosen]).mean())
            number = float(self.measure(shrink(clip.video[chosen]), step))
            estimates.append(MotionEstimate(number, number, "static", 0.0))
        return estimates


def ssim_rate(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns 1 - mean SSIM of neighbouring frames (LivePhoto's intensity, from the other end), per 1/8 s."""
    pairs = (video[start : start + 2] for start in range(len(video) - 1))  # one program for clips of any length
    return float(np.mean([float(_dissimilarity(pair)) for pair in pairs])) * STEP / step


def feature_rate(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean distance between the features of neighbouring frames, per 1/8 s: MotionStone's "S"."""
    return float(_feature_difference(video)) * STEP / step


def mean_flow(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean length of the optical flow, diagonals per second."""
    return float(motion_speed(video, 1 / step))


def farneback(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean length of OpenCV's Farneback flow with its usual settings, diagonals per second."""
    cv2 = opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    lengths = []
    for before, after in itertools.pairwise(grey):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        lengths.append(np.hypot(flow[..., 0], flow[..., 1]).mean())
    return float(np.mean(lengths)) / step / float(np.hypot(*video.shape[1:3]))


def codec(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean length of the motion vectors that H.264 has for these frames, diagonals per second.

    It encodes the frames anew, so that it is a number of the pictures and not of how a file was made.
    """
    return encode_codec_motion(video, rate=1 / step).mean_length / step / float(np.hypot(*video.shape[1:3]))


def amplitude_rate(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the subject's amplitude as VMBench's PAS has it, diagonals per second (`subject_amplitude`)."""
    return subject_amplitude(video) / (step * (len(video) - 1))


BASELINES: Mapping[str, Callable[[], MotionMeter]] = {
    "tracks": PseudoLabeller,
    "mean_flow": lambda: ScalarMeter(mean_flow),
    "farneback": lambda: ScalarMeter(farneback),
    "ssim": lambda: ScalarMeter(ssim_rate),
    "feature_difference": lambda: ScalarMeter(feature_rate),
    "codec": lambda: ScalarMeter(codec),
    "pas": lambda: ScalarMeter(amplitude_rate),
}
"""Makers of the baselines by name. `tracks`, `farneback` and `pas` need the extra `opencv`."""


_feature_difference = jax.jit(gradients.feature_difference)
_dissimilarity = jax.jit(dissimilarity)


def shrink(video: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T h w 3"]:
    """Returns the frames, at most `LARGEST` pixels wide and high."""
    size = fit_into(LARGEST, *video.shape[1:3])
    if max(video.shape[1:3]) <= LARGEST:
        return video
    return np.concatenate([_resize(picture[None], size) for picture in video])  # one program for any length


def fit_into(side: int, height: int, width: int) -> tuple[int, int]:
    """Returns the size of a picture that is scaled down to at most `side` pixels, and no less than 16."""
    scale = min(1.0, side / max(height, width))
    return max(16, round(height * scale)), max(16, round(width * scale))


def _resize(video: UInt8[np.ndarray, "T H W 3"], size: tuple[int, int]) -> np.ndarray:
    wide = jax.image.resize(jnp.asarray(video, jnp.float32), (len(video), *size, 3), "linear", antialias=True)
    return np.rint(np.asarray(wide)).astype(np.uint8)
