"""Reads clips from video files with PyAV: only the frames that are needed, at the size that is needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, UInt8

from jaxmotion.video.frames import frame_indices, latest_start

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How frames are resized: shrinking averages, and without the last two flags all pictures become a little too dark."""


class BadClipError(ValueError):
    """A file that gives no clip, with the reason."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When each frame of a file is shown: in the units of the file, rising, and in seconds."""

    pts: np.ndarray
    seconds: Float[np.ndarray, " N"]


def read_timeline(path: str) -> Timeline:
    """The times of all frames. Reads the file's packets and decodes none of them, where they carry their times.

    Raises:
        BadClipError: not a video, cut off, or without frames.
    """
    with _opened(path) as (container, stream):
        return _timeline(container, stream)


def read_clip(path: str, frames: int, fps: float, size: tuple[int, int], where: float) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip of so many frames at that rate, chosen by time, cropped about the middle and resized to (height, width).

    Frames are turned upright and pixels made square as the file's header asks. Decoding starts at the last key frame
    before the clip and ends with its last frame; frames in between that nothing else refers to are skipped.

    Args:
        path: the file.
        frames: T.
        fps: frames per second of the clip. Above the file's own rate, frames repeat.
        size: height and width.
        where: in [0, 1]: 0 starts the clip at the first frame, 1 as late as it fits.

    Raises:
        BadClipError: not a video, cut off, too short, or damaged where it is needed.
    """
    with _opened(path) as (container, stream):
        timeline = _timeline(container, stream)
        first = float(timeline.seconds[0])
        start = first + where * (latest_time(timeline, frames, fps) - first)
        chosen = frame_indices(timeline.seconds, frames, fps, start)
        needed = np.unique(timeline.pts[chosen])
        found = _decode(container, stream, needed, size, from_start=needed[0] == timeline.pts[0])
        if len(found) < len(needed):
            found = _decode(container, stream, needed, size, from_start=True)
        if len(found) < len(needed):
            raise BadClipError(f"{len(needed) - len(found)} of {len(needed)} frames cannot be decoded")
        return np.stack([found[int(pts)] for pts in timeline.pts[chosen]])


def latest_time(timeline: Timeline, frames: int, fps: float) -> float:
    """The last time, in seconds, at which a clip can start.

    Raises:
        BadClipError: the file is too short for one.
    """
    try:
        return latest_start(timeline.seconds, frames, fps)
    except ValueError as error:
        raise BadClipError(f"too short: {error}") from error


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """The file and its video stream; whatever goes wrong inside becomes a `BadClipError`."""
    try:
        if os.path.getsize(path) == 0:
            raise BadClipError("the file is empty")
        with av.open(path) as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                raise BadClipError(f"no video in it, only {', '.join(kinds) or 'nothing'}")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # clips are read in parallel; threads within one would only compete
            yield container, stream
    except av.error.InvalidDataError as error:
        raise BadClipError(f"not a video, damaged, or cut off before its index: {error.strerror}") from error
    except (av.error.FFmpegError, OSError) as error:
        raise BadClipError(f"cannot be read: {error.strerror or error}") from error


def _timeline(container: Any, stream: Any) -> Timeline:
    packets = [packet for packet in container.demux(stream) if packet.size]
    if any(packet.is_corrupt for packet in packets) or 0 < len(packets) < stream.frames:
        stated = stream.frames or "unknown number of"
        raise BadClipError(f"cut off: {len(packets)} of the {stated} frames it states are there")
    times = [packet.pts for packet in packets if not packet.is_discard]
    if None in times:  # some containers do not say when a frame is shown; the decoder works it out
        container.seek(0)
        times = [frame.pts for frame in container.decode(stream)]
    if not times or None in times:
        raise BadClipError("no frames in it" if not times else "its frames carry no times")
    pts = np.unique(np.asarray(times, np.int64))
    return Timeline(pts, pts * float(stream.time_base))


def _decode(
    container: Any, stream: Any, needed: np.ndarray, size: tuple[int, int], *, from_start: bool
) -> dict[int, np.ndarray]:
    """The frames with these times that can be decoded, by time."""
    wanted, found, reformatter = {int(pts) for pts in needed}, {}, VideoReformatter()
    container.seek(0 if from_start else int(needed[0]), stream=None if from_start else stream)
    context = stream.codec_context
    for packet in container.demux(stream):
        context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
        for frame in packet.decode():
            if frame.pts in wanted and not frame.is_corrupt:
                found[frame.pts] = _fitted(frame, stream, size, reformatter)
        if len(found) == len(wanted):
            break
    return found


def _fitted(frame: Any, stream: Any, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """The middle of a frame, upright, at (height, width)."""
    height, width = size
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns % 2:
        height, width = width, height
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    scale = max(height / frame.height, width / (frame.width * pixel_aspect))
    tall = max(height, round(frame.height * scale))
    wide = max(width, round(frame.width * pixel_aspect * scale))
    scaled = reformatter.reformat(frame, wide, tall, "rgb24", interpolation=SCALING, threads=1)
    top, left = (tall - height) // 2, (wide - width) // 2
    picture = scaled.to_ndarray()[top : top + height, left : left + width]
    return np.ascontiguousarray(np.rot90(picture, quarter_turns))
