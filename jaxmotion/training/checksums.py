"""Checksums of checkpoints: written as their last file, verified before they are read.

`checksums.json` in a folder has the length and the BLAKE2b digest of the other files in it. Folders of earlier
versions have none; what can be seen without (files that are missing or cut) is found in them, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

from jaxmotion.foundation.files import atomic_file, is_file_name

CHECKSUMS = "checksums.json"
_TREE = "_METADATA"
"""Where Orbax describes the arrays of a folder."""
_WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files of Orbax at the top of a checkpoint that get their content after everything else; parameters need neither."""
_JSON = ("*.json", _TREE, "_CHECKPOINT_METADATA", "meta/metadata")


class _Sum(TypedDict):
    """Length in bytes and digest of one file."""

    bytes: int
    blake2b: str


def write_checksums(folder: Path) -> None:
    """Writes the checksums of the files in a folder into it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (str(path.relative_to(folder)) for path in files)
    sums = {name: _sum(folder / name) for name in names if name not in (CHECKSUMS, *_WRITTEN_LAST)}
    with atomic_file(folder / CHECKSUMS) as part:
        part.write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path, parts: Collection[str] = ()) -> str | None:
    """Returns what is wrong with a folder in words, such as `trained/d/0a1b was changed`, or None.

    Args:
        parts: names of the subfolders to be looked at; none: everything.
    """
    if not folder.is_dir():
        return "the folder is missing"
    return _differing_file(folder, parts) if (folder / CHECKSUMS).is_file() else _visible_damage(folder, parts)


def _differing_file(folder: Path, parts: Collection[str]) -> str | None:
    try:
        sums: dict[str, _Sum] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        wanted = {name: each for name, each in sums.items() if not parts or name.split("/")[0] in parts}
        for name in wanted:
            if not all(map(is_file_name, name.split("/"))):
                return f"{CHECKSUMS} names {name!r}, which is no file in it"
        for name, each in sorted(wanted.items(), key=lambda item: item[1]["bytes"]):  # what is found soon comes first
            if not (folder / name).is_file():
                return f"{name} is missing"
            size = (folder / name).stat().st_size
            if size != each["bytes"]:
                return f"{name} has {size} bytes and was written with {each['bytes']}"
            if _sum(folder / name) != each:
                return f"{name} is not what was written: its checksum differs"
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON, or JSON of another form
        return f"{CHECKSUMS} cannot be read ({error})"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None


def _visible_damage(folder: Path, parts: Collection[str]) -> str | None:
    """Returns what is wrong with a folder that has no checksums."""
    for path in sorted({path for pattern in _JSON for path in folder.rglob(pattern)}):
        name = path.relative_to(folder)
        if parts and name.parts[0] not in parts:
            continue
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"{name} is cut or damaged ({error})"
        if path.name == _TREE and not (path.parent / "manifest.ocdbt").is_file():
            return f"{name.with_name('manifest.ocdbt')} is missing"
    needed = parts or (("trained", "meta", "data") if folder.name.isdigit() else ())  # of a step, or of `frozen`
    missing = [name for name in needed if not (folder / name).is_dir()]
    return f"{missing[0]} is missing" if missing else None


def _sum(path: Path) -> _Sum:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, _digest).hexdigest()}


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
