"""Finds the files that a list names: where its names start, and how they are spelled.

Names start at `root`; without one, at the nearest of these folders in which any of them is: the list's own, one of its
subfolders, the working directory, the folder above the list's, one of that one's subfolders. Of several subfolders it
is the one with most of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxmotion.video.clip_files import SUFFIXES
from jaxmotion.video.list_files import Row, find_file, read_names, read_table

TRIAL = 20
"""So many names of a list are looked for to find out where they start, spread evenly over it."""
COMMENT = "#"
log = logging.getLogger(__name__)


def read_list(path: Path, root: str | None = None) -> list[tuple[Row, str]]:
    """Reads a list file; returns its rows with the paths of their files, whether there are such files or not.

    A line of a .txt that begins with # is a name if there is such a file, and else a comment, which is said.

    Raises:
        ValueError: it cannot be read, or names no clip.
    """
    if path.suffix.lower() != ".txt":
        return locate(read_table(path), str(path), root)
    rows = read_names(path)
    names = [row for row in rows if not row.names[0].startswith(COMMENT)]
    start = start_folder(names or rows, str(path), root)
    comments = [row for row in rows if row.names[0].startswith(COMMENT) and find_file(start, row) is None]
    if comments:
        such = f"{comments[0].place}: {comments[0].names[0]!r:.80}"
        what = f"{len(comments)} lines that begin with {COMMENT} name no file and are taken for comments"
        log.warning("%s: %s, such as %s.", path, what, such)
    left = {id(row) for row in comments}
    kept = [(row, _path_in(start, row)) for row in rows if id(row) not in left]
    if not kept:
        raise ValueError(f"{path} lists no clip.")
    return kept


def locate(rows: Sequence[Row], listed_in: str, root: str | None = None) -> list[tuple[Row, str]]:
    """Returns the rows of a list with the paths of their files, whether there are such files or not."""
    start = start_folder(rows, listed_in, root)
    return [(row, _path_in(start, row)) for row in rows]


def start_folder(rows: Sequence[Row], listed_in: str, root: str | None = None) -> str:
    """Returns the folder at which the names of a list start; the list's own when none holds any."""
    own = os.path.dirname(listed_in)
    if root is not None:
        return root
    trial = [rows[index * len(rows) // TRIAL] for index in range(TRIAL)] if len(rows) > TRIAL else rows
    above = os.path.join(own, os.pardir)
    groups: tuple[Callable[[], Sequence[str]], ...] = (
        *(lambda: [own], lambda: _subfolders(own), lambda: [""]),
        *(lambda: [above], lambda: _subfolders(above)),
    )
    for number, places in enumerate(groups):
        counts = {place: sum(find_file(place, row) is not None for row in trial) for place in places()}
        if any(counts.values()):
            found = max(counts, key=lambda place: counts[place])
            if number > 1:
                log.warning("%s: none of its names is in its folder; they start at %s.", listed_in, found or os.curdir)
            return found
    return own


def _path_in(start: str, row: Row) -> str:
    """Returns the path of a row's file. Plain names are not looked up: what reads the clips says which are missing."""
    name = row.names[0]
    plain = name.isascii() and "\\" not in name and name == name.strip() and name.lower().endswith(SUFFIXES)
    if plain and len(row.names) == 1:
        return os.path.join(start, name)
    return find_file(start, row) or os.path.join(start, name)


def _subfolders(folder: str) -> list[str]:
    try:
        found = sorted(entry.path for entry in _folders(folder))
    except OSError:
        return []
    return [os.path.normpath(path) for path in found]


def _folders(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder or os.curdir) as entries:
        yield from (entry for entry in entries if entry.is_dir())
