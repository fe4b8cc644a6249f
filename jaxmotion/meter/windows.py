"""The windows of a video file that are measured: about two seconds each, as few decoded frames as that takes.

Frames are spaced and cut into windows by `video.frames`. Of a long video, so many windows as are wanted are spread
evenly, and only they are decoded.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, Int, UInt8

from jaxmotion.meter.estimate import Clip
from jaxmotion.video.container import BadClipError, open_video, rewind, states_times
from jaxmotion.video.cuts import find_cuts
from jaxmotion.video.decode import Decoding, start_points
from jaxmotion.video.frames import WINDOW, motion_windows, space_frames
from jaxmotion.video.motion_scale import STEP
from jaxmotion.video.pictures import displayed_size, resize_frame
from jaxmotion.video.timeline import Timeline
from jaxmotion.video.timeline_cache import CACHE, timeline_of

Picture = UInt8[np.ndarray, "H W 3"]

GROUP_SIZE = 16
"""The most windows that are decoded in one pass: some megabytes of a long video, and not gigabytes."""


def keep_size(height: int, width: int) -> tuple[int, int]:
    """Returns the size of a video that is not resized."""
    return height, width


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """The windows that a meter measures."""

    frames: int = WINDOW
    """Frames of a window at most."""
    step: float = STEP
    """Seconds between frames, about."""
    canvas: Callable[[int, int], tuple[int, int]] = keep_size
    """From the displayed (height, width) of a video to the size at which it is decoded."""
    cuts: bool = False
    """Whether windows are split where a shot ends."""

    def __post_init__(self) -> None:
        if self.frames < 2 or not self.step > 0:
            raise ValueError(
                f"A window of {self.frames} frames, {self.step} s apart; it needs 2 frames and time between."
            )


@dataclasses.dataclass(frozen=True)
class Window:
    """The frames of one window."""

    pts: Int[np.ndarray, " T"]
    """Their times in the units of the file."""
    seconds: Float[np.ndarray, " T"]
    """Their times from the first frame of the file on."""

    @property
    def weight(self) -> float:
        """Seconds of it, by which it counts in the mean over the clip."""
        return float(self.seconds[-1] - self.seconds[0])


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """The windows of a video that are measured."""

    path: str
    groups: tuple[tuple[Window, ...], ...]
    """All windows in order; a group is decoded in one pass."""
    seconds: float
    """How long the video is."""
    fps: float
    """Frames per second, on average."""
    sampled: bool
    """Whether parts of the video are left out."""
    note: str
    """What is wrong with the file; empty when nothing is."""


@dataclasses.dataclass(frozen=True)
class DecodedWindows:
    """The result of decoding a group of windows."""

    clips: tuple[Clip | None, ...]
    """One for each of `windows`; None where frames cannot be decoded."""
    size: tuple[int, int]
    """The displayed (height, width) of the video; zeros when nothing could be decoded."""
    reason: str
    """Why windows are missing; empty when none are."""
    windows: tuple[Window, ...] = ()
    """Those that were asked for; where they have cuts, the parts between these."""
    cuts: int = 0
    """How many cuts there are in them."""


def plan_windows(path: str, spec: WindowSpec, max_windows: int) -> WindowPlan:
    """Chooses the windows of a video; decodes nothing, and of a long video reads only what lies near them.

    Args:
        path: the file.
        spec: the windows that the meter measures.
        max_windows: of a video, spread evenly over it; 0: all.

    Raises:
        BadClipError: no video, a single frame, or one that is cut off within its first window.
    """
    with open_video(path) as (container, stream):
        stated = _stated_seconds(container, stream)
        fps = float(stream.average_rate or stream.guessed_rate or 1 / spec.step)
        seconds = spec.frames * max(spec.step, 1 / fps)
        if max_windows and stated > (max_windows + 3) * seconds and states_times(container, stream):
            windows = _spread(container, stream, spec, max_windows, stated, 1.5 * seconds)
            if windows:
                lost = max_windows - len(windows)
                note = f"{lost} of {max_windows} windows are not there: the file is cut off or damaged" if lost else ""
                return WindowPlan(path, tuple((each,) for each in windows), stated, fps, sampled=True, note=note)
            rewind(container)
        return _plan_tiles(path, timeline_of(path, container, stream), spec, max_windows)


def decode_windows(path: str, group: Sequence[Window], spec: WindowSpec) -> DecodedWindows:
    """Decodes a group of windows. Never fails: windows that cannot be decoded are None."""
    needed = np.unique(np.concatenate([window.pts for window in group]))
    found, size, reason = _decode(path, needed, spec)
    windows: list[Window] = []
    clips: list[Clip | None] = []
    cuts = 0
    for window in group:
        if not all(int(pts) in found for pts in window.pts):
            windows.append(window)
            clips.append(None)
            continue
        video = np.stack([found[int(pts)] for pts in window.pts])
        starts = find_cuts(video) if spec.cuts else []
        cuts += len(starts)
        for shot in np.split(np.arange(len(video)), starts):
            if len(shot) > 1:  # a single frame shows no motion
                windows.append(Window(window.pts[shot], window.seconds[shot]))
                clips.append(Clip(video[shot], window.seconds[shot]))
    return DecodedWindows(tuple(clips), size, reason or "frames cannot be decoded", tuple(windows), cuts)


def stills(path: str, spec: WindowSpec) -> list[Picture]:
    """Returns the first, a middle and the last of the measured frames; fewer where they cannot be decoded.

    Raises:
        BadClipError: as `plan_windows`.
    """
    windows = [window for group in plan_windows(path, spec, 3).groups for window in group]
    middle = windows[len(windows) // 2].pts
    shown = (windows[0].pts[0], middle[len(middle) // 2], windows[-1].pts[-1])
    found = [_decode(path, np.array([pts]), spec)[0] for pts in shown]
    return [picture for each in found for picture in each.values()]


def _plan_tiles(path: str, timeline: Timeline, spec: WindowSpec, max_windows: int) -> WindowPlan:
    """Plans a video whose frames are all known."""
    count, damage = len(timeline.pts), timeline.damage
    if count < 2:
        raise BadClipError(damage or "a single frame; motion needs at least 2")
    seconds = timeline.seconds - timeline.seconds[0]
    tiles = motion_windows(seconds, spec.frames, spec.step)
    if damage and len(tiles) == 1 and len(tiles[0]) < spec.frames:
        raise BadClipError(f"{damage}, less than a window of {spec.frames * spec.step:g} s")
    kept = [tiles[index] for index in _spread_indices(len(tiles), max_windows)]
    windows = [Window(timeline.pts[tile], seconds[tile]) for tile in kept]
    sampled = len(kept) < len(tiles)
    each = 1 if sampled else GROUP_SIZE
    groups = tuple(tuple(windows[start : start + each]) for start in range(0, len(windows), each))
    fps = (count - 1) / float(seconds[-1])
    return WindowPlan(path, groups, timeline.end_seconds - float(timeline.seconds[0]), fps, sampled, damage)


def _spread_indices(count: int, limit: int) -> list[int]:
    """Returns at most `limit` of the indices 0..count-1, spread evenly from the first to the last; all for 0."""
    if not limit or count <= limit:
        return list(range(count))
    return np.rint(np.linspace(0, count - 1, limit)).astype(int).tolist() if limit > 1 else [count // 2]


def _tick(stream: VideoStream) -> Fraction:
    """Returns the seconds of one unit of the stream's timestamps."""
    return stream.time_base or Fraction(0)


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Returns the duration that the file states, seconds; 0 when it states none."""
    if stream.duration:
        return float(stream.duration * _tick(stream))
    return float(container.duration or 0) / av.time_base


def _spread(
    container: InputContainer, stream: VideoStream, spec: WindowSpec, count: int, stated: float, reach: float
) -> list[Window]:
    """Finds windows at even distances by seeking; none when the file cannot be searched by time.

    `reach` are seconds in which a window certainly fits: at usual rates it is at most sqrt(2) longer than specified.
    """
    starts = np.linspace(0, stated - reach, count) if count > 1 else [(stated - reach) / 2]
    windows = [_window_from(container, stream, float(start), spec, reach) for start in starts]
    if windows[-1] is None:  # frames are rarer than the file says, so that the window does not fit before the end
        windows[-1] = _window_from(container, stream, max(0.0, stated - 16 * reach), spec, reach)
    return [window for window in windows if window is not None]


def _window_from(
    container: InputContainer, stream: VideoStream, start: float, spec: WindowSpec, reach: float
) -> Window | None:
    """Finds the window that begins at a time in seconds from the first frame; None when the file has none there."""
    base, origin = float(_tick(stream)), stream.start_time or 0
    pts: list[int] = []
    enough = 2 * spec.frames
    with suppress(av.error.FFmpegError):  # a format that cannot be searched, or a file that ends before
        container.seek(origin + int(start / base), stream=stream)
        for packet in container.demux(stream):
            if packet.pts is None:  # the end, or a format whose packets carry no times
                break
            if packet.is_corrupt or packet.is_discard:
                continue
            pts.append(packet.pts)
            if len(pts) >= enough and (packet.pts - origin) * base > start + reach:
                if len(_choose_from(pts, start, origin, base, spec)) >= spec.frames:
                    break
                enough *= 2
    chosen = _choose_from(pts, start, origin, base, spec)[: spec.frames]
    if len(chosen) < spec.frames:
        return None
    seconds = (chosen - origin) * base
    return Window(chosen, seconds)


def _choose_from(pts: list[int], start: float, origin: int, base: float, spec: WindowSpec) -> Int[np.ndarray, " T"]:
    rising = np.unique(np.array(pts, np.int64))  # packets come in the order of decoding
    rising = rising[(rising - origin) * base >= start - base]
    return rising[space_frames((rising - origin) * base, spec.step)]


def _decode(
    path: str, needed: Int[np.ndarray, " N"], spec: WindowSpec
) -> tuple[dict[int, Picture], tuple[int, int], str]:
    """Returns the frames with these times that can be decoded, the displayed size of the video, and the error."""
    found: dict[int, Picture] = {}
    size, reason = (0, 0), ""
    reformatter = VideoReformatter()
    try:
        with open_video(path) as (container, stream):
            timeline = CACHE.get(path)
            if timeline is None and not states_times(container, stream):
                timeline = timeline_of(path, container, stream)
            first = int(timeline.pts[0]) if timeline else stream.start_time or 0
            for start in start_points(stream, needed, first):
                missing = np.setdiff1d(needed, np.array(list(found), np.int64))
                if not len(missing):
                    break
                decoding = Decoding(container, stream, timeline.packets if timeline else None)
                for frame in decoding.frames_at(missing, start):
                    size = size if found else displayed_size(frame, stream)
                    found[int(frame.pts or 0)] = resize_frame(frame, spec.canvas(*size), reformatter)
    except BadClipError as error:
        reason = str(error)
    return found, size, reason
