"""Times at which the frames of a video file are shown, worked out from its packets.

The times that packets carry are not always those at which a player shows the frames. Corrected are:

- H.264 and HEVC with B-frames in AVI, which stores frames in the order of decoding and no times: the times come from
  the file's clock, and the order in which frames are shown is that in which the decoder gives them.
- Recordings joined end to end (TS, MPEG), whose clocks begin anew or jump: each begins where the one before ends.
- GIF and APNG: delays that browsers take for a tenth of a second.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import dataclasses
from array import array
from itertools import pairwise

import numpy as np
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float, Int

from jaxmotion.video.container import (
    SHORTEST_DELAY,
    UNTIMED,
    USUAL_DELAY,
    BadClipError,
    is_recording,
    rewind,
)
from jaxmotion.video.joined_files import hides_videos

UNKNOWN = np.iinfo(np.int64).min
"""Stands for a time or a place that a packet does not carry."""
JUMP = 10.0
"""Seconds. In a recording, times that go on so much later belong to another one; FFmpeg's `dts_delta_threshold`."""
FALL = 0.5
"""Seconds. In other files, times that fall back so far begin another recording."""
SEAM = 2
"""A gap in the counters of a TS that lies at most so many packets before a key frame is a seam, not a loss."""

HOW_TO_JOIN = "join them with: ffmpeg -f concat -i LIST -c copy FILE"

Rows = Int[np.ndarray, "M 7"]
"""Packets in the order of decoding: the columns below."""
PTS, DTS, PLACE, SIZE, DURATION, KEY, FLAW = range(7)
DISCARD, CORRUPT = 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class PacketTable:
    """The packets of a file whose times are not those that they carry, in the order of decoding."""

    times: Int[np.ndarray, " M"]
    """When the frame of each is shown, in the units of the file; if `untimed`, when the frames are, in their order."""
    dts: Int[np.ndarray, " M"]
    """When each is decoded, as it says."""
    marks: Int[np.ndarray, "M 2"]
    """Place in the file, or DTS, and size of each, by which it is known again after seeking."""
    keys: Int[np.ndarray, " K"]
    """The packets at which decoding can start, the first among them."""
    joins: frozenset[int]
    """The packets with which another recording begins."""
    lost: frozenset[int]
    """The packets that are not whole."""
    untimed: bool
    """Whether no packet says when its frame is shown. Frames from one key packet to the next keep together."""

    def find(self, packet: Packet) -> int | None:
        """Returns the number of a packet; None when there is none like it or several are."""
        mark = _known(packet.dts if packet.pos is None else packet.pos)
        (places,) = np.nonzero((self.marks[:, 0] == mark) & (self.marks[:, 1] == packet.size))
        return int(places[0]) if len(places) == 1 else None

    def group_of(self, number: int) -> int:
        """Returns the number of the key packet at or before a packet, counted in key packets."""
        return max(0, int(np.searchsorted(self.keys, number, side="right")) - 1)

    def key_before(self, pts: int) -> int:
        """Returns the number of the last key packet from which the frame at a time can be decoded."""
        if self.untimed:  # frames that follow a key packet and are shown before it need the group before
            return int(self.keys[max(0, self.group_of(int(np.searchsorted(self.times, pts))) - 1)])
        (places,) = np.nonzero(self.times <= pts)
        before = self.keys[(self.keys <= places.max(initial=0)) & (self.times[self.keys] <= pts)]
        return int(before.max(initial=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """Times at which the frames of a file are shown. A frame stands until the next one, the last until the end."""

    pts: Int[np.ndarray, " N"]
    """In the units of the file, rising."""
    tick: float
    """Seconds of one unit."""
    end: int
    """In the units of the file."""
    damage: str = ""
    """Which of the frames that the file states are not there; empty when all are."""
    packets: PacketTable | None = None
    """Where the packets carry other times; None where they carry these."""

    @property
    def seconds(self) -> Float[np.ndarray, " N"]:
        return self.pts * self.tick

    @property
    def end_seconds(self) -> float:
        return self.end * self.tick

    @property
    def nbytes(self) -> int:
        table = self.packets
        return 500 + self.pts.nbytes + (4 * table.times.nbytes if table else 0)

    def without(self, missing: Int[np.ndarray, " n"]) -> Timeline:
        """Returns the timeline without frames that no decoder gives; the ones before them stand longer."""
        return dataclasses.replace(self, pts=np.setdiff1d(self.pts, missing))


def read_packets(path: str, container: InputContainer, stream: VideoStream) -> Timeline:
    """Works out the times of the frames from the packets of a file that has just been opened; reads all of them.

    Raises:
        BadClipError: no frames, or frames without times.
    """
    indexed = len(stream.index_entries)
    rows = _read_rows(container, stream)
    damage = _damage(container, stream, rows, indexed)
    if hides_videos(path, container.format.name):
        damage = damage or f"several videos joined end to end, of which players show the first; {HOW_TO_JOIN}"
    rows = _without_tail(container, rows)
    if not len(rows):
        raise BadClipError(damage or "no frames in it")
    if stream.time_base is None:
        raise BadClipError("its frames carry times without a unit")
    tick = float(stream.time_base)
    untimed = _is_untimed(container, stream, rows)
    own = rows[:, PTS].copy()
    rows = _corrected(container, stream, rows, tick, untimed=untimed)
    joins = _joins(container, rows, tick)
    times = _strung(rows, joins)
    shown = (rows[:, FLAW] & DISCARD == 0) & (times != UNKNOWN)
    pts = np.unique(times[shown])
    if not len(pts):
        raise BadClipError(damage or "no frames in it")
    changed = bool((times != own).any())
    end = _end(stream, pts, times[shown] + rows[shown, DURATION], changed=changed)
    flawed = is_recording(container) and bool((rows[:, FLAW] & CORRUPT).any())
    if changed or untimed or joins or flawed or container.format.name == "mpeg":  # its times after seeking are guesses
        marks = np.stack([np.where(rows[:, PLACE] == UNKNOWN, rows[:, DTS], rows[:, PLACE]), rows[:, SIZE]], 1)
        keys = np.union1d([0], np.flatnonzero(rows[:, KEY]))
        lost = _lost(rows, joins)
        table = PacketTable(times, rows[:, DTS], marks, keys, frozenset(joins), lost, untimed)
        return Timeline(pts, tick, end, damage, table)
    return Timeline(pts, tick, end, damage)


def _read_rows(container: InputContainer, stream: VideoStream) -> Rows:
    columns = array("q")
    for packet in container.demux(stream):
        if packet.size:
            flaw = DISCARD * packet.is_discard + CORRUPT * packet.is_corrupt
            known = (_known(packet.pts), _known(packet.dts), _known(packet.pos))
            columns.extend((*known, packet.size, packet.duration or 0, packet.is_keyframe, flaw))
    return np.frombuffer(columns, np.int64).reshape(-1, 7)


def _known(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _without_tail(container: InputContainer, rows: Rows) -> Rows:
    """Returns the packets without a last one that is not whole; of a recording, without what hangs on such a one."""
    (flawed,) = np.nonzero(rows[:, FLAW] & CORRUPT)
    if is_recording(container):
        (keys,) = np.nonzero(rows[:, KEY])
        flawed = flawed[flawed >= keys.max(initial=0)]
        return rows[: flawed[0]] if len(flawed) else rows
    return rows[:-1] if len(flawed) and flawed[-1] == len(rows) - 1 else rows


def _damage(container: InputContainer, stream: VideoStream, rows: Rows, indexed: int) -> str:
    """Returns which frames are not there because the file was cut off; empty when all are.

    What is stored may differ from what is shown (edit lists, dropped frames), so the index counts, not the header.

    Args:
        container: the opened file.
        stream: its video.
        rows: its packets.
        indexed: the entries that its index had before they were read.
    """
    if is_recording(container):
        return ""  # made to be switched on and off at any time
    partial = bool(len(rows) and rows[-1, FLAW] & CORRUPT)
    count, entries = len(rows), stream.index_entries
    if count - partial < len(entries):
        if partial or any(entry.pos + entry.size > container.size for entry in entries):
            stated = stream.frames if container.format.name == "avi" else len(entries)
            return f"cut off: {min(count, stated - 1)} of the {stated} frames it states are there"
    elif container.format.name == "avi" and indexed < count and count and rows[-1, DTS] + 1 < stream.frames:
        return f"cut off: {count} of the {stream.frames} frames it states are there"
    return f"cut off after {count - 1} frames" if partial else ""


def _corrected(container: InputContainer, stream: VideoStream, rows: Rows, tick: float, *, untimed: bool) -> Rows:
    """Returns the packets with the times that a player gives them, where those that they carry are not to be trusted.

    Raises:
        BadClipError: there are no times.
    """
    name, codec = container.format.name, stream.codec_context
    times = rows[:, PTS]
    if name in SHORTEST_DELAY:
        delays = rows[:, DURATION]
        usual = round(USUAL_DELAY / tick)
        delays = np.where(delays * tick < SHORTEST_DELAY[name] - 1e-9, usual, delays)
        return _with_times(rows, times[0] + np.cumsum(delays) - delays, delays)
    if (rows[:, [PTS, DTS]] == UNKNOWN).all():
        if name in UNTIMED:
            raise BadClipError(
                f"a raw {codec.name} stream carries no times and cannot be searched; put it into a container first, "
                f"such as: ffmpeg -framerate 24 -i FILE -c copy FILE.mp4"
            )
        raise BadClipError("its frames carry no times")
    if (times == UNKNOWN).any():
        return _with_times(rows, _decoded_times(container, stream, rows))
    return _with_times(rows, np.sort(rows[:, DTS])) if untimed else rows


def _is_untimed(container: InputContainer, stream: VideoStream, rows: Rows) -> bool:
    """Returns whether frames that change places are stored without the times at which they are shown."""
    context, times = stream.codec_context, rows[:, [PTS, DTS]]
    if context.name not in ("h264", "hevc") or not context.reorder_depth or (times == UNKNOWN).any():
        return False
    if is_recording(container):  # whose containers have places for both times, and whose clocks may begin anew
        return False
    return container.format.name == "avi" or bool((times[:, 0] == times[:, 1]).all())


def _with_times(rows: Rows, times: Int[np.ndarray, " M"], durations: Int[np.ndarray, " M"] | None = None) -> Rows:
    rows = rows.copy()
    rows[:, PTS] = times
    if durations is not None:
        rows[:, DURATION] = durations
    return rows


def _decoded_times(container: InputContainer, stream: VideoStream, rows: Rows) -> Int[np.ndarray, " M"]:
    """Returns the times of the packets that the decoder works out, which decodes all; UNKNOWN without a frame.

    Raises:
        BadClipError: it cannot, either.
    """
    rewind(container)
    stream.codec_context.copy_opaque = True
    times, number = np.full(len(rows), UNKNOWN), 0
    for packet in container.demux(stream):
        packet.opaque = [number]  # an object of its own: PyAV 18 tells them apart by their addresses
        number += bool(packet.size)
        for frame in packet.decode():
            if frame.pts is None or not isinstance(frame.opaque, list):
                raise BadClipError("its frames carry no times")
            if frame.opaque[0] < len(times):
                times[frame.opaque[0]] = frame.pts
    return times


def _joins(container: InputContainer, rows: Rows, tick: float) -> list[int]:
    """Returns the packets with which another recording begins, because the clock jumps there."""
    (timed,) = np.nonzero(rows[:, DTS] != UNKNOWN)
    gaps = np.diff(rows[timed, DTS])
    recording = is_recording(container)
    jumps = gaps < (0 if recording else -FALL / tick)
    if recording:
        jumps |= gaps > JUMP / tick
    return timed[1:][jumps].tolist()


def _strung(rows: Rows, joins: list[int]) -> Int[np.ndarray, " M"]:
    """Returns the times of the packets, every recording beginning where the one before ends."""
    times = rows[:, PTS].copy()
    end = None
    for start, stop in pairwise((0, *joins, len(rows))):
        part = slice(start, stop)
        known = times[part] != UNKNOWN
        if not known.any():
            continue
        if end is not None:
            times[part][known] += end - times[part][known].min()
        own = np.unique(times[part][known])
        usual = int(np.median(np.diff(own))) if len(own) > 1 else 0
        end = int(own[-1]) + (usual or int(rows[part, DURATION].max()) or 1)
    return times


def _end(stream: VideoStream, pts: Int[np.ndarray, " N"], ends: Int[np.ndarray, " N"], *, changed: bool) -> int:
    """Returns when the last frame has been shown: as its packet says, or else a usual gap later."""
    usual = int(np.median(np.diff(pts))) if len(pts) > 1 else 0
    end = int(ends.max())
    if not changed and stream.duration and stream.start_time is not None:
        stated = stream.start_time + stream.duration
        end = stated if end > stated + usual // 2 else end  # durations in mp4 are of decoding; those stated are rounded
    return end if end > pts[-1] else int(pts[-1]) + max(usual, 1)


def _lost(rows: Rows, joins: list[int]) -> frozenset[int]:
    """Returns the packets of a recording that are not whole: marked so, and not because another begins there."""
    (marked,) = np.nonzero(rows[:, FLAW] & CORRUPT)
    (keys,) = np.nonzero(rows[:, KEY])
    seams = np.concatenate([keys, np.array(joins, np.int64)])
    return frozenset(int(place) for place in marked if not ((seams > place) & (seams <= place + SEAM)).any())
