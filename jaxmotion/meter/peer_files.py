"""Files of other people's numbers: JSON, JSON lines, csv and tsv, with what must be known of their clips.

Forms, of which a file may have one:

    {"path": "a.mp4", "camera_movement_score": 0.4, ...}    a line of .jsonl, an entry of a .json array, a row of a .csv
    {"a.mp4": {"camera_movement_score": 0.4, ...}, ...}     .json by name
    {"camera_movement_score": [0.4, ...], ...}              .json by number, as Kandinsky's `inference` returns them;
                                                            "path": ["a.mp4", ...] beside them names the clips

What a number's unit needs of a clip (frame rate, size, duration) is taken from the row, else from the command line,
else from the clip itself where it is there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxmotion.foundation.config_json import Json, JsonValue
from jaxmotion.foundation.text_files import json_rows, read_utf8
from jaxmotion.meter.peers import Peer, Shape, Unit
from jaxmotion.video.container import BadClipError
from jaxmotion.video.decode import read_size, read_timeline
from jaxmotion.video.list_files import NAME_KEYS, csv_rows, names_in

FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
SHAPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "fps": ("fps", "frame_rate", "framerate", "framerate_source"),
    "width": ("width", "width_source"),
    "height": ("height", "height_source"),
    "seconds": ("seconds", "duration", "duration_seconds"),
}
"""Names under which rows say what must be known of a clip; those of `python -m jaxmotion.score` and of Curator."""
CURATOR_CLIP = "clip_location"
"""Name under which Curator's metadata name a clip."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """The numbers of one clip."""

    place: str
    """Where they stand, for messages."""
    clip: str
    """The clip's name; empty where the file does not say."""
    numbers: Mapping[str, float]
    shape: Shape


def read_numbers(path: Path, peer: Peer, key: str = "") -> list[Entry]:
    """Reads the numbers of a peer.

    Args:
        path: the file.
        peer: whose numbers they are.
        key: the name of the number in the file, if it is none of the usual ones; of peers with one number.

    Raises:
        ValueError: the file cannot be read, a row lacks a number or has something else in its place, a number is out of
            its range, or a clip is there twice. The message names the line.
    """
    keys = {name: (key,) if key else names for name, names in peer.keys.items()}
    entries = [
        entry
        for place, named, row in _rows(path, keys)
        for entry in _entries(f"{path}, {place}", named, row, peer, keys)
    ]
    if not entries:
        raise ValueError(f"{path} holds no numbers.")
    seen: dict[str, str] = {}
    for entry in entries:
        name = os.path.normpath(entry.clip) if entry.clip else ""
        if name and name in seen:
            raise ValueError(f"{entry.place}: {entry.clip} is there already, at {seen[name]}; leave one of them out.")
        seen[name] = entry.place
    return entries


def complete_shape(entry: Entry, peer: Peer, given: Shape, path: Path) -> Shape:
    """Returns what the peer's unit needs of a clip: from its row, from `given`, or from the clip itself.

    Args:
        entry: the clip's row.
        peer: whose number it has.
        given: what is known of all clips.
        path: the file of the row, beside which the clip is looked for.

    Raises:
        ValueError: it is nowhere.
    """
    needs = peer.unit.needs
    known = {name: value or getattr(given, name) for name, value in vars(entry.shape).items()}
    wanted = [need for need in needs if not known[need]]
    if not wanted:
        return Shape(**known)
    places = [place for place in (entry.clip, str(path.parent / entry.clip)) if entry.clip and os.path.isfile(place)]
    if not places:
        why = f"the clip {entry.clip} is not there" if entry.clip else "no clip is named"
        raise ValueError(
            f"{entry.place}: {peer.unit.name} are no speed without {', '.join(wanted)}, and {why}. Give "
            f"{' and '.join(options_of(peer.unit))}, or write them into the row."
        )
    try:
        read = read_shape(places[0])
    except BadClipError as error:
        raise ValueError(f"{entry.place}: {places[0]} cannot be read: {error}.") from error
    return dataclasses.replace(read, **{name: value for name, value in known.items() if value})


def read_shape(path: str) -> Shape:
    """Reads the frame rate, size and duration of a clip.

    Raises:
        BadClipError: it is no clip, or a damaged one.
    """
    timeline = read_timeline(path)
    first, count = float(timeline.seconds[0]), len(timeline.seconds)
    if count < 2:
        raise BadClipError("a single frame; motion needs at least 2")
    fps = (count - 1) / (float(timeline.seconds[-1]) - first)
    height, width = read_size(path)
    return Shape(fps, width, height, timeline.end_seconds - first)


def options_of(unit: Unit) -> list[str]:
    """Returns the options of the command line that say what a unit needs of a clip."""
    names = {"fps": "--fps", "width": "--size", "height": "--size", "seconds": "--seconds"}
    return list(dict.fromkeys(names[need] for need in unit.needs))


def _rows(path: Path, keys: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str, Json]]:
    """Yields the place, the clip's name where it is outside of the row, and the row."""
    ending = path.suffix.lower()
    if ending not in FILES:
        raise ValueError(f"{path} ends in none of {', '.join(FILES)}.")
    if ending in (".jsonl", ".ndjson"):
        yield from ((f"line {number}", "", row) for number, row in json_rows(path))
    elif ending == ".json":
        yield from _json_members(path, {name for names in keys.values() for name in names})
    else:
        numbers = {name for names in (*keys.values(), *SHAPE_KEYS.values()) for name in names}
        for number, row in csv_rows(path, {*NAME_KEYS, *numbers}, "\t" if ending == ".tsv" else ",\t;|"):
            yield f"line {number}", "", {name: _parse(text) if name in numbers else text for name, text in row.items()}


def _json_members(path: Path, keys: set[str]) -> Iterator[tuple[str, str, Json]]:
    """Yields the objects of a JSON file with the lines at which they begin, and their names where they have some."""
    text = read_utf8(path)
    try:
        found = json.loads(text, strict=False)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}{line} is not JSON: {error}.") from error
    if isinstance(found, dict) and (
        keys & _keys_of(found) or not any(isinstance(each, dict) for each in found.values())
    ):
        yield "line 1", "", found
        return
    if not isinstance(found, dict | list):
        raise ValueError(f"{path} is neither a JSON array nor an object but {found!r:.80}.")
    for line, name, row in _walk(text, named=isinstance(found, dict)):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {line} is not a JSON object but {row!r:.80}.")
        yield f"line {line}", name, row


def _walk(text: str, *, named: bool) -> Iterator[tuple[int, str, JsonValue]]:
    """Yields the lines, names and values of the members of an array or object; `text` is known to be JSON."""
    decoder = json.JSONDecoder(strict=False)
    at, line, counted = _skip(text, 0) + 1, 1, 0
    while text[at := _skip(text, at)] not in "]}":
        line, counted = line + text.count("\n", counted, at), at
        name = ""
        if named:
            name, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
        value, at = decoder.raw_decode(text, at)
        yield line, name, value


def _skip(text: str, at: int) -> int:
    """Returns the place of the next sign that is no space, comma or colon."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at


def _keys_of(row: Json) -> set[str]:
    """Returns the keys of a row and of the objects in it, those joined by a dot (`motion_score.global_mean`)."""
    return set(row) | {f"{key}.{inner}" for key, part in row.items() if isinstance(part, dict) for inner in part}


def _get(row: Json, key: str) -> JsonValue:
    outer, dot, inner = key.partition(".")
    if key in row or not dot:
        return row.get(key)
    part = row.get(outer)
    return part.get(inner) if isinstance(part, dict) else None


def _entries(place: str, named: str, row: Json, peer: Peer, keys: Mapping[str, tuple[str, ...]]) -> Iterator[Entry]:
    """Yields the entries of a row: one, or, where its numbers are lists, as many as these are long."""
    there = _keys_of(row)
    columns = {name: next((key for key in names if key in there), "") for name, names in keys.items()}
    for name, key in columns.items():
        if not key and name in peer.tells:
            wanted = " or ".join(repr(each) for each in keys[name])
            raise ValueError(f"{place} has no {wanted}; it has {', '.join(map(repr, row)) or 'no keys'}.")
    values = {name: _get(row, key) for name, key in columns.items() if key}
    lists = {columns[name]: len(value) for name, value in values.items() if isinstance(value, list)}
    if not lists:
        yield _entry(place, named or _clip_of(row), values, columns, row, peer)
        return
    names = next((row[key] for key in (*NAME_KEYS, *(f"{each}s" for each in NAME_KEYS)) if key in row), None)
    if isinstance(names, list):
        lists["the names of the clips"] = len(names)
    if len(lists) < len(values) or len(set(lists.values())) > 1:
        counts = ", ".join(f"{key} has {count}" for key, count in lists.items())
        raise ValueError(f"{place}: the lists must be as long as each other; {counts}.")
    count = next(iter(lists.values()))
    if not isinstance(names, list):
        if count > 1 and (named or names):
            raise ValueError(f"{place} has {count} numbers for the one clip {named or names}.")
        names = [named or names or ""] * count
    for index, name in enumerate(names):
        at = f"{place}, number {index + 1} of {count}"
        if not isinstance(name, str):
            raise ValueError(f"{at}: the clip's name is {name!r:.40}; it must be a text.")
        each = {number: value[index] for number, value in values.items() if isinstance(value, list)}
        yield _entry(at, name, each, columns, {}, peer)


def _clip_of(row: Json) -> str:
    """Returns the name of a row's clip; empty where it has none."""
    if isinstance(row.get(CURATOR_CLIP), str):
        return row[CURATOR_CLIP]
    try:
        return names_in(row, "")[0]
    except ValueError:
        return ""


def _entry(
    place: str, clip: str, values: Mapping[str, JsonValue], columns: Mapping[str, str], row: Json, peer: Peer
) -> Entry:
    numbers = {name: check_number(value, peer, f"{place}: {columns[name]!r}") for name, value in values.items()}
    known: dict[str, float] = {}
    for name in peer.unit.needs:
        key = next((key for key in SHAPE_KEYS[name] if row.get(key) is not None), "")
        if key:
            known[name] = _positive(row[key], f"{place}: {key!r}")
    return Entry(place, clip, numbers, Shape(**known))


def check_number(value: JsonValue, peer: Peer, what: str) -> float:
    """Returns a number of a peer.

    Raises:
        ValueError: it is no number, or out of the peer's range by more than its slack. The message begins with `what`.
    """
    number = _number(value, what)
    if not -peer.slack <= number <= peer.highest + peer.slack:
        ends = f"0 to {peer.highest:g}" if math.isfinite(peer.highest) else "0 or more"
        raise ValueError(f"{what} is {number:g}; it must be {ends}.")
    return min(max(number, 0.0), peer.highest)


def _positive(value: JsonValue, what: str) -> float:
    number = _number(value, what)
    if not number > 0:
        raise ValueError(f"{what} is {number:g}; it must be above 0.")
    return number


def _number(value: JsonValue, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = f"the text {value!r:.40}" if isinstance(value, str) else "null" if value is None else f"{value!r:.40}"
        raise ValueError(f"{what} is {kind}; it must be a number.")
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}; it must be a finite number.")
    return float(value)


def _parse(text: str | None) -> JsonValue:
    """Returns the number that a field of a table holds; else its text, and None for an empty one."""
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text
