"""Opens video files with PyAV, and chooses the stream that a player shows."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import av
import av.error
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from jaxmotion.foundation.files import file_url

CONTAINERS = (
    "3g2,3gp,apng,asf,av1,avi,dv,f4v,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the containers that are opened. Others can open further files or connections on behalf of the one
that was given: playlists (hls, dash, concat, imf), session descriptions (sdp, rtsp), patterns of picture files."""
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<SMIL", b"v=0", b"[playlist]", b"[Reference]")
"""How files begin that name videos in place of being one."""
STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
"""Marks of streams that are no film: covers, thumbnails, tiles of a photo."""
LOOKED_AT = 2000
"""So many packets are looked at to find out which of several streams move."""
UNTIMED = ("h264", "hevc", "vvc")
"""FFmpeg's names of raw streams whose frames carry no times."""
SHORTEST_DELAY = {"gif": 0.02, "apng": 0.011}
"""Seconds. Browsers show frames of animated pictures with a shorter delay for `USUAL_DELAY`."""
USUAL_DELAY = 0.1


class BadClipError(ValueError):
    """A file that gives no clip, with the reason."""


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file; yields it and the stream that a player shows. Errors of FFmpeg inside become a `BadClipError`.

    The name is that of a file, whatever it looks like (`http:a.mp4`), and nothing but this file is opened.
    """
    try:
        if os.path.isdir(path):
            raise BadClipError("it is a folder")
        if os.path.getsize(path) == 0:  # of pipes and devices, too
            raise BadClipError("the file is empty")
        with _open_container(path) as container:
            films = _films(container)
            if len(films) > 1 and not all(stream.frames for stream in films):
                films = _moving(path, films)
            stream = min(films, key=_preference)
            stream.thread_type = "NONE"  # clips are read in parallel; threads within one would only compete
            yield container, stream
    except av.error.InvalidDataError as error:
        raise BadClipError(f"not a video, damaged, or cut off before its index: {error.strerror}") from error
    except (av.error.FFmpegError, OSError) as error:
        raise BadClipError(f"cannot be read: {error.strerror or error}") from error


def states_times(container: InputContainer, stream: VideoStream) -> bool:
    """Returns whether the packets of this kind of file say by themselves when their frames are shown.

    AVI stores frames in the order of decoding and no times, recordings (TS, MPEG) may be several in a row, and
    animated pictures have delays that no player takes literally: there, all packets must be known first.
    """
    name = container.format.name
    return not (is_recording(container) or name == "avi" or name in SHORTEST_DELAY or stream.time_base is None)


def is_recording(container: InputContainer) -> bool:
    """Returns whether times may jump within the file, as in the recordings of broadcasts (TS, MPEG)."""
    return bool(container.format.flags & Flags.ts_discont.value)


def rewind(container: InputContainer) -> None:
    """Goes back to the first packet.

    Raises:
        BadClipError: the file cannot be searched.
    """
    try:
        if is_recording(container):  # times may begin anew within it, or below 0
            container.seek(0, unsupported_byte_offset=True)
        else:
            container.seek(min(0, container.start_time or 0))
    except av.error.FFmpegError as error:
        kind = container.format.long_name
        raise BadClipError(f"it cannot be searched ({kind}); convert it, e.g. to mp4") from error


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


def _films(container: InputContainer) -> list[VideoStream]:
    """Returns the streams that may be a film.

    Raises:
        BadClipError: there are none.
    """
    videos = list(container.streams.video)
    films = [stream for stream in videos if not stream.disposition & STILLS]
    films = films or [stream for stream in videos if not stream.disposition & Disposition.attached_pic]
    if not films:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        raise BadClipError(f"no video in it, only {', '.join(kinds) or 'nothing'}")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise BadClipError("its video is in a codec that FFmpeg does not know here; convert it, e.g. to H.264 in mp4")
    return known


def _preference(stream: VideoStream) -> tuple[bool, bool, int]:
    """Returns the key by which streams are chosen: moving ones first, then default ones, then large ones."""
    default = bool(stream.disposition & Disposition.default)
    size = stream.codec_context.width * stream.codec_context.height
    return stream.frames == 1, not default, -size


def _moving(path: str, films: Sequence[VideoStream]) -> list[VideoStream]:
    """Returns the streams with more than one frame, of a file that does not state how many there are; else all."""
    counts = {stream.index: stream.frames for stream in films}
    with _open_container(path) as container:
        unknown = [container.streams[index] for index, count in counts.items() if not count]
        for number, packet in enumerate(container.demux(unknown)):
            counts[packet.stream_index] += bool(packet.size)
            if number == LOOKED_AT or all(count > 1 for count in counts.values()):
                break
    return [stream for stream in films if counts[stream.index] > 1] or list(films)
