"""Numbers of motion that others print: what they are, in which unit, under which names, and how they are measured here.

Most are one number, which cannot tell objects from the camera; Kandinsky's predictor gives one for each.

- `farneback`: mean length of OpenCV's Farneback flow, diagonals per second, on frames about 1/8 s apart and at most 256
  pixels wide. Pixels per frame times the frame rate over the diagonal in pixels is that number.
- `vmaf`: FFmpeg's VMAF motion, mean over the clip: what Open-Sora's captions call "motion score". Grey levels (of 255)
  that a pixel changes by between frames, blurred by 5 x 5; here at 8 frames per second and 256 pixels.
- `ssim`: 1 - mean SSIM, LivePhoto's intensity from the other end; on the same frames.
- `codec`: mean length of the file's own motion vectors, pixels per frame (`video.codec_vectors`), as x264 writes them
  with its usual settings. Made without B frames, the same clips have vectors about 0.72 times as long.
- `curator`: `motion_score.global_mean` of NVIDIA's NeMo and Cosmos Curator: length of the motion vectors over width +
  height, mean over pixels and frames; of files without B frames, as Curator makes them. It looks at 2 frames per second
  of half of a clip; here at all.
- `pas`: VMBench's perceptible amplitude score, diagonals over the whole clip (`subject_amplitude` has the differences).
- `kandinsky`: the three numbers, 0 to 3, of the Kandinsky Video Motion Predictor (its repository is
  gen-ai-team/kandinsky-video-tools). Its network is not part of this package.

Left out, because no definition by which they could be computed is published with weights that are here: Stable Video
Diffusion's `motion_bucket_id` (its estimator was never released) and OpenVid's motion score (UniMatch flow).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from scipy.ndimage import correlate1d

from jaxmotion.meter.baselines import amplitude_rate, farneback, shrink, ssim_rate
from jaxmotion.meter.estimate import Clip
from jaxmotion.video.codec_vectors import NO_B_FRAMES, USUAL, CodecMotion, encode_codec_motion, read_codec_motion
from jaxmotion.video.frames import space_frames
from jaxmotion.video.luma import LUMA
from jaxmotion.video.motion_scale import STEP

OURS = ("object", "camera", "both")
"""Our scores: of the objects' speed, of the camera's, and of the sum of both speeds."""
NUMBER = "number"
"""What the number of a peer that has one is called here."""
VMAF_FILTER = np.array([3571, 16004, 26386, 16004, 3571]) / 65536
"""Blur of VMAF's motion feature. Source: libvmaf, feature/motion_tools.h, as in FFmpeg's vf_vmafmotion."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What must be known of a clip before numbers in pixels, per frame or per clip are speeds; 0 where it is not."""

    fps: float = 0.0
    width: float = 0.0
    height: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of numbers: how to make diagonals per second of them."""

    name: str
    needs: tuple[Literal["fps", "width", "height", "seconds"], ...] = ()
    factor: Callable[[Shape], float] = lambda shape: 1.0


PLAIN = Unit("")
PIXELS = Unit(
    "pixels per frame", ("fps", "width", "height"), lambda shape: shape.fps / float(np.hypot(shape.width, shape.height))
)
SPEED = Unit("diagonals per second", factor=lambda shape: PIXELS.factor(shape) if shape.fps and shape.width else 1.0)
"""Numbers are speeds, or, where frame rate and size are given, pixels per frame."""
SIDES = Unit(
    "widths + heights per frame",
    PIXELS.needs,
    lambda shape: PIXELS.factor(shape) * (shape.width + shape.height),
)
DIAGONALS = Unit("diagonals over the whole clip", ("seconds",), lambda shape: 1 / shape.seconds)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A measure of motion that others print."""

    title: str
    keys: Mapping[str, tuple[str, ...]]
    """Its numbers, and the names that they have in files."""
    tells: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {NUMBER: OURS})
    """Which of our scores each number is converted to."""
    measure: Callable[[Clip], float] | None = None
    """Measures a clip, diagonals per second where there is a `unit`; None where it cannot be computed here."""
    read: Callable[[str], float] | None = None
    """Reads its number, in its unit, from a video file itself."""
    unit: Unit = PLAIN
    highest: float = np.inf
    slack: float = 0.0
    """How far a number may lie outside 0..`highest` and count as the end: a regression gives such."""


def vmaf_motion(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean absolute difference of neighbouring blurred lumas, grey levels of 255; `step` is unused."""
    del step
    luma = np.asarray(video, np.float64) @ LUMA
    blurred = correlate1d(correlate1d(luma, VMAF_FILTER, axis=1, mode="mirror"), VMAF_FILTER, axis=2, mode="mirror")
    return float(np.abs(np.diff(blurred, axis=0)).mean())


def _on_spaced_frames(measure: Callable[[UInt8[np.ndarray, "T H W 3"], float], float]) -> Callable[[Clip], float]:
    """Returns the measure of frames about 1/8 s apart and at most 256 pixels wide."""

    def measured(clip: Clip) -> float:
        chosen = space_frames(clip.seconds, STEP)
        return measure(shrink(clip.video[chosen]), float(np.diff(clip.seconds[chosen]).mean()))

    return measured


def _from_vectors(
    unit: Unit, number: Callable[[CodecMotion], float], options: Mapping[str, str]
) -> Callable[[Clip], float]:
    """Returns the measure of a clip's motion vectors at its own frame rate, in diagonals per second."""

    def measured(clip: Clip) -> float:
        fps = (len(clip.seconds) - 1) / float(clip.seconds[-1] - clip.seconds[0])
        height, width = clip.video.shape[1:3]
        return number(encode_codec_motion(clip.video, options, fps)) * unit.factor(Shape(fps, width, height))

    return measured


_MEAN_LENGTH = attrgetter("mean_length")
_SHARE_OF_SIDES = attrgetter("share_of_sides")

PEERS: Mapping[str, Peer] = {
    "farneback": Peer(
        "mean length of Farneback flow, diagonals per second; pixels per frame with --fps and --size",
        {NUMBER: ("farneback", "flow")},
        measure=_on_spaced_frames(farneback),
        unit=SPEED,
    ),
    "vmaf": Peer(
        "VMAF motion, grey levels (of 255) from frame to frame at 8 frames per second",
        {NUMBER: ("vmaf", "vmaf_motion", "vmafmotion", "motion_score", "lavfi.vmafmotion.score")},
        measure=_on_spaced_frames(vmaf_motion),
        highest=255.0,
    ),
    "ssim": Peer(
        "1 - mean SSIM of frames 1/8 s apart",
        {NUMBER: ("ssim_rate", "dissimilarity")},
        measure=_on_spaced_frames(ssim_rate),
        highest=2.0,
    ),
    "codec": Peer(
        "mean length of H.264 motion vectors, pixels per frame; needs --fps and --size",
        {NUMBER: ("codec", "mv", "motion_vectors", "mean_motion_vector", "mv_magnitude", "motion_vector_magnitude")},
        measure=_from_vectors(PIXELS, _MEAN_LENGTH, USUAL),
        read=lambda path: _MEAN_LENGTH(read_codec_motion(path)),
        unit=PIXELS,
    ),
    "curator": Peer(
        "motion_score.global_mean of NeMo and Cosmos Curator, (width + height) per frame; needs --fps and --size",
        {NUMBER: ("motion_score.global_mean", "motion_score_global_mean", "global_mean")},
        measure=_from_vectors(SIDES, _SHARE_OF_SIDES, NO_B_FRAMES),
        read=lambda path: _SHARE_OF_SIDES(read_codec_motion(path)),
        unit=SIDES,
    ),
    "pas": Peer(
        "VMBench's perceptible amplitude score, diagonals over the clip; needs --seconds",
        {NUMBER: ("perceptible_amplitude_score", "perceptible_amplitude_socre", "pas")},
        measure=_on_spaced_frames(amplitude_rate),
        unit=DIAGONALS,
    ),
    "kandinsky": Peer(
        "camera, object and dynamics of the Kandinsky Video Motion Predictor, 0 to 3 each",
        {
            "object": ("object_movement_score", "kandinsky_object_motion_score"),
            "camera": ("camera_movement_score", "kandinsky_camera_motion_score"),
            "dynamics": ("dynamics_score", "kandinsky_dynamics_score"),
        },
        tells={"object": ("object",), "camera": ("camera",)},
        highest=3.0,
        slack=0.1,
    ),
}
"""All peers by name. `dynamics` (light, colour, focus, cuts) has no counterpart among our scores and is handed on."""
