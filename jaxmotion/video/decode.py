"""Reads clips from video files with PyAV: only the frames that are needed, at the size that is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av.error
import numpy as np
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, Int, UInt8

from jaxmotion.video.container import BadClipError, is_recording, open_video, rewind
from jaxmotion.video.frames import frame_indices, latest_start, motion_windows
from jaxmotion.video.pictures import crop_frame, displayed_size, resize_frame
from jaxmotion.video.timeline import PacketTable, Timeline
from jaxmotion.video.timeline_cache import CACHE, timeline_of

SKIPPING = frozenset({"h264", "hevc", "h263", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"})
"""FFmpeg's decoders that skip the frames which nothing refers to, packet by packet. Others read that setting once."""
EARLIER = 10.0
"""Seconds. Where decoding from the key frame before a frame does not give it, decoding starts that much earlier."""
ROUNDS = 10
"""So often frames are chosen anew because packets turned out to hold none."""


def read_timeline(path: str) -> Timeline:
    """Reads the times of all frames from the file's packets; decodes none of them, where they carry their times.

    Raises:
        BadClipError: not a video, cut off, or without frames.
    """
    timeline = CACHE.get(path)
    if timeline is None:
        with open_video(path) as (container, stream):
            timeline = timeline_of(path, container, stream)
    return _check_damage(timeline)


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

    A frame is shown until the next one comes, and the last until the end of the file. Frames are turned and mirrored
    and pixels made square as the file's header asks; HDR is brought to SDR. Decoding starts at the last key frame
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

    def choose(timeline: Timeline) -> Int[np.ndarray, " T"]:
        start = start_time(timeline, frames, fps, where)
        return frame_indices(timeline.seconds, frames, fps, start, timeline.end_seconds, timeline.tick)

    with open_video(path) as (container, stream):
        timeline = _check_damage(timeline_of(path, container, stream))
        reformatter = VideoReformatter()
        return _decode_chosen(
            path, container, stream, timeline, choose, lambda frame: crop_frame(frame, stream, size, reformatter)
        )[0]


class DecodedWindow(NamedTuple):
    """A window of a file in which motion is measured."""

    video: UInt8[np.ndarray, "T H W 3"]
    seconds: Float[np.ndarray, " T"]
    """Times of its frames, from the first frame of the file on."""


def read_window(path: str, frames: int, canvas: Callable[[int, int], tuple[int, int]], where: float) -> DecodedWindow:
    """Reads one of the windows in which motion is measured (`video.frames`), whole frames at the size of a canvas.

    Args:
        path: the file.
        frames: of a window at most.
        canvas: from the displayed (height, width) to the size of the pictures.
        where: in [0, 1): from the first of the windows to the last.

    Raises:
        BadClipError: not a video, cut off, a single frame, or damaged where it is needed.
    """

    def choose(timeline: Timeline) -> Int[np.ndarray, " T"]:
        if len(timeline.pts) < 2:
            raise BadClipError("a single frame; motion needs at least 2")
        windows = motion_windows(timeline.seconds, frames)
        return windows[int(where * len(windows))]

    with open_video(path) as (container, stream):
        timeline = _check_damage(timeline_of(path, container, stream))
        reformatter = VideoReformatter()

        def resize(frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
            return resize_frame(frame, canvas(*displayed_size(frame, stream)), reformatter)

        video, seconds = _decode_chosen(path, container, stream, timeline, choose, resize)
        return DecodedWindow(video, seconds)


def start_time(timeline: Timeline, frames: int, fps: float, where: float) -> float:
    """Returns when a clip starts, in seconds on the file's clock.

    Args:
        timeline: of the file.
        frames: of the clip.
        fps: frames per second of the clip.
        where: in [0, 1]: 0 is the first frame, 1 as late as the clip fits.

    Raises:
        BadClipError: the file is too short for one.
    """
    first = float(timeline.seconds[0])
    return first + where * (latest_time(timeline, frames, fps) - first)


def _decode_chosen(
    path: str,
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    choose: Callable[[Timeline], Int[np.ndarray, " T"]],
    picture: Callable[[VideoFrame], UInt8[np.ndarray, "H W 3"]],
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, " T"]]:
    """Decodes the chosen frames of an opened file as pictures, and returns them with their times from the first on.

    Frames are chosen anew where packets turn out to hold none.

    Raises:
        BadClipError: frames cannot be decoded.
    """
    found: dict[int, np.ndarray] = {}
    shown, needed = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for _ in range(ROUNDS):
        chosen = choose(timeline)
        shown = timeline.pts[chosen]
        needed = np.setdiff1d(shown, np.array(list(found), np.int64))
        damaged = False
        starts = start_points(stream, needed, int(timeline.pts[0])) if len(needed) else [None]
        for start in dict.fromkeys([*starts, None]):
            decoder = Decoding(container, stream, timeline.packets)
            for frame in decoder.frames_at(needed, start):
                found[int(frame.pts or 0)] = picture(frame)
            needed = np.setdiff1d(needed, np.array(list(found), np.int64))
            damaged |= decoder.damaged
            if not len(needed):
                return np.stack([found[int(pts)] for pts in shown]), timeline.seconds[chosen] - timeline.seconds[0]
        if damaged:
            break
        timeline = timeline.without(needed)  # their packets hold no frame, or one that refers to what is not there
        CACHE.keep(path, timeline)
    raise BadClipError(f"{len(needed)} of {len(np.unique(shown))} frames cannot be decoded")


def latest_time(timeline: Timeline, frames: int, fps: float) -> float:
    """Returns the last time, in seconds, at which a clip can start.

    Raises:
        BadClipError: the file is too short for one.
    """
    try:
        return latest_start(timeline.seconds, frames, fps, timeline.end_seconds)
    except ValueError as error:
        raise BadClipError(f"too short: {error}") from error


def start_points(stream: VideoStream, needed: Int[np.ndarray, " N"], first: int) -> list[int | None]:
    """Returns where to begin decoding for some frames, one place after the other until all are found.

    A place is a time in the units of the file; None is its beginning.

    Args:
        stream: the video.
        needed: times of the frames, rising.
        first: time of the first frame in the file.
    """
    if needed[0] <= first:
        return [None]
    earlier = int(needed[0] - EARLIER / float(stream.time_base or 1))
    return [int(needed[0]), earlier if earlier > first else None]


class Decoding:
    """One pass through the packets of an opened file, which decodes some of its frames."""

    damaged: bool = False
    """Whether packets met so far could not be decoded."""

    def __init__(self, container: InputContainer, stream: VideoStream, table: PacketTable | None):
        self.container = container
        self.stream = stream
        self.table = table
        self._number: int | None = None
        self._counts: Counter[int] = Counter()

    def frames_at(self, needed: Int[np.ndarray, " N"], start: int | None) -> Iterator[VideoFrame]:
        """Yields the frames with these times that can be decoded; behind damage, from the next key frame on.

        Args:
            needed: times in the units of the file, rising.
            start: decoding starts at the last key frame before this time; None: at the first frame.
        """
        wanted = {int(pts) for pts in needed}
        context, whole = self.stream.codec_context, True
        skips = context.name in SKIPPING and not (self.table and self.table.untimed)
        for packet in self._packets(start):
            whole = whole or packet is None or packet.is_keyframe or not packet.size
            if self._is_lost(packet):
                whole, self.damaged = False, True
            if not whole:
                continue
            if skips:
                needs = packet is None or packet.pts is None or packet.pts in wanted
                context.skip_frame = "DEFAULT" if needs else "NONREF"
            try:
                frames = self._decode(packet)
            except av.error.InvalidDataError:
                whole, self.damaged = False, True
                continue
            for frame in frames:
                if frame.pts in wanted and frame.is_corrupt:
                    self.damaged = True
                elif frame.pts in wanted:
                    wanted.remove(frame.pts)
                    yield frame
            if not wanted:
                break

    def _packets(self, start: int | None) -> Iterator[Packet | None]:
        """Yields packets from the last key frame before a time on, with the times at which their frames are shown.

        The last is None or has no size: it asks for what the decoder still holds.
        """
        self._seek(start)
        table = self.table
        for packet in self.container.demux(self.stream):
            if table is not None and packet.size:
                self._number = table.find(packet) if self._number is None else self._number + 1
                if self._number is None:
                    continue  # the rest of one that begins before
                if self._number >= len(table.times):
                    yield None
                    break
                packet.pts = self._number if table.untimed else int(table.times[self._number])
            yield packet

    def _seek(self, start: int | None) -> None:
        table = self.table
        try:
            if start is None:
                rewind(self.container)
            elif table is None:
                self.container.seek(start, stream=self.stream)
            elif is_recording(self.container):
                place = int(table.marks[table.key_before(start), 0])
                self.container.seek(place, unsupported_byte_offset=True)
            else:
                self.container.seek(int(table.dts[table.key_before(start)]), stream=self.stream)
        except av.error.FFmpegError:  # not all formats can be searched
            rewind(self.container)

    def _is_lost(self, packet: Packet | None) -> bool:
        if packet is None or not packet.size:
            return False
        return packet.is_corrupt if self.table is None else self._number in self.table.lost

    def _decode(self, packet: Packet | None) -> list[VideoFrame]:
        context, table = self.stream.codec_context, self.table
        if table is None or packet is None:
            return context.decode(None) if packet is None else packet.decode()
        rest = []
        if packet.size and self._number in table.joins:
            rest = context.decode(None)  # what the decoder still holds of the recording before
            context.flush_buffers()
        frames = [*rest, *packet.decode()]
        return self._count(frames, table) if table.untimed else frames

    def _count(self, frames: list[VideoFrame], table: PacketTable) -> list[VideoFrame]:
        """Gives frames their times by counting those of their group, which come in the order of showing."""
        for frame in frames:
            if frame.pts is not None:
                group = table.group_of(frame.pts)  # so far the number of its packet
                place = int(table.keys[group]) + self._counts[group]
                self._counts[group] += 1
                frame.pts = int(table.times[min(place, len(table.times) - 1)])
        return frames


def _check_damage(timeline: Timeline) -> Timeline:
    if timeline.damage:
        raise BadClipError(timeline.damage)
    return timeline
