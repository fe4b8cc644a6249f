"""Frame selection: a clip of a given frame rate, frames about a step apart, and the windows that motion is measured in.

Frames are chosen by time, not by counting, because a clip of every second frame moves twice as much. NumPy only: this
runs in the workers that read data.

Motion is measured on frames about 1/8 s apart, cut into windows. From a video of constant rate every k-th frame is
taken, k being the number whose duration is nearest to the step (as a ratio); from one of variable rate, the frames
nearest to a grid of that step. Times are always the real ones, so nothing is off when they are not a step apart.
Windows do not overlap, but the last one ends with the last frame. A short rest, below a quarter of a window, makes no
window of its own. A clip shorter than a window is one shorter window.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

REGULAR = 0.25
"""A gap between frames is regular if it differs from the usual one by at most this share of it."""


def space_frames(seconds: Float[np.ndarray, " N"], step: float) -> Int[np.ndarray, " n"]:
    """Returns the frames, of those with these rising times, that are about `step` seconds apart: 2 of 2 or more."""
    count = len(seconds)
    gaps = np.diff(seconds)
    if count < 2:
        return np.arange(count)
    usual = np.median(gaps)
    regular = np.abs(gaps - usual) <= REGULAR * usual
    if regular.mean() > 0.9:
        usual = gaps[regular].mean()
        below = max(1, int(step / usual))
        stride = below if step / (below * usual) < (below + 1) * usual / step else below + 1
        chosen = np.arange(0, count, stride) if regular.all() else _nearest_to_grid(seconds, stride * usual)
    else:
        chosen = _nearest_to_grid(seconds, step)
    return chosen if len(chosen) > 1 else np.array([0, count - 1])


def tile_frames(chosen: Int[np.ndarray, " n"], frames: int) -> list[Int[np.ndarray, " T"]]:
    """Cuts frames into windows of `frames`; the last window ends with the last frame."""
    count = len(chosen)
    if count <= frames:
        return [chosen]
    windows = max(1, -(-(count - (frames // 4 - 1)) // frames))  # ceil: a rest below a quarter makes no window
    starts = [*range(0, (windows - 1) * frames, frames), count - frames]
    return [chosen[start : start + frames] for start in starts]


def unseen_seconds(seconds: Float[np.ndarray, " N"], windows: Sequence[Int[np.ndarray, " T"]]) -> list[float]:
    """Returns the weight of every window in a mean over the clip: its seconds that no window before it has seen."""
    weights, seen = [], -np.inf
    for window in windows:
        weights.append(float(seconds[window[-1]] - max(seconds[window[0]], seen)))
        seen = seconds[window[-1]]
    return weights


def frame_indices(timestamps: np.ndarray, num_frames: int, fps: float, start: float) -> np.ndarray:
    """Returns int64 [num_frames]: the source frame nearest to each time start + k / fps (the earlier one of two).

    Args:
        timestamps: [N], when each source frame is shown, in seconds, rising. Need not begin at 0 nor be evenly spaced.
        num_frames: how many frames the clip has.
        fps: frames per second of the clip. Above the source's rate, source frames repeat.
        start: when the clip begins, in seconds on the timeline of `timestamps`.

    Raises:
        ValueError: the source does not last that long. A frame stands for half a frame's time around its own, so the
            last asked time may lie that far behind the last timestamp.
    """
    timestamps = _validate(timestamps, num_frames, fps)
    times = start + np.arange(num_frames) / fps
    slack = _half_frame(timestamps)
    if times[0] < timestamps[0] - slack or times[-1] > timestamps[-1] + slack:
        raise ValueError(_too_short(timestamps, num_frames, fps, start))
    after = np.searchsorted(timestamps, times).clip(1, max(len(timestamps) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(timestamps) - 1)
    nearer_after = (times - timestamps[before]) - (timestamps[after] - times) > _TIE
    return np.where(nearer_after, after, before)


def latest_start(timestamps: np.ndarray, num_frames: int, fps: float) -> float:
    """Returns the last time, in seconds, at which a clip can start; the first one is timestamps[0].

    Raises:
        ValueError: not even a clip from the first frame fits.
    """
    timestamps = _validate(timestamps, num_frames, fps)
    slack = _half_frame(timestamps)
    latest = timestamps[-1] - (num_frames - 1) / fps
    if latest < timestamps[0] - slack:
        raise ValueError(_too_short(timestamps, num_frames, fps, float(timestamps[0])))
    return float(max(latest, timestamps[0]))


def _nearest_to_grid(seconds: np.ndarray, step: float) -> np.ndarray:
    """Returns the nearest frame to each point of a grid that has a frame within half a step."""
    slots = np.rint((seconds - seconds[0]) / step)
    distance = np.abs(seconds - seconds[0] - slots * step)
    order = np.lexsort((distance, slots))
    _, first = np.unique(slots[order], return_index=True)
    return order[first]


_TIE = 1e-6  # seconds; what container time bases leave of an exact tie


def _validate(timestamps: np.ndarray, num_frames: int, fps: float) -> np.ndarray:
    if num_frames < 1 or not fps > 0:
        raise ValueError(f"A clip needs at least 1 frame and a rate above 0; got {num_frames} frames at {fps} fps.")
    timestamps = np.asarray(timestamps, np.float64)
    if timestamps.ndim != 1 or not len(timestamps):
        raise ValueError("The source has no frames.")
    if not np.isfinite(timestamps).all() or np.any(np.diff(timestamps) < 0):
        raise ValueError("The timestamps of the source are not finite and rising.")
    return timestamps


def _half_frame(timestamps: np.ndarray) -> float:
    return float(np.median(np.diff(timestamps))) / 2 + _TIE if len(timestamps) > 1 else _TIE


def _too_short(timestamps: np.ndarray, num_frames: int, fps: float, start: float) -> str:
    needed = (num_frames - 1) / fps
    offered = timestamps[-1] - timestamps[0]
    message = (
        f"{num_frames} frames at {fps:g} fps from {start:.2f} s need times up to {start + needed:.2f} s; "
        f"the source has {timestamps[0]:.2f} s to {timestamps[-1]:.2f} s."
    )
    if offered + _half_frame(timestamps) >= needed:
        return f"{message} Start between {timestamps[0]:.2f} s and {max(timestamps[-1] - needed, timestamps[0]):.2f} s."
    frames = int((offered + _half_frame(timestamps)) * fps) + 1
    if offered <= 0:
        return f"{message} It can give 1 frame."
    rate = (num_frames - 1) / offered
    return f"{message} It can give {frames} frame(s) at this rate, or {num_frames} frames at {rate:.2f} fps or more."
