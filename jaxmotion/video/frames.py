"""Which frames of a source make a clip of a given frame rate.

Frames are chosen by time, not by counting, because a clip of every second frame moves twice as much. NumPy only: this
runs in the workers that read data.
"""

from __future__ import annotations

import numpy as np


def frame_indices(timestamps: np.ndarray, num_frames: int, fps: float, start: float) -> np.ndarray:
    """int64 [num_frames]: for each time start + k / fps, the source frame nearest to it (the earlier one of two).

    Args:
        timestamps: [N], when each source frame is shown, in seconds, rising. Need not begin at 0 nor be evenly spaced.
        num_frames: how many frames the clip has.
        fps: frames per second of the clip. Above the source's rate, source frames repeat.
        start: when the clip begins, in seconds on the timeline of `timestamps`.

    Raises:
        ValueError: the source does not last that long. A frame stands for half a frame's time around its own, so the
            last asked time may lie that far behind the last timestamp.
    """
    timestamps = _checked(timestamps, num_frames, fps)
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
    """The last time, in seconds, at which a clip can start; the first one is timestamps[0].

    Raises:
        ValueError: not even a clip from the first frame fits.
    """
    timestamps = _checked(timestamps, num_frames, fps)
    slack = _half_frame(timestamps)
    latest = timestamps[-1] - (num_frames - 1) / fps
    if latest < timestamps[0] - slack:
        raise ValueError(_too_short(timestamps, num_frames, fps, float(timestamps[0])))
    return float(max(latest, timestamps[0]))


_TIE = 1e-6  # seconds; what container time bases leave of an exact tie


def _checked(timestamps: np.ndarray, num_frames: int, fps: float) -> np.ndarray:
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
