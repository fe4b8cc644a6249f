"""Measures written clips with a motion meter, by the Python call or by the command's way through files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from benchmarks.physics.clip import Clip
from benchmarks.physics.files import read_frames
from jaxmotion.meter import meter as meters
from jaxmotion.meter import tool, windows
from jaxmotion.meter.estimate import Clip as MeterClip
from jaxmotion.meter.estimate import IdentifiedMeter
from jaxmotion.meter.sinks import Record
from jaxmotion.video import motion_scale

AT_A_TIME = 16
"""Files that the command's way is given at a time; what is measured is kept after each such group."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A meter's estimate for a clip: scores, and how sure it is."""

    object: float
    camera: float
    confidence: float
    move: str


def measure(
    clips: Sequence[Clip], files: Sequence[Path], meter: IdentifiedMeter, progress: TextIO
) -> Iterator[tuple[int, Measurement]]:
    """Yields the index of a clip and its measurement, for all clips.

    Raises:
        ValueError: a file cannot be measured.
    """
    by_command = [index for index, clip in enumerate(clips) if clip.by == "command"]
    with tqdm(total=len(clips), desc="measuring", unit="clip", file=progress) as bar:
        for start in range(0, len(by_command), AT_A_TIME):
            group = by_command[start : start + AT_A_TIME]
            yield from zip(group, _by_command([files[index] for index in group], meter), strict=True)
            bar.update(len(group))
        for index, clip in enumerate(clips):
            if clip.by == "call":
                yield index, by_call(clip, files[index], meter)
                bar.update()


def measure_with_records(
    clips: Sequence[Clip], files: Sequence[Path], meter: IdentifiedMeter, record: Path, progress: TextIO
) -> list[Measurement]:
    """Returns the measurements of all clips; those that an earlier run wrote into the record are not made again."""
    known: dict[str, Measurement] = {}
    for line in record.read_text().splitlines() if record.exists() else ():
        row = json.loads(line)
        if row["meter"] == meter.name:
            known[row["file"]] = Measurement(**row["measured"])
    keys = [f"{file.name} {file.stat().st_mtime_ns}" for file in files]
    missing = [index for index, key in enumerate(keys) if key not in known]
    with record.open("a") as lines:
        found = measure([clips[index] for index in missing], [files[index] for index in missing], meter, progress)
        for place, measured in found:
            key = keys[missing[place]]
            known[key] = measured
            row = {"file": key, "meter": meter.name, "measured": dataclasses.asdict(measured)}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
    return [known[key] for key in keys]


def by_call(clip: Clip, file: Path, meter: IdentifiedMeter) -> Measurement:
    """Measures the frames of a file as `jaxmotion.estimate_motion` does."""
    estimate = meter([MeterClip.at(read_frames(file), clip.fps)])[0]
    return Measurement(
        float(motion_scale.score(estimate.object_speed)),
        float(motion_scale.score(estimate.camera_speed)),
        estimate.confidence,
        estimate.move,
    )


def _by_command(files: Sequence[Path], meter: IdentifiedMeter) -> list[Measurement]:
    """Measures files as `python -m jaxmotion.score` does."""
    sink, quiet = _Memory({}), open("/dev/null", "w")  # noqa: SIM115
    spec = windows.WindowSpec(meters.FRAMES, motion_scale.STEP, meters.canvas)
    with quiet:
        summary = tool.score_videos([str(file) for file in files], meter, sink, spec=spec, progress=quiet)
    if summary.bad:
        raise ValueError(f"Clips that cannot be measured: {summary.bad}")
    records = [sink.records[str(file)] for file in files]
    return [Measurement(row["object"], row["camera"], row["confidence"], row["move"]) for row in records]


@dataclasses.dataclass(frozen=True)
class _Memory:
    """A sink that keeps records by path."""

    records: dict[str, Record]

    def records_of(self, digest: str) -> list[Record]:
        """Returns nothing: every file is measured."""
        return []

    def add(self, record: Record) -> None:
        """Keeps a record."""
        self.records[record["path"]] = record
