"""Reads lists of clips and captions: .jsonl, .json, .csv, .tsv, .parquet, .txt, and two texts side by side.

A row names a clip under one of `NAME_KEYS` (or WebVid's `page_dir` and `videoid`, or an id that is the name without its
ending) and gives its captions under one of `CAPTION_KEYS`. Keys are compared without capitals; spaces and hyphens count
as underscores. Every row is read by the keys that it has itself. A caption that is a list is several captions.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib
import json
import math
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.text_files import json_rows, read_utf8, utf8_lines, well_formed
from jaxmotion.video.clip_files import SUFFIXES

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LISTS = (*TABLES, ".txt")
NAME_KEYS = (
    *("file_name", "filename", "path", "video_path", "file_path", "filepath", "video", "video_file", "file"),
    *("clip", "clip_path", "video_name", "media_path", "relative_path"),
)
"""Keys under which a row names its clip; the first that is there and not empty counts."""
ID_KEYS = ("videoid", "video_id", "clip_id", "id")
"""Keys of a name without its ending."""
CAPTION_KEYS = (
    *("caption", "captions", "text", "texts", "prompt", "prompts", "short_caption", "long_caption", "short_prompt"),
    *("long_prompt", "sentence", "description", "name"),
)
"""Keys under which a row gives its captions; the first that is there and not empty counts."""
WEBVID = ("videoid", "page_dir")
EMPTY = ("", "nan", "none", "null", "n/a", "<na>")
"""Captions that say that there is none, as tables write it."""
NO_KEY = "its row has no caption"
SNIFFED = 20
"""So many rows of a file show whether it is a list of clips."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A clip as a list has it."""

    names: tuple[str, ...]
    """Its name as it stands there; further ones are tried in turn where there is no file of the first."""
    place: str
    """Where in the list, for messages."""
    captions: tuple[str, ...] = ()
    no_caption: str = ""
    """Why there is none."""


def read_table(path: Path) -> list[Row]:
    """Reads a list of any form but .txt.

    Raises:
        ValueError: it cannot be read, names no clip, or a row of it names none.
    """
    rows = [_row(path, place, values) for place, values in table_rows(path)]
    if not rows:
        raise ValueError(f"{path} lists no clip.")
    return rows


def read_names(path: Path) -> list[Row]:
    """Reads a .txt with a name on each line; empty lines are left out."""
    why = f"{path.name} holds names only and no text stands beside the clip"
    lines = enumerate(utf8_lines(path), 1)
    return [Row((line,), f"line {number}", no_caption=why) for number, line in lines if line.strip()]


def read_side_by_side(names: Path, captions: Path) -> list[Row]:
    """Reads a text of names and a text of captions, line by line.

    Raises:
        ValueError: they have different numbers of lines, or a line between others names no clip.
    """
    left, right = (list(utf8_lines(path)) for path in (names, captions))
    while left and not left[-1].strip():
        left.pop()
    while len(right) > len(left) and not right[-1].strip():  # fewer may be empty captions
        right.pop()
    if len(left) != len(right):
        raise ValueError(
            f"{names} has {len(left)} lines and {captions} has {len(right)}; line n of one belongs to line n of the "
            "other, so they must have as many."
        )
    rows = []
    for number, (name, text) in enumerate(zip(left, right, strict=True), 1):
        if not name.strip():
            raise ValueError(f"{names}, line {number} names no clip; its caption is {text!r}.")
        found, reason = read_captions(text, f"{captions}, line {number}")
        rows.append(Row((name,), f"line {number}", found, reason))
    if not rows:
        raise ValueError(f"{names} lists no clip.")
    return rows


def lists_captions(path: Path) -> bool:
    """Returns whether the first rows of a file name clips and have captions; raises as `table_rows`."""
    keys = {key for _, row in islice(table_rows(path), SNIFFED) for key in _normal(row)}
    return bool(keys & {*NAME_KEYS, *ID_KEYS}) and bool(keys & set(CAPTION_KEYS))


def has_captions(rows: Sequence[Row]) -> bool:
    """Returns whether any row has a key of captions, with a caption or without."""
    return any(row.captions or row.no_caption != NO_KEY for row in rows)


def read_captions(value: object, place: str) -> tuple[tuple[str, ...], str]:
    """Returns the captions in a value, and why there is none.

    Raises:
        ValueError: it is no text and no list of texts.
    """
    if value is None:
        return (), "its caption is null"
    if isinstance(value, str):
        text = well_formed(value)
        if text.strip().casefold() in EMPTY:
            return (), f"its caption is {text.strip()!r}" if text.strip() else "its caption is empty"
        return (text,), ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ((), "its caption is not a number (NaN)") if math.isnan(value) else ((str(value),), "")
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        if any(isinstance(each, Sequence) and not isinstance(each, str) for each in value):
            raise ValueError(f"{place}: the caption is a list of lists; it must be a text or a list of texts.")
        found = [read_captions(each, place) for each in value]
        texts = tuple(dict.fromkeys(text for captions, _ in found for text in captions))
        return texts, "" if texts else (found[0][1] if found else "its caption is an empty list")
    raise ValueError(f"{place}: the caption is {value!r:.80}; it must be a text or a list of texts.")


def names_in(values: Mapping[str, object], place: str) -> tuple[str, ...]:
    """Returns the name of a row's clip, and others that it may have.

    Raises:
        ValueError: it has none.
    """
    row = _normal(values)
    if all(row.get(key) for key in WEBVID):
        name = f"{row['videoid']}.mp4"
        return f"{row['page_dir']}/{name}", name
    for key in (*NAME_KEYS, *ID_KEYS):
        value = row.get(key)
        value = value.get("path") if isinstance(value, Mapping) else value  # a video of the `datasets` library
        if isinstance(value, str) and value.strip():
            return (value,)
        if isinstance(value, int) and not isinstance(value, bool):
            return (str(value),)
    name = row.get("name")
    if isinstance(name, str) and name.lower().endswith(SUFFIXES):
        return (name,)
    raise ValueError(
        f"{place} names no clip: the entry {dict(values)!r:.200} has no 'file_name', nor another of "
        f"{', '.join(NAME_KEYS[1:])}, or videoid and page_dir. The first line of a csv names its columns."
    )


def captions_in(row: Mapping[str, object], place: str) -> tuple[tuple[str, ...], str]:
    """Returns the captions of a row under the first key that has some, and why there is none."""
    row = _normal(row)
    reasons = []
    for key in CAPTION_KEYS:
        if key in row:
            captions, reason = read_captions(row[key], place)
            if captions and not (key == "name" and captions[0].lower().endswith(SUFFIXES)):
                return captions, ""
            reasons.append(reason or NO_KEY)
    return (), reasons[0] if reasons else NO_KEY


def table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yields the rows of a list of any form but .txt, with their places for messages.

    Raises:
        ValueError: it cannot be read; the message names the line.
    """
    ending = path.suffix.lower()
    if ending in (".jsonl", ".ndjson"):
        yield from ((f"line {number}", row) for number, row in json_rows(path))
    elif ending == ".json":
        yield from ((f"entry {number}", row) for number, row in enumerate(_json_objects(path), 1))
    elif ending == ".parquet":
        yield from ((f"row {number}", row) for number, row in enumerate(_parquet_rows(path), 1))
    else:
        known = {*NAME_KEYS, *ID_KEYS, *CAPTION_KEYS}
        for number, row in csv_rows(path, known, "\t" if ending == ".tsv" else ",\t;|"):
            yield f"line {number}", {key: _unpack(text) for key, text in row.items()}


def csv_rows(path: Path, known: Collection[str], delimiters: str = ",") -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yields the rows of a csv file by the names of its columns, with the numbers of the lines at which they begin.

    A row that is shorter than the header has None at its end.

    Args:
        path: the file.
        known: names of columns, by which the right one of several delimiters is told.
        delimiters: those that may part the fields.

    Raises:
        ValueError: a row has more fields than the header, or is no csv.
    """
    begins = 1
    columns: list[str] = []
    try:
        delimiter = _delimiter(path, known, delimiters)
        lines = (f"{line}\n" for line in utf8_lines(path))
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        for fields in reader:
            if not columns:
                columns = [field.strip() for field in fields]
                _check_columns(path, columns, known)
            elif len(fields) > len(columns):
                raise ValueError(
                    f"{path}, line {begins} has {len(fields)} fields and the header {len(columns)}; put quotes around "
                    f"a text that contains {delimiter!r}."
                )
            elif fields:
                yield begins, dict(zip(columns, [*fields, *[None] * (len(columns) - len(fields))], strict=True))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {begins} is not csv: {error}.") from error


def spellings(row: Row) -> Iterator[str]:
    """Yields the names under which the file of a row may be there, beginning with its own."""
    for name in row.names:
        yield name
        plain = name.strip()
        forms = [plain, plain.replace("\\", "/")]
        forms += [unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in forms]
        yield from (form for form in dict.fromkeys(forms) if form != name)
        if not plain.lower().endswith(SUFFIXES):
            yield from (f"{plain}{each}" for suffix in SUFFIXES for each in (suffix, suffix.upper()))


def find_file(folder: str, row: Row) -> str | None:
    """Returns the path of a row's file below a folder; None if it is not there."""
    paths = (os.path.join(folder, name) for name in spellings(row))
    return next((path for path in paths if os.path.isfile(path)), None)


def _row(path: Path, place: str, values: Mapping[str, object]) -> Row:
    captions, reason = captions_in(values, f"{path}, {place}")
    return Row(names_in(values, f"{path}, {place}"), place, captions, reason)


def _normal(row: Mapping[str, object]) -> dict[str, object]:
    """Returns a row with its keys in one spelling; of two that become one, the one that is not empty."""
    found: dict[str, object] = {}
    for key, value in zip(_normal_keys(row), row.values(), strict=True):
        if found.get(key) in (None, ""):
            found[key] = value
    return found


def _normal_keys(keys: Collection[str]) -> list[str]:
    return [key.strip().casefold().replace(" ", "_").replace("-", "_") for key in keys]


def _delimiter(path: Path, known: Collection[str], delimiters: str) -> str:
    """Returns the delimiter by which the header has most of the known columns; the first of equals."""
    header = next((line for line in utf8_lines(path) if line.strip()), "")

    def count(delimiter: str) -> int:
        return len({*_normal_keys(next(csv.reader([header], delimiter=delimiter), []))} & {*known})

    return max(delimiters, key=count)


def _check_columns(path: Path, columns: Sequence[str], known: Collection[str]) -> None:
    twice = sorted({name for name in columns if name in known and columns.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice; rename one of them.")


def _unpack(text: str | None) -> object:
    """Returns the list that a field of a csv holds (`['a dog', 'a cat']`, as pandas writes one); else the text."""
    if text and text.strip().startswith("[") and text.strip().endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                found = parse(text.strip())
                if isinstance(found, list) and all(each is None or isinstance(each, str | float) for each in found):
                    return found
    return text


def _json_objects(path: Path) -> Iterator[Json]:
    """Yields the objects of an array, or those of an object whose keys are names of clips."""
    try:
        found = json.loads(read_utf8(path), strict=False)
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON that can be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno} is not JSON: {error}.") from error
    if isinstance(found, dict) and _is_by_name(found):
        rows = [
            {**(each if isinstance(each, dict) else {"caption": each}), "file_name": name}
            for name, each in found.items()
        ]
    else:
        rows = found if isinstance(found, list) else [found]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, entry {number} is not a JSON object but {row!r:.80}.")
        yield row


def _is_by_name(found: Json) -> bool:
    """Returns whether the keys of an object are names of clips, and not those of a row or of settings."""
    rows = [each for each in found.values() if isinstance(each, dict) and {*_normal_keys(each)} & {*CAPTION_KEYS}]
    return any(key.lower().endswith(SUFFIXES) for key in found) or (bool(found) and len(rows) == len(found))


def _parquet_rows(path: Path) -> Iterator[Json]:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"{path}: Parquet needs pyarrow; pip install 'jaxmotion[parquet]', or save the list as .jsonl."
        ) from error
    known = {*NAME_KEYS, *ID_KEYS, *CAPTION_KEYS, *WEBVID}
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if {*_normal_keys([name])} & known]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet table: {error}.") from error
