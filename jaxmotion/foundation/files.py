"""Atomic writing of files and folders, the address of a file, and names of files that somebody else gives.

Files and folders are written under a temporary name beside their destination, which has the form `PART`, and take its
place at the end; when something goes wrong the temporary one is removed and the destination stays as it was.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART = r"\..+\.[0-9a-f]{8}\.part"
"""Regular expression for the temporary names; only a process that was killed leaves such a file or folder behind."""

TOKENIZER_CONFIG, TOKENIZER_FILES = "tokenizer_config.json", ("vocab_file", "merges_file", "tokenizer_file")
"""A tokenizer's settings, and the fields in them that `transformers` opens wherever they lead."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields the path to write to, a temporary file that replaces `path` when the block ends without an error.

    Folders on the way to `path` are made. The temporary name ends in `.part`: tell a writer that looks at suffixes the
    format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder to write into, which becomes `path` when the block ends without an error.

    Raises:
        FileExistsError: `path` is there and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; give a folder that is not, or an empty one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary(path)
    part.mkdir()
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def file_url(path: str | Path) -> str:
    """Returns a file's address for FFmpeg, which takes a bare name with a colon (`12:30.mp4`) for a protocol."""
    return f"file:{path}"


def is_file_name(name: object) -> bool:
    """Returns whether a value from somebody else's file is the name of one file, which leads to no other folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file of ours.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or only a part of it; the message names the file and the place.
    """
    remedy = "Put a copy of the file there, or mend that place."
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: byte {error.start} is no text in UTF-8. {remedy}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(f"{path} is damaged or only half written ({where}). {remedy}") from error


def check_file_names(path: Path, fields: Iterable[str]) -> None:
    """Raises ValueError if a JSON file, which may not be there, sends its reader to a file in another folder."""
    values = read_json(path) if path.is_file() else {}
    for field in fields:
        if values.get(field) is not None and not is_file_name(values[field]):
            raise ValueError(f"{path}: {field} {values[field]!r} leads to another folder; remove that field.")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
