"""Outputs for scores: a file of JSON lines that survives being stopped, Parquet, or a data set's own metadata.jsonl."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_file
from jaxmotion.foundation.text_files import escape, json_line, json_rows, read_utf8, whole_rows
from jaxmotion.meter.score_files import listed_videos
from jaxmotion.video.clip_files import Identities
from jaxmotion.video.score_lists import MOTION, MOTION_SCORE

Record = Json
"""The scores of one clip as JSON values; the keys are listed in `python -m jaxmotion.score --help`."""

PARQUET = ".parquet"
UNIT = "1..10, log of frame diagonals per second (jaxmotion.video.motion_scale)"


class Sink(Protocol):
    """Takes the scores of clips as they come."""

    def records_of(self, digest: str) -> list[Record]:
        """Returns earlier records of a file with that content, the latest first."""
        ...

    def add(self, record: Record) -> None:
        """Takes the scores of a clip."""
        ...


class StdoutSink:
    """Prints every record as a line of JSON."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def records_of(self, digest: str) -> list[Record]:
        return []

    def add(self, record: Record) -> None:
        print(json_line(record), end="", file=self._stream, flush=True)


class ScoreFile:
    """A file of JSON lines, one for each clip, on the disk as soon as it is added.

    Records of a run that was stopped are read again; a last line that was cut off is dropped. A lock keeps other runs
    from writing the file meanwhile. Where a path has got a second record, `close` drops the first.
    """

    def __init__(self, path: Path, earlier: Iterable[Record] = ()):
        """`earlier` are records to begin a new file with.

        Raises:
            ValueError: the file holds something else than scores, or another run is writing it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        new = not path.exists()
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"Another run is writing {path}; wait for it or choose another file.") from error
        self._records = _read_whole_lines(self._file, path)
        self._by_hash: dict[str, list[Record]] = {}
        for record in self._records:
            self._by_hash.setdefault(record["hash"], []).insert(0, record)
        for record in earlier if new else ():
            self.add(record)

    @property
    def records(self) -> list[Record]:
        """Returns the latest record of every path."""
        return list({record["path"]: record for record in self._records}.values())

    def records_of(self, digest: str) -> list[Record]:
        return self._by_hash.get(digest, [])

    def add(self, record: Record) -> None:
        self._file.write(json_line(record).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._records.append(record)
        self._by_hash.setdefault(record["hash"], []).insert(0, record)

    def close(self) -> None:
        """Closes the file, after dropping records that later ones replace."""
        records = self.records
        if len(records) < len(self._records):
            with atomic_file(self.path) as part:
                part.write_bytes("".join(map(json_line, records)).encode())
        self._file.close()


class BadFiles:
    """A file of JSON lines with `path` and `reason` for the files that could not be scored.

    It is begun anew for the files of a run; lines about other files are kept. No bad files, no file.
    """

    def __init__(self, path: Path, videos: Iterable[str]):
        self.path = path
        scored = set(videos)
        earlier = whole_rows(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []
        kept = [row for row in earlier if {"path", "reason"} <= set(row) and row["path"] not in scored]
        path.unlink(missing_ok=True)
        for row in kept:
            self.add(row["path"], row["reason"])

    def add(self, path: str, reason: str) -> None:
        """Names a file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_line({"path": path, "reason": reason}))


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Writes a table of the records; entries that a record lacks are null.

    Raises:
        ValueError: pyarrow is not installed.
    """
    pyarrow, parquet = _parquet()
    text, number = pyarrow.string(), pyarrow.float64()
    scores = {"object": number, "camera": number, "move": text, "confidence": number}
    window = {"start": number, "end": number, **scores}
    columns = {"path": text, "object": number, "camera": number, "object_speed": number, "camera_speed": number}
    columns |= {"move": text, "confidence": number, "seconds": number, "fps": number}
    columns |= {"width": pyarrow.int32(), "height": pyarrow.int32(), "hash": text, "meter": text}
    columns |= {
        "sampled": pyarrow.int32(),
        "note": text,
        "windows": pyarrow.list_(pyarrow.struct(list(window.items()))),
    }
    rows = {escape(record["path"]): record for record in records}
    schema = pyarrow.schema(list(columns.items()))
    table = pyarrow.Table.from_pylist([{**record, "path": path} for path, record in rows.items()], schema)
    with atomic_file(path) as part:
        parquet.write_table(table, part)


def read_parquet(path: Path) -> list[Record]:
    """Returns the records of a table that `write_parquet` wrote; none when there is no such file."""
    _, parquet = _parquet()
    if not path.exists():
        return []
    rows = parquet.read_table(path).to_pylist()
    if rows and not {"path", "hash"} <= set(rows[0]):
        raise ValueError(f"{path} is a table of something else than scores; choose another file.")
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def add_to_metadata(path: Path, records: Iterable[Record]) -> int:
    """Writes scores into the rows of a data set's metadata.jsonl; returns the number of rows that got some.

    A row gets `"motion": {"object", "camera", "unit", "source"}`; other entries that `motion` has are kept. If `motion`
    is something else in any row, such as a word, it stays, and all rows get `motion_score` instead. Rows of clips
    without scores, other keys and their order stay as they are. The file is replaced as a whole.
    """
    text = read_utf8(path)
    rows = [row for _, row in json_rows(path)]
    taken = any(not isinstance(row.get(MOTION, {}), dict) for row in rows)
    key = MOTION_SCORE if taken else MOTION
    identities = Identities()
    scores = {identities.of(os.path.abspath(record["path"])): record for record in records}
    found = [scores.get(identities.of(os.path.abspath(video))) for video in listed_videos(path)]
    for row, record in zip(rows, found, strict=True):
        if record is not None:
            scores = {"object": record["object"], "camera": record["camera"], "unit": UNIT, "source": record["meter"]}
            row[key] = {**row.get(key, {}), **scores}
    with atomic_file(path) as part:
        lines = [json.dumps(row) + "\n" if text.isascii() else json_line(row) for row in rows]
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
    return sum(record is not None for record in found)


def check_metadata(path: Path) -> None:
    """Checks that scores can be written into a file.

    Raises:
        ValueError: it is no metadata.jsonl that names videos.
        OSError: it cannot be read.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is no .jsonl; scores are added to a metadata.jsonl whose rows have a file_name.")
    listed_videos(path)


@contextmanager
def open_sink(
    out: Path | None, metadata: Path | None, videos: Iterable[str]
) -> Iterator[tuple[Sink, Callable[[str, str], None]]]:
    """Yields the sink of the scores and the function that takes the bad files (path, reason) of a run.

    Args:
        out: a .jsonl, or a .parquet, which is written at the end; until then its lines are in OUT.part.jsonl, where the
            same command finds them again.
        metadata: scores are added to this file at the end; without `out`, their lines are in FILE.part.jsonl till then.
        videos: the paths that are asked for. With neither file, scores are printed.
    """
    final = out or metadata
    if final is None:
        yield StdoutSink(sys.stdout), _ignore
        return
    table = final.suffix == PARQUET
    earlier = read_parquet(final) if table else []
    lines = ScoreFile(final if out and not table else final.with_name(f"{final.name}.part.jsonl"), earlier)
    try:
        yield lines, BadFiles(bad_files_path(out), videos).add if out else _ignore
    finally:
        lines.close()
    if table:
        write_parquet(lines.records, final)
    if metadata is not None:
        add_to_metadata(metadata, lines.records)
    if lines.path != out:
        lines.path.unlink()


def bad_files_path(out: Path) -> Path:
    """Returns the path of the list of bad files: beside the scores."""
    return out.with_name(f"{out.stem}.bad.jsonl")


def _ignore(path: str, reason: str) -> None:
    """Does nothing: bad files are only named on stderr."""


def _read_whole_lines(file: BinaryIO, path: Path) -> list[Record]:
    """Reads the records of a file and cuts off what follows the last whole line."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        rows = [row for _, row in json_rows(path, whole.decode().split("\n"))]
    except UnicodeDecodeError:
        rows = [{}]
    if (data and not whole) or any(not {"path", "hash", "meter"} <= set(row) for row in rows):
        file.close()
        raise ValueError(
            f"{path} holds something else than scores; choose another file. To add scores to a data set's "
            "metadata.jsonl, use --metadata."
        )
    file.truncate(len(whole))
    return rows


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            "Parquet needs pyarrow: pip install 'jaxmotion[parquet]', or write .jsonl, which needs nothing."
        ) from error
    return pyarrow, parquet
