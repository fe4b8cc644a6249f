"""Frame selection: a clip of a given frame rate, frames about a step apart, and the windows that motion is measured in.

Frames are chosen by time, not by counting, because a clip of every second frame moves twice as much. A frame is shown
until the next one comes. NumPy only: this runs in the workers that read data.

Motion is measured on frames about 1/8 s apart, cut into windows. From a video of constant rate every k-th frame is
taken, k being the number whose duration is nearest to the step (as a ratio); from one of variable rate, the frames
nearest to a grid of that step. Times are always the real ones, so nothing is off when they are not a step apart.
Windows tile the clip: as few as there must be, equally long, and each begins with the frame that the one before ends
with. So every step from frame to frame is in one window and in no other.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxmotion.video.motion_scale import STEP

WINDOW = 16
"""Frames of a window at most; a network is given so many, see `fill_window`."""
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


def motion_windows(
    seconds: Float[np.ndarray, " N"], frames: int = WINDOW, step: float = STEP
) -> list[Int[np.ndarray, " n"]]:
    """Returns the windows in which motion is measured: the indices of their 2..frames frames.

    Every meter, the training of those that scores and the scoring of training clips cut clips by this function.

    Args:
        seconds: rising times of 2 or more frames.
        frames: of a window at most.
        step: seconds between its frames, about.
    """
    return tile_frames(space_frames(seconds, step), frames)


def tile_frames(chosen: Int[np.ndarray, " n"], frames: int) -> list[Int[np.ndarray, " T"]]:
    """Cuts 2 or more frames into windows of at most `frames`, as few and as equal as can be; neighbours share one."""
    steps = len(chosen) - 1
    windows = max(1, -(-steps // (frames - 1)))
    edges = np.rint(np.linspace(0, steps, windows + 1)).astype(int)
    return [chosen[start : end + 1] for start, end in itertools.pairwise(edges)]


def fill_window(count: int, frames: int = WINDOW) -> tuple[Int[np.ndarray, " frames"], Float[np.ndarray, " frames-1"]]:
    """Fills a window with its 2..frames frames: from the last one back to the first, and forth, and so on.

    A full window runs backwards, too: published figures were measured so.

    Returns:
        The frames in that order, and how much each step between them counts, so that each of the window's own counts 1.
    """
    order = np.abs(count - 1 - np.arange(frames) % (2 * count - 2))
    steps = np.minimum(order[:-1], order[1:])
    return order, 1 / np.bincount(steps)[steps]


def frame_indices(
    timestamps: np.ndarray, num_frames: int, fps: float, start: float, end: float | None = None, tick: float = 0.0
) -> np.ndarray:
    """Returns int64 [num_frames]: the source frame that is shown at each time start + k / fps.

    A frame is shown until the next one comes, and the last one until the end, as in players.

    Args:
        timestamps: [N], when each source frame is shown, in seconds, rising. Need not begin at 0 nor be evenly spaced.
        num_frames: how many frames the clip has.
        fps: frames per second of the clip. Above the source's rate, source frames repeat.
        start: when the clip begins, in seconds on the timeline of `timestamps`.
        end: when the last source frame ends, in seconds; without one, a usual gap after it begins.
        tick: unit of the source's clock, in seconds. Frames count as shown so much earlier: their times are rounded.

    Raises:
        ValueError: the source does not last that long.
    """
    timestamps = _validate(timestamps, num_frames, fps)
    times = start + np.arange(num_frames) / fps
    gap = _usual_gap(timestamps)
    if times[0] < timestamps[0] - gap / 2 - _TIE or times[-1] >= _end_of(timestamps, end) + _TIE:
        raise ValueError(_too_short(timestamps, num_frames, fps, start, end))
    early = min(tick, gap / 4) + _TIE
    return (np.searchsorted(timestamps, times + early, side="right") - 1).clip(0, len(timestamps) - 1)


def latest_start(timestamps: np.ndarray, num_frames: int, fps: float, end: float | None = None) -> float:
    """Returns the last time, in seconds, at which a clip can start; the first one is timestamps[0].

    The last frame of a clip is one that lasts until the next time of the clip, or else the last frame of the source.

    Args:
        timestamps: [N], when each source frame is shown, in seconds, rising.
        num_frames: how many frames the clip has.
        fps: frames per second of the clip.
        end: when the last source frame ends, in seconds; without one, a usual gap after it begins.

    Raises:
        ValueError: not even a clip from the first frame fits.
    """
    timestamps = _validate(timestamps, num_frames, fps)
    if timestamps[0] + (num_frames - 1) / fps >= _end_of(timestamps, end) + _TIE:
        raise ValueError(_too_short(timestamps, num_frames, fps, float(timestamps[0]), end))
    return float(max(_last_time(timestamps, fps, end) - (num_frames - 1) / fps, timestamps[0]))


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


def _usual_gap(timestamps: np.ndarray) -> float:
    return float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 0.0


def _end_of(timestamps: np.ndarray, end: float | None) -> float:
    return float(timestamps[-1]) + _usual_gap(timestamps) if end is None else end


def _last_time(timestamps: np.ndarray, fps: float, end: float | None) -> float:
    """Returns the last time at which a frame of a clip is taken."""
    return max(float(timestamps[-1]), _end_of(timestamps, end) - 1 / fps)


def _too_short(timestamps: np.ndarray, num_frames: int, fps: float, start: float, end: float | None) -> str:
    needed = (num_frames - 1) / fps
    last = _last_time(timestamps, fps, end)
    offered = last - timestamps[0]
    message = (
        f"{num_frames} frames at {fps:g} fps from {start:.2f} s need times up to {start + needed:.2f} s; "
        f"the source has {timestamps[0]:.2f} s to {last:.2f} s."
    )
    if _end_of(timestamps, end) + _TIE > timestamps[0] + needed:
        return f"{message} Start between {timestamps[0]:.2f} s and {max(last - needed, timestamps[0]):.2f} s."
    frames = int((_end_of(timestamps, end) - timestamps[0] - _TIE) * fps) + 1
    if offered <= 0:
        return f"{message} It can give 1 frame."
    rate = (num_frames - 1) / offered
    return f"{message} It can give {frames} frame(s) at this rate, or {num_frames} frames at {rate:.2f} fps or more."
