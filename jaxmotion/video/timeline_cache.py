"""Timelines of video files, kept for the next read of the same file in a process.

Reading all packets of a one-hour film takes seconds, and training reads a clip from it again and again.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from av.container import InputContainer
from av.video.stream import VideoStream

from jaxmotion.video.container import BadClipError
from jaxmotion.video.timeline import Timeline, read_packets

MOST_BYTES = 2**25
"""Timelines of so many bytes are kept at most: of about fifty hours of film."""

_Key = tuple[str, int, int, int]


class TimelineCache:
    """The timelines that were used last, up to a number of bytes. Threads may share it."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self.most_bytes = most_bytes
        self._timelines: OrderedDict[_Key, Timeline] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, path: str) -> Timeline | None:
        """Returns the timeline of the unchanged file; None when there is none."""
        key = _identity(path)
        with self._lock:
            if key in self._timelines:
                self._timelines.move_to_end(key)
            return self._timelines.get(key)

    def keep(self, path: str, timeline: Timeline) -> None:
        """Keeps a timeline; those used longest ago make room."""
        key = _identity(path)
        with self._lock:
            if key in self._timelines:
                self._bytes -= self._timelines.pop(key).nbytes
            self._timelines[key] = timeline
            self._bytes += timeline.nbytes
            while self._bytes > self.most_bytes and len(self._timelines) > 1:
                self._bytes -= self._timelines.popitem(last=False)[1].nbytes


CACHE = TimelineCache()
"""The one of this process."""


def timeline_of(path: str, container: InputContainer, stream: VideoStream) -> Timeline:
    """Returns the times of the frames that are in a file just opened; `damage` says which are missing.

    Raises:
        BadClipError: no frames, or frames without times.
    """
    timeline = CACHE.get(path)
    if timeline is None:
        timeline = read_packets(path, container, stream)
        CACHE.keep(path, timeline)
    return timeline


def _identity(path: str) -> _Key:
    """Returns a key that another file, or the same one after a change, does not have."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise BadClipError(f"cannot be read: {error.strerror}") from error
    return os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
