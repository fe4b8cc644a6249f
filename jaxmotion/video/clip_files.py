"""What counts as a clip in a folder: the same for training, precomputing, scoring and labelling.

A clip is a file that ends in one of `SUFFIXES`, in capitals or not, in the folder or any folder below. Names that begin
with a dot (`._a.mp4` of macOS, `.ipynb_checkpoints`, `.Trash-1000`) and the folders of systems and bins in
`NOT_DATA` are left out, below the folder that was named. Links are followed, and every folder is gone through once:
linked ones last, so that clips have the names of the place where they are.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence

from jaxmotion.foundation.text_files import escape

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif"),
    *(".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".3g2", ".ogv", ".vob", ".mxf"),
)
NOT_DATA = (
    *("__macosx", "trash", "$recycle.bin", "recycler", "recycled", "#recycle", "@recycle", "lost+found"),
    *("system volume information", "@eadir", "#snapshot", "@recently-snapshot"),
)
"""Folders of operating systems, storage systems and bins, in small letters."""
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder and the names of the files in it, sorted; those that begin with a dot are left out."""

    path: str
    names: tuple[str, ...]

    @property
    def clips(self) -> list[str]:
        """Names of the clips."""
        return [name for name in self.names if is_clip_name(name)]


def is_clip_name(name: str) -> bool:
    """Returns whether a file of this name is a clip."""
    return name.lower().endswith(SUFFIXES) and not is_left_out(name)


def is_left_out(name: str) -> bool:
    """Returns whether a file or a folder of this name is no data."""
    return name.startswith(".") or name.casefold() in NOT_DATA


def walk_folders(folder: str) -> Iterator[Folder]:
    """Yields a folder and those below, each once; says which could not be looked into, and which are left out."""
    seen: set[tuple[int, int]] = set()
    left_out: list[str] = []
    waiting, linked = [folder], []
    while waiting or linked:
        place = waiting.pop() if waiting else linked.pop(0)
        try:
            there = os.stat(place)
            if (there.st_dev, there.st_ino) in seen:
                continue
            seen.add((there.st_dev, there.st_ino))
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            log.warning("%s cannot be looked into: %s.", place, error.strerror or error)
            continue
        folders = [entry for entry in found if _is_folder(entry)]
        left_out += [entry.path for entry in folders if entry.name.casefold() in NOT_DATA]
        kept = [entry for entry in folders if not is_left_out(entry.name)]
        waiting += [entry.path for entry in reversed(kept) if not entry.is_symlink()]
        linked += [entry.path for entry in kept if entry.is_symlink()]
        names = [entry.name for entry in found if not _is_folder(entry) and not is_left_out(entry.name)]
        yield Folder(place, tuple(names))
    if left_out:
        names = sorted({os.path.basename(place) for place in left_out})
        log.warning("%s: %d folders of systems and bins are no data: %s.", folder, len(left_out), ", ".join(names))


def say_odd_names(paths: Sequence[str]) -> None:
    """Says which names are not UTF-8 and how they are written from then on; such files are used as others are."""
    odd = [path for path in paths if escape(path) != path]
    if odd:
        log.warning("The names of %d files are not UTF-8; they are written like %s.", len(odd), escape(odd[0]))


class Identities:
    """Tells whether two paths are the same file in the same folder, however they are spelled.

    Links to folders are resolved; links to files are not: they are clips with names of their own.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Returns a path that is the same for all spellings of one."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
