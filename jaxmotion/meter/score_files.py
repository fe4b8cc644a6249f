"""Video files from folders, files, patterns and lists, as people have them; and hashes of their contents.

- A folder: every video in it and in its subfolders; names that begin with a dot are left out.
- A pattern such as `clips/**/*.mp4`, expanded here where the shell has not; folders that match count as folders.
- A list: `.txt` with one path a line; `.csv` or `.jsonl` with a column of paths (see `COLUMNS`), or WebVid's. Paths in
  a list start at the one of these folders that holds most of them: the list's own, the working directory, the
  subfolders of the list's own, the one above, that one's subfolders.
- Anything else that is a file is taken for a video, whatever its name.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.video.listing import SUFFIXES, WEBVID, json_rows

COLUMNS = ("path", "file_name", "video_path", "file_path", "video", "file")
"""Columns of a list that hold a path; the first that is there counts."""
LISTS = (".txt", ".csv", ".jsonl")
TRIAL = 20
"""So many names of a list are looked for to find out where they start."""
BLOCK = 2**20
BLOCKS = 16
"""So many bytes and blocks make the hash of a large file."""


def find_videos(paths: Sequence[str]) -> list[str]:
    """Finds the videos that these folders, files, patterns and lists name, each once, in order.

    A path that does not exist is among them: what reads it says so. Paths begin as they were given.

    Raises:
        ValueError: there is no video at all, or a list cannot be read.
    """
    found: dict[str, str] = {}
    for path in paths:
        for video in _videos_of(path):
            found.setdefault(os.path.abspath(video), video)
    if not found:
        raise ValueError(f"No video in {', '.join(paths)}: looked for files ending in {', '.join(SUFFIXES)}.")
    return list(found.values())


def content_hash(path: str) -> str:
    """Returns 32 hex digits that tell the contents of two files apart.

    Source: BLAKE2b (RFC 7693) of the file's size and bytes; of a file above 16 MiB, of 16 blocks of 1 MiB spread evenly
    from the first to the last, so that a folder of long films is known again in seconds.
    """
    size = os.path.getsize(path)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    starts = range(0, size, BLOCK)
    if size > BLOCK * BLOCKS:
        starts = [(size - BLOCK) * block // (BLOCKS - 1) for block in range(BLOCKS)]
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def listed_videos(path: Path) -> list[str]:
    """Returns the path that each row of a list names, below the folder in which the list's paths start.

    Raises:
        ValueError: it cannot be read, or names no video.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of videos: it is no text in UTF-8 ({error}).") from error
    if path.suffix.lower() == ".txt":
        names = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    else:
        rows = csv.DictReader(text.splitlines()) if path.suffix.lower() == ".csv" else json_objects(path, text)
        names = [_name(path, row) for row in rows]
    if not names:
        raise ValueError(f"{path} lists no video.")
    start = _start_folder(names[:TRIAL], path)
    return [os.path.join(start, name) for name in names]


def json_objects(path: Path, text: str) -> list[Json]:
    """Returns the objects in the text of a file of JSON lines.

    Raises:
        ValueError: a line is no JSON object.
    """
    return [row for _, row in json_rows(path, text.split("\n"))]


def _videos_of(path: str) -> Iterator[str]:
    """Yields the videos of one argument."""
    if os.path.isdir(path):
        yield from _videos_in(path)
    elif not os.path.exists(path) and glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):
            yield from _videos_in(match) if os.path.isdir(match) else (match,)
    elif os.path.isfile(path) and path.lower().endswith(LISTS):
        yield from listed_videos(Path(path))
    else:
        yield path


def _videos_in(folder: str) -> Iterator[str]:
    """Yields the videos of a folder and its subfolders; links are followed, never in circles."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def _start_folder(names: Sequence[str], listed_in: Path) -> str:
    """Returns the folder that holds most of these names; the list's own when none holds any."""
    own = os.path.dirname(str(listed_in))
    above = os.path.join(own, os.pardir)
    places = [own, "", *_subfolders(own), above, *_subfolders(above)]
    return max(places, key=lambda place: sum(os.path.isfile(os.path.join(place, name)) for name in names))


def _subfolders(folder: str) -> list[str]:
    try:
        found = sorted(entry.path for entry in os.scandir(folder or os.curdir) if entry.is_dir())
    except PermissionError:
        return []
    return [os.path.normpath(path) for path in found]


def _name(path: Path, row: Mapping[str, object]) -> str:
    """Returns the path that a row of a list names."""
    if set(WEBVID) <= set(row):
        return f"{row['page_dir']}/{row['videoid']}.mp4"
    for column in COLUMNS:
        if row.get(column):
            return str(row[column])
    raise ValueError(f"{path}: the entry {dict(row)} names no video; a list has one of {', '.join(COLUMNS)}.")
