"""Reads clips from video files with PyAV: only the frames that are needed, at the size that is needed."""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.error
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from jaxmotion.foundation.files import file_url
from jaxmotion.video.frames import frame_indices, latest_start

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How frames are resized: shrinking averages, and without the last two flags all pictures become a little too dark."""


CONTAINERS = (
    "3g2,3gp,apng,asf,av1,avi,dv,f4v,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the containers that are opened. Others can open further files or connections on behalf of the one
that was given: playlists (hls, dash, concat, imf), session descriptions (sdp, rtsp), patterns of picture files."""
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<SMIL", b"v=0", b"[playlist]", b"[Reference]")
"""How files begin that name videos in place of being one."""


class BadClipError(ValueError):
    """A file that gives no clip, with the reason."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Presentation times of a file's frames: in the units of the file, rising, and in seconds."""

    pts: np.ndarray
    seconds: Float[np.ndarray, " N"]
    damage: str = ""
    """Which of the frames that the file states are not there; empty when all are."""


def read_timeline(path: str) -> Timeline:
    """Reads the times of all frames from the file's packets; decodes none of them, where they carry their times.

    Raises:
        BadClipError: not a video, cut off, or without frames.
    """
    with open_video(path) as (container, stream):
        return _undamaged_timeline(container, stream)


def read_size(path: str) -> tuple[int, int]:
    """Reads (height, width) at which a player shows the file: upright, with square pixels. Decodes one frame.

    Raises:
        BadClipError: none can be decoded.
    """
    with open_video(path) as (container, stream):
        for frame in container.decode(stream):
            return displayed_size(frame, stream)
        raise BadClipError("no frames in it")


def read_clip(path: str, frames: int, fps: float, size: tuple[int, int], where: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Reads a clip of that many frames at that rate, chosen by time, centre-cropped and resized to (height, width).

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
    with open_video(path) as (container, stream):
        timeline = _undamaged_timeline(container, stream)
        first = float(timeline.seconds[0])
        start = first + where * (latest_time(timeline, frames, fps) - first)
        chosen = frame_indices(timeline.seconds, frames, fps, start)
        needed = np.unique(timeline.pts[chosen])
        reformatter = VideoReformatter()
        for seek in (None,) if needed[0] == timeline.pts[0] else (int(needed[0]), None):
            frames_there = frames_at(container, stream, needed, seek=seek)
            found = {frame.pts: _crop_frame(frame, stream, size, reformatter) for frame in frames_there}
            if len(found) == len(needed):
                break
        if len(found) < len(needed):
            raise BadClipError(f"{len(needed) - len(found)} of {len(needed)} frames cannot be decoded")
        return np.stack([found[int(pts)] for pts in timeline.pts[chosen]])


def latest_time(timeline: Timeline, frames: int, fps: float) -> float:
    """Returns the last time, in seconds, at which a clip can start.

    Raises:
        BadClipError: the file is too short for one.
    """
    try:
        return latest_start(timeline.seconds, frames, fps)
    except ValueError as error:
        raise BadClipError(f"too short: {error}") from error


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file; yields it and its video stream. Errors of FFmpeg inside become a `BadClipError`.

    The name is that of a file, whatever it looks like (`http:a.mp4`), and nothing but this file is opened.
    """
    try:
        if os.path.isdir(path):
            raise BadClipError("it is a folder")
        if os.path.getsize(path) == 0:  # of pipes and devices, too
            raise BadClipError("the file is empty")
        with _open_container(path) as container:
            moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
            if not moving:
                kinds = sorted({stream.type for stream in container.streams} - {"video"})
                raise BadClipError(f"no video in it, only {', '.join(kinds) or 'nothing'}")
            stream = moving[0]
            stream.thread_type = "NONE"  # clips are read in parallel; threads within one would only compete
            yield container, stream
    except av.error.InvalidDataError as error:
        raise BadClipError(f"not a video, damaged, or cut off before its index: {error.strerror}") from error
    except (av.error.FFmpegError, OSError) as error:
        raise BadClipError(f"cannot be read: {error.strerror or error}") from error


def _open_container(path: str) -> InputContainer:
    """Opens a file, and no other file and no connection on its behalf.

    Raises:
        BadClipError: it is a playlist, or of a kind that holds no video.
    """
    only = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        return av.open(file_url(path), options=only, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        with open(path, "rb") as file:
            head = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
        if head.startswith(PLAYLISTS):
            raise BadClipError("a playlist, which names videos and is none; give the videos themselves") from error
        if isinstance(error, av.error.ArgumentError):  # FFmpeg knows the kind, and it is not among CONTAINERS
            raise BadClipError("not a video but another kind of file, such as a picture, sound or text") from error
        raise


def timeline_of(container: InputContainer, stream: VideoStream) -> Timeline:
    """Returns the times of the frames that are in an opened file; `damage` says which are missing.

    Raises:
        BadClipError: no frames, or frames without times.
    """
    packets = [packet for packet in container.demux(stream) if packet.size]
    whole = [packet for packet in packets if not packet.is_corrupt]
    damage = ""
    if len(whole) < len(packets) or 0 < len(packets) < stream.frames:
        stated = stream.frames or "unknown number of"
        damage = f"cut off: {len(packets)} of the {stated} frames it states are there"
    times = [packet.pts for packet in whole if not packet.is_discard]
    if None in times:  # some containers do not say when a frame is shown; the decoder works it out
        container.seek(0)
        times = [frame.pts for frame in container.decode(stream)]
    if not times or None in times:
        raise BadClipError(damage or ("no frames in it" if not times else "its frames carry no times"))
    if stream.time_base is None:
        raise BadClipError("its frames carry times without a unit")
    pts = np.unique(np.asarray(times, np.int64))
    return Timeline(pts, pts * float(stream.time_base), damage)


def frames_at(
    container: InputContainer, stream: VideoStream, needed: np.ndarray, *, seek: int | None
) -> Iterator[VideoFrame]:
    """Yields the frames with these times that can be decoded; behind damage, from the next key frame on.

    Args:
        container: the opened file.
        stream: its video.
        needed: times in the units of the file, rising.
        seek: decoding starts at the last key frame before this time; None: at the first frame.
    """
    wanted = {int(pts) for pts in needed}
    container.seek(0 if seek is None else seek, stream=None if seek is None else stream)
    context, whole = stream.codec_context, True
    for packet in container.demux(stream):
        whole = whole or packet.is_keyframe or not packet.size  # without a size: what the decoder still holds
        if not whole:
            continue
        context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            whole = False
            continue
        for frame in frames:
            if frame.pts in wanted and not frame.is_corrupt:
                wanted.remove(frame.pts)
                yield frame
        if not wanted:
            break


def displayed_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Returns (height, width) at which a player shows the frame: upright, with square pixels."""
    height, width = frame.height, round(frame.width * float(stream.sample_aspect_ratio or 1))
    return (width, height) if _quarter_turns(frame) % 2 else (height, width)


def resize_frame(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes the whole frame, upright, to (height, width), squeezed where the aspect is another."""
    turns = _quarter_turns(frame)
    tall, wide = size[::-1] if turns % 2 else size
    picture = reformatter.reformat(frame, wide, tall, "rgb24", interpolation=SCALING, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns))


def _undamaged_timeline(container: InputContainer, stream: VideoStream) -> Timeline:
    timeline = timeline_of(container, stream)
    if timeline.damage:
        raise BadClipError(timeline.damage)
    return timeline


def _quarter_turns(frame: VideoFrame) -> int:
    """Returns the number of counterclockwise turns by 90 degrees that bring a frame upright."""
    return round(frame.rotation / 90) % 4


def _crop_frame(
    frame: VideoFrame, stream: VideoStream, size: tuple[int, int], reformatter: VideoReformatter
) -> np.ndarray:
    """Centre-crops a frame, upright, and resizes it to (height, width)."""
    height, width = size
    quarter_turns = _quarter_turns(frame)
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
