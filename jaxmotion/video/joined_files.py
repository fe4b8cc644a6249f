"""Files that hold several videos end to end, of which FFmpeg and most players read the first only."""

from __future__ import annotations

import os
from typing import BinaryIO

FLV_HEADERS = tuple(b"FLV\x01" + bytes([streams]) + b"\x00\x00\x00\x09\x00\x00\x00\x00" for streams in (1, 4, 5))
BLOCK = 2**20


def hides_videos(path: str, kind: str) -> bool:
    """Returns whether another video follows the first in a file of a kind in which it would not be read.

    Args:
        path: the file.
        kind: FFmpeg's name of the container.
    """
    if "mp4" not in kind and kind != "flv":
        return False
    with open(path, "rb") as file:
        return _has_second_header(file) if kind == "flv" else _count_movies(file) > 1


def _count_movies(file: BinaryIO) -> int:
    """Counts the movie boxes on the highest level. Source: ISO/IEC 14496-12, section 4.2."""
    size, place, movies = os.fstat(file.fileno()).st_size, 0, 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        movies += kind == b"moov"
        if length == 1:
            length = int.from_bytes(head[8:16])
        if length < 8:  # 0: up to the end of the file
            break
        place += length
    return movies


def _has_second_header(file: BinaryIO) -> bool:
    longest = len(FLV_HEADERS[0]) - 1
    rest = file.read(longest + 1)[1:]
    while block := file.read(BLOCK):
        if any(header in rest + block for header in FLV_HEADERS):
            return True
        rest = block[-longest:]
    return False
