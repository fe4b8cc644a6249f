"""Conversion between other motion measures and our scores, by tables fitted to many clips, with their spread.

A peer's number is one; ours are two. So a table says, for every value of the peer's number, what the object score, the
camera score and the score of both speeds together usually are (median, and between which values 8 of 10 clips lie), and
for every score of both together what the peer's number usually is.

Numbers that can be computed here, on frames about 1/8 s apart (`baselines`, `vmaf_motion`):
- `farneback`: mean length of OpenCV's Farneback flow, diagonals per second. Pixels per frame times the frame rate over
  the diagonal in pixels is that number.
- `vmaf`: FFmpeg's VMAF motion, mean over the clip: what Open-Sora's captions call "motion score". Grey levels (of 255)
  that a pixel changes by between frames, blurred by 5 x 5; here at 8 frames per second and 256 pixels.
- `ssim`: 1 - mean SSIM, LivePhoto's intensity from the other end.

Left out, because no definition by which they could be computed is published with weights that are here: Stable Video
Diffusion's `motion_bucket_id` (its estimator was never released) and OpenVid's motion score (UniMatch flow).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import correlate1d
from scipy.optimize import isotonic_regression

from jaxmotion.foundation.config_json import Json
from jaxmotion.meter.baselines import farneback, shrink, ssim_rate
from jaxmotion.meter.estimate import Clip, MotionMeter
from jaxmotion.video import motion_scale
from jaxmotion.video.frames import space_frames
from jaxmotion.video.luma import LUMA
from jaxmotion.video.motion_scale import STEP

TABLE = Path(__file__).parent / "weights" / "conversion.json"
OURS = ("object", "camera", "both")
PLACES = 25
"""Values for which a table has an entry."""
NEAREST = 0.15
"""Share of the clips whose neighbours' spread an entry tells."""
FEWEST = 40
VMAF_FILTER = np.array([3571, 16004, 26386, 16004, 3571]) / 65536
"""Blur of VMAF's motion feature. Source: libvmaf, feature/motion_tools.h, as in FFmpeg's vf_vmafmotion."""


def vmaf_motion(video: UInt8[np.ndarray, "T H W 3"], step: float) -> float:
    """Returns the mean absolute difference of neighbouring blurred lumas, grey levels of 255; `step` is unused."""
    del step
    luma = np.asarray(video, np.float64) @ LUMA
    blurred = correlate1d(correlate1d(luma, VMAF_FILTER, axis=1, mode="mirror"), VMAF_FILTER, axis=2, mode="mirror")
    return float(np.abs(np.diff(blurred, axis=0)).mean())


PEERS: Mapping[str, Callable[[UInt8[np.ndarray, "T H W 3"], float], float]] = {
    "farneback": farneback,
    "vmaf": vmaf_motion,
    "ssim": ssim_rate,
}
"""Numbers of others, of frames at most 256 pixels wide and the seconds between them."""


def measure(clips: Sequence[Clip], meter: MotionMeter) -> dict[str, Float[np.ndarray, " N"]]:
    """Returns all measures of clips: our scores, and the peers' numbers."""
    rows = []
    for clip in clips:
        estimate = meter([clip])[0]
        chosen = space_frames(clip.seconds, STEP)
        video, step = shrink(clip.video[chosen]), float(np.diff(clip.seconds[chosen]).mean())
        speeds = (estimate.object_speed, estimate.camera_speed, estimate.object_speed + estimate.camera_speed)
        ours = [float(motion_scale.score(speed)) for speed in speeds]
        rows.append([*ours, *(number(video, step) for number in PEERS.values())])
    return dict(zip((*OURS, *PEERS), np.array(rows).T, strict=True))


def fit(numbers: Mapping[str, Float[np.ndarray, " N"]]) -> Json:
    """Fits the tables of all peers to the numbers of many clips.

    Raises:
        ValueError: there are too few clips.
    """
    count = len(numbers["both"])
    if count < FEWEST:
        raise ValueError(f"A table needs {FEWEST} clips or more; got {count}.")
    tables: Json = {"clips": count}
    for peer in PEERS:
        to_ours = {name: _table(numbers[peer], numbers[name]) for name in OURS}
        tables[peer] = {"to_ours": to_ours, "from_both": _table(numbers["both"], numbers[peer])}
    return tables


def convert(value: float, peer: str, tables: Json) -> dict[str, tuple[float, float, float]]:
    """Returns our scores for a peer's number, by name: 10th percentile, median and 90th percentile of the clips.

    Raises:
        ValueError: there is no such peer.
    """
    _check(peer)
    return {name: _interpolate(tables[peer]["to_ours"][name], value) for name in OURS}


def convert_back(both: float, peer: str, tables: Json) -> tuple[float, float, float]:
    """Returns a peer's number for the score of both speeds (`motion_scale.score(object_speed + camera_speed)`)."""
    _check(peer)
    return _interpolate(tables[peer]["from_both"], both)


def load() -> Json:
    """Loads the tables in the package."""
    return json.loads(TABLE.read_text())


def _check(peer: str) -> None:
    if peer not in PEERS:
        raise ValueError(f"There is no table for {peer!r}; there are {', '.join(PEERS)}.")


def _table(of: np.ndarray, to: np.ndarray) -> dict[str, list[float]]:
    """Fits the rising median of `to` at quantiles of `of`, with the spread of the clips around."""
    at = np.quantile(of, np.linspace(0.02, 0.98, PLACES))
    near = max(8, int(NEAREST * len(of)))
    around = [to[np.argsort(np.abs(of - place))[:near]] for place in at]
    columns = {name: np.array([np.quantile(part, share) for part in around]) for name, share in _SHARES.items()}
    return {
        "at": _round_digits(at),
        **{name: _round_digits(isotonic_regression(column).x) for name, column in columns.items()},
    }


_SHARES = {"low": 0.1, "median": 0.5, "high": 0.9}


def _interpolate(table: Mapping[str, Sequence[float]], value: float) -> tuple[float, float, float]:
    low, median, high = (float(np.interp(value, table["at"], table[name])) for name in _SHARES)
    return low, median, high


def _round_digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
