"""Lists clips and their captions from the forms in which data sets of videos come.

- A Hugging Face video folder: `metadata.jsonl` or `metadata.csv` with `file_name` and a caption, in the folder or
  its subfolders.
- A WebVid csv with `videoid`, `name` (the caption) and `page_dir`: the clip is `page_dir/videoid.mp4`.
- `a.mp4` beside `a.txt`.
- A bare folder of clips, whose captions are empty.

A list file can also be given itself. Its names start at `root`; without one, at the one of these folders that holds
most of them: the file's own, its subfolders, the one above, that one's subfolders.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxmotion.foundation.config_json import Json

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif")
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTIONS = ("caption", "text", "prompt", "name", "description")
WEBVID = ("videoid", "page_dir")
LOOKED_FOR = (
    f"{METADATA[0]} or {METADATA[1]} with 'file_name' and a caption, a WebVid csv with 'videoid', 'name' and "
    f"'page_dir', or clips ending in {', '.join(SUFFIXES)} with or without a .txt of the same name"
)
ROOT_TRIAL = 20


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A clip as it is listed: a short name that is the same in every form of the list, the file, and the caption."""

    id: str
    path: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """The clips that were found, in the order of their ids, and the form of their list."""

    form: str
    files: tuple[ClipFile, ...]


def list_clips(path: Path, root: Path | None = None) -> Listing:
    """Lists the clips of a folder or of a list file.

    Args:
        path: the folder or the file.
        root: where the names in a list file start; see the top for what happens without one.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: nothing there that is known, or a list that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"Clips are looked for in {path}, and there is no such file or folder.")
    if path.is_file():
        return _listing(path.name, _resolve(_read_list(path), path, root))
    for lists in (
        _existing_files(path, METADATA),
        *(_existing_files(folder, METADATA) for folder in _subfolders(path)),
    ):
        if lists:
            found = [
                lists[0],
                *(each for folder in _subfolders(path) for each in _existing_files(folder, METADATA)[:1]),
            ]
            entries = [entry for each in dict.fromkeys(found) for entry in _resolve(_read_list(each), each, root)]
            return _listing(", ".join(str(each.relative_to(path)) for each in dict.fromkeys(found)), entries)
    for each in sorted(path.glob("*.csv")):
        if set(WEBVID) <= set(_csv_columns(each)):
            return _listing(each.name, _resolve(_read_list(each), each, root))
    return _list_folder(path)


def _listing(form: str, entries: Iterable[tuple[Path, str]]) -> Listing:
    """Names every clip by its path below the folder that all of them share, without the suffix."""
    found = {Path(os.path.abspath(path)): caption for path, caption in entries}
    if not found:
        raise ValueError(f"{form} lists no clip.")
    shared = Path(os.path.commonpath([path.parent for path in found]))
    names = {path: path.relative_to(shared).with_suffix("").as_posix() for path in found}
    if len(set(names.values())) < len(names):  # a.mp4 beside a.mov
        names = {path: path.relative_to(shared).as_posix() for path in found}
    files = [ClipFile(names[path], str(path), caption) for path, caption in found.items()]
    return Listing(form, tuple(sorted(files, key=lambda file: file.id)))


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Reads the names and captions of a list file, as they stand there."""
    rows = list(_json_list(path) if path.suffix == ".jsonl" else _csv_rows(path))
    if not rows:
        raise ValueError(f"{path} lists no clip.")
    columns = list(rows[0])
    caption = next((name for name in CAPTIONS if name in columns), None)
    if caption is None:
        raise ValueError(f"{path} has no caption column; its columns are {columns}, looked for {', '.join(CAPTIONS)}.")
    if "file_name" in columns:
        return [(_value(path, row, "file_name"), str(row.get(caption) or "")) for row in rows]
    if set(WEBVID) <= set(columns):
        names = [f"{_value(path, row, 'page_dir')}/{_value(path, row, 'videoid')}.mp4" for row in rows]
        return [(name, str(row.get(caption) or "")) for name, row in zip(names, rows, strict=True)]
    raise ValueError(f"{path} has the columns {columns}; a list of clips has 'file_name', or 'videoid' and 'page_dir'.")


def _value(path: Path, row: Mapping[str, object], column: str) -> str:
    if not row.get(column):
        raise ValueError(f"{path}: the entry {dict(row)} has no {column!r}.")
    return str(row[column])


def json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Json]]:
    """Yields the objects of JSON lines with the numbers of their lines, from 1; empty lines are left out.

    Args:
        path: where the lines are from, for messages.

    Raises:
        ValueError: a line is no JSON object.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object but {row!r}.")
        yield number, row


def _json_list(path: Path) -> Iterator[Json]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from (row for _, row in json_rows(path, lines))


def _csv_rows(path: Path) -> Iterator[Mapping[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a list of clips (.jsonl or .csv): {error}.") from error


def _csv_columns(path: Path) -> Sequence[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _resolve(entries: list[tuple[str, str]], listed_in: Path, root: Path | None) -> list[tuple[Path, str]]:
    start = root if root is not None else _root_of([name for name, _ in entries[:ROOT_TRIAL]], listed_in)
    return [(start / name, caption) for name, caption in entries]


def _root_of(names: Sequence[str], listed_in: Path) -> Path:
    """Returns the folder that holds most of these names; the list's own folder when none holds any."""
    own = Path(os.path.abspath(listed_in)).parent
    places = [own, *_subfolders(own), own.parent, *_subfolders(own.parent)]
    return max(places, key=lambda place: sum((place / name).is_file() for name in names))


def _list_folder(folder: Path) -> Listing:
    clips = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not clips:
        raise ValueError(f"No clip in {folder}: looked for {LOOKED_FOR}.")
    texts = {clip: clip.with_suffix(".txt") for clip in clips}
    captioned = {clip for clip, text in texts.items() if text.is_file()}
    captions = [_read_text(texts[clip]) if clip in captioned else "" for clip in clips]
    form = f"clips, {len(captioned)} of {len(clips)} with a .txt" if captioned else "clips without captions"
    return _listing(form, zip(clips, captions, strict=True))


def _read_text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} stands beside a clip and is not a text in UTF-8: {error}.") from error


def _existing_files(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except PermissionError:
        return []
