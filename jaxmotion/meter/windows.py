"""The windows of a video that a meter looks at: about two seconds each, as few decoded frames as that takes.

A meter wants frames about 1/8 s apart. From a video of constant rate every k-th frame is taken, k being the number
whose duration is nearest to that (as a ratio); from one of variable rate, those nearest to a grid of 1/8 s. Times are
always the real ones, so nothing is off when they are not 1/8 s apart.

These frames are cut into windows without overlap; the last window ends with the last frame. A short rest (up to 3
frames, 3/8 s) makes no window of its own. A video shorter than one window is one shorter window. Of a long video, so
many windows as are asked for are spread evenly, and only they are decoded.

Unsaid in the papers, chosen here: all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

from jaxmotion.meter.estimate import Clip
from jaxmotion.video.decode import BadClipError, Timeline, displayed_size, frames_at, opened, scaled, timeline_of

Picture = UInt8[np.ndarray, "H W 3"]

PART = 16
"""The most windows that are decoded in one go, so that a part of a long video is some megabytes and not gigabytes."""
REGULAR = 0.25
"""A gap between frames is regular if it differs from the usual one by at most this share of it."""
EARLIER = 10.0
"""Seconds. Where decoding from the key frame before a window does not give all frames, it starts that much earlier."""


def as_it_is(height: int, width: int) -> tuple[int, int]:
    """The size of a video that is not resized."""
    return height, width


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a meter wants to see."""

    frames: int = 16
    """Frames of a window."""
    step: float = 0.125
    """Seconds between frames, about."""
    canvas: Callable[[int, int], tuple[int, int]] = as_it_is
    """From the displayed (height, width) of a video to the size at which it is decoded."""

    def __post_init__(self) -> None:
        if self.frames < 2 or not self.step > 0:
            raise ValueError(
                f"A window of {self.frames} frames, {self.step} s apart; it needs 2 frames and time between."
            )


@dataclasses.dataclass(frozen=True)
class Span:
    """The frames of one window."""

    pts: Int[np.ndarray, " T"]
    """Their times in the units of the file."""
    seconds: Float[np.ndarray, " T"]
    """Their times from the first frame of the file on."""
    weight: float
    """Seconds of it that no window before it has seen."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which windows of a video are looked at."""

    path: str
    parts: tuple[tuple[Span, ...], ...]
    """All windows in order; those of a part are decoded in one go."""
    seconds: float
    """How long the video is."""
    fps: float
    """Frames per second, on average."""
    sampled: bool
    """Whether parts of the video are left out."""
    note: str
    """What is wrong with the file; empty when nothing is."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What decoding a part of a plan gave."""

    clips: tuple[Clip | None, ...]
    """One for each window; None where frames cannot be decoded."""
    size: tuple[int, int]
    """The displayed (height, width) of the video; zeros when nothing could be decoded."""
    reason: str
    """Why windows are missing; empty when none are."""


def plan(path: str, wanted: Wanted, most: int) -> Plan:
    """Chooses the windows of a video; decodes nothing, and of a long video reads only what lies near them.

    Args:
        path: the file.
        wanted: what the meter wants.
        most: so many windows at most, spread evenly over the video; 0: all.

    Raises:
        BadClipError: no video, a single frame, or one that is cut off within its first window.
    """
    with opened(path) as (container, stream):
        stated = _stated_seconds(container, stream)
        fps = float(stream.average_rate or stream.guessed_rate or 1 / wanted.step)
        window = wanted.frames * max(wanted.step, 1 / fps)
        if most and stated > (most + 3) * window:
            spans = _spread(container, stream, wanted, most, stated, 1.5 * window)
            if spans:
                gone = f"{most - len(spans)} of {most} windows are not there: the file is cut off or damaged"
                parts = tuple((span,) for span in spans)
                return Plan(path, parts, stated, fps, sampled=True, note=gone if len(spans) < most else "")
            container.seek(0)
        return _tiled(path, timeline_of(container, stream), wanted, most)


def read(path: str, part: Sequence[Span], wanted: Wanted) -> Part:
    """Decodes a part of a plan. Never fails: windows that cannot be decoded are None."""
    needed = np.unique(np.concatenate([span.pts for span in part]))
    found, size, reason = _pictures(path, needed, wanted)
    clips = tuple(
        Clip(np.stack([found[int(pts)] for pts in span.pts]), span.seconds)
        if all(int(pts) in found for pts in span.pts)
        else None
        for span in part
    )
    return Part(clips, size, reason or "frames cannot be decoded")


def stills(path: str, wanted: Wanted) -> list[Picture]:
    """The first, a middle and the last frame of those that a meter looks at; fewer where they cannot be decoded.

    Raises:
        BadClipError: as `plan`.
    """
    spans = [span for part in plan(path, wanted, 3).parts for span in part]
    middle = spans[len(spans) // 2].pts
    shown = (spans[0].pts[0], middle[len(middle) // 2], spans[-1].pts[-1])
    found = [_pictures(path, np.array([pts]), wanted)[0] for pts in shown]
    return [picture for each in found for picture in each.values()]


def spaced(seconds: Float[np.ndarray, " N"], step: float) -> Int[np.ndarray, " n"]:
    """Which of the frames with these rising times are about `step` apart; see the top. At least 2 of 2 or more."""
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
        chosen = np.arange(0, count, stride) if regular.all() else _nearest(seconds, stride * usual)
    else:
        chosen = _nearest(seconds, step)
    return chosen if len(chosen) > 1 else np.array([0, count - 1])


def _nearest(seconds: np.ndarray, step: float) -> np.ndarray:
    """For each point of a grid that has a frame within half a step: the nearest one."""
    slots = np.rint((seconds - seconds[0]) / step)
    distance = np.abs(seconds - seconds[0] - slots * step)
    order = np.lexsort((distance, slots))
    _, first = np.unique(slots[order], return_index=True)
    return order[first]


def _tiled(path: str, timeline: Timeline, wanted: Wanted, most: int) -> Plan:
    """The plan of a video whose frames are all known."""
    count, damage = len(timeline.pts), timeline.damage
    if count < 2:
        raise BadClipError(damage or "a single frame; motion needs at least 2")
    seconds = timeline.seconds - timeline.seconds[0]
    chosen = spaced(seconds, wanted.step)
    if damage and len(chosen) < wanted.frames:
        raise BadClipError(f"{damage}, less than a window of {wanted.frames * wanted.step:g} s")
    tiles = _tiles(chosen, wanted.frames)
    kept = [tiles[index] for index in _evenly(len(tiles), most)]
    spans, seen = [], 0.0
    for tile in kept:
        weight = float(seconds[tile[-1]] - max(seconds[tile[0]], seen))
        spans.append(Span(timeline.pts[tile], seconds[tile], weight))
        seen = seconds[tile[-1]]
    sampled = len(kept) < len(tiles)
    each = 1 if sampled else PART
    parts = tuple(tuple(spans[start : start + each]) for start in range(0, len(spans), each))
    length = float(seconds[-1])
    return Plan(path, parts, length * count / (count - 1), (count - 1) / length, sampled, damage)


def _tiles(chosen: np.ndarray, frames: int) -> list[np.ndarray]:
    """Frames cut into windows; the last one ends with the last frame."""
    count = len(chosen)
    if count <= frames:
        return [chosen]
    windows = max(1, -(-(count - (frames // 4 - 1)) // frames))
    starts = [*range(0, (windows - 1) * frames, frames), count - frames]
    return [chosen[start : start + frames] for start in starts]


def _evenly(count: int, most: int) -> list[int]:
    """So many of the indices 0..count-1 at most, spread evenly from the first to the last; all for 0."""
    if not most or count <= most:
        return list(range(count))
    return np.rint(np.linspace(0, count - 1, most)).astype(int).tolist() if most > 1 else [count // 2]


def _stated_seconds(container: Any, stream: Any) -> float:
    """How long the file says that it is; 0 when it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


def _spread(container: Any, stream: Any, wanted: Wanted, most: int, stated: float, reach: float) -> list[Span]:
    """Windows at even distances, found by seeking; none when the file cannot be searched by time.

    `reach` are seconds in which a window certainly fits: at usual rates it is at most sqrt(2) longer than wanted.
    """
    starts = np.linspace(0, stated - reach, most) if most > 1 else [(stated - reach) / 2]
    spans = [_span_from(container, stream, float(start), wanted, reach) for start in starts]
    if spans[-1] is None:  # frames are rarer than the file says, so that the window does not fit before the end
        spans[-1] = _span_from(container, stream, max(0.0, stated - 16 * reach), wanted, reach)
    return [span for span in spans if span is not None]


def _span_from(container: Any, stream: Any, start: float, wanted: Wanted, reach: float) -> Span | None:
    """The window that begins at a time in seconds from the first frame; None when the file has none there."""
    base, origin = float(stream.time_base), stream.start_time or 0
    pts: list[int] = []
    enough = 2 * wanted.frames
    with suppress(av.error.FFmpegError):  # a format that cannot be searched, or a file that ends before
        container.seek(origin + int(start / base), stream=stream)
        for packet in container.demux(stream):
            if packet.pts is None:  # the end, or a format whose packets carry no times
                break
            if packet.is_corrupt or packet.is_discard:
                continue
            pts.append(packet.pts)
            if len(pts) >= enough and (packet.pts - origin) * base > start + reach:
                if len(_chosen_from(pts, start, origin, base, wanted)) >= wanted.frames:
                    break
                enough *= 2
    chosen = _chosen_from(pts, start, origin, base, wanted)[: wanted.frames]
    if len(chosen) < wanted.frames:
        return None
    seconds = (chosen - origin) * base
    return Span(chosen, seconds, float(seconds[-1] - seconds[0]))


def _chosen_from(pts: list[int], start: float, origin: int, base: float, wanted: Wanted) -> np.ndarray:
    there = np.unique(np.array(pts, np.int64))
    there = there[(there - origin) * base >= start - base]
    return there[spaced((there - origin) * base, wanted.step)]


def _pictures(path: str, needed: np.ndarray, wanted: Wanted) -> tuple[dict[int, Picture], tuple[int, int], str]:
    """The frames with these times that can be decoded, the displayed size of the video, and what went wrong."""
    found: dict[int, Picture] = {}
    size, reason = (0, 0), ""
    reformatter = VideoReformatter()
    try:
        with opened(path) as (container, stream):
            for seek in _places(container, stream, int(needed[0])):
                missing = np.array([pts for pts in needed if int(pts) not in found])
                if not len(missing):
                    break
                for frame in frames_at(container, stream, missing, seek=seek):
                    size = size if found else displayed_size(frame, stream)
                    found[frame.pts] = scaled(frame, wanted.canvas(*size), reformatter)
    except BadClipError as error:
        reason = str(error)
    return found, size, reason


def _places(container: Any, stream: Any, first: int) -> tuple[int | None, ...]:
    """Where to begin decoding for a frame, one place after the other until all frames are found."""
    earlier = first - int(EARLIER / stream.time_base)
    if earlier <= (stream.start_time or 0):
        return (None,)
    try:
        container.seek(first, stream=stream)
    except av.error.FFmpegError:  # not all formats can be searched
        return (None,)
    return (first, earlier)
