"""Video files from folders, files, patterns and lists, as people have them; and hashes of their contents.

- A folder: every clip in it and in its subfolders, whatever lists are there; `video.clip_files` says what is a clip.
- A pattern such as `clips/**/*.mp4`, expanded here where the shell has not; folders that match count as folders.
- A list of names, with captions or without: `video.list_files` says what it may look like, `video.list_places` where
  its names start.
- Anything else that is a file is taken for a video, whatever its name.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxmotion.video.clip_files import SUFFIXES, Identities, is_left_out, say_odd_names, walk_folders
from jaxmotion.video.list_files import LISTS
from jaxmotion.video.list_places import read_list

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
    identities = Identities()
    for path in paths:
        for video in _videos_of(path):
            found.setdefault(identities.of(os.path.abspath(video)), video)
    if not found:
        raise ValueError(f"No video in {', '.join(paths)}: looked for files ending in {', '.join(SUFFIXES)}.")
    say_odd_names(list(found.values()))
    return list(found.values())


def content_hash(path: str) -> str:
    """Returns 32 hex digits that tell the contents of two files apart.

    Source: BLAKE2b (RFC 7693) of the file's size and bytes; of a file above 16 MiB, of 16 blocks of 1 MiB spread evenly
    from the first to the last, so that a folder of long films is known again in seconds.
    """
    there = os.stat(path)
    if not stat.S_ISREG(there.st_mode):
        raise ValueError("it is a folder, a pipe or a device, and no file")
    size = there.st_size
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
    return [video for _, video in read_list(path)]


def _videos_of(path: str) -> Iterator[str]:
    """Yields the videos of one argument."""
    if os.path.isdir(path):
        yield from _videos_in(path)
    elif not os.path.exists(path) and glob.has_magic(path):
        plain = os.path.dirname(path[: next(place for place, letter in enumerate(path) if letter in "*?[")])
        for match in sorted(glob.glob(path, recursive=True)):
            if not any(map(is_left_out, os.path.relpath(match, plain or os.curdir).split(os.sep))):
                yield from _videos_in(match) if os.path.isdir(match) else (match,)
    elif os.path.isfile(path) and path.lower().endswith(LISTS):
        yield from listed_videos(Path(path))
    else:
        yield path


def _videos_in(folder: str) -> Iterator[str]:
    """Yields the clips of a folder and its subfolders."""
    for place in walk_folders(folder):
        yield from (os.path.join(place.path, name) for name in place.clips)
