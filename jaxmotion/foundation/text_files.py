"""Text files in UTF-8 and JSON lines, read in one way everywhere; and names of files that are not UTF-8.

Lines end in "\\n", and a "\\r" before it is dropped. Other characters at which Python splits text (form feeds, U+0085,
U+2028) occur inside captions and end no line.

Python keeps a byte of a name that is not UTF-8 as half of a surrogate pair, which no encoder takes: `escape` writes it
as `\\udcff`, which in JSON reads as the same name again.
"""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jaxmotion.foundation.config_json import Json, JsonValue

_LOG = logging.getLogger(__name__)
_OTHER_UNICODE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def utf8_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file without their ends; marks of the byte order are left out.

    Raises:
        ValueError: it is not in UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(_OTHER_UNICODE):
                raise ValueError(f"{path} is in UTF-16 or UTF-32; save it as UTF-8.")
            if b"\0" in line:
                raise ValueError(f"{path}, line {number} holds bytes that are zero; save it as text in UTF-8.")
            try:
                text = line.decode("utf-8").removeprefix("\ufeff").removesuffix("\n")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise ValueError(
                    f"{path}, line {number} is not in UTF-8 (byte {byte:#x}); save it as UTF-8."
                ) from error
            if (
                number == 1 and not line.endswith(b"\n") and "\r" in text
            ):  # as computers of Apple ended lines until 2001
                yield from text.split("\r")
            else:
                yield text.removesuffix("\r")


def read_utf8(path: Path) -> str:
    """Returns the text of a file, its lines ended by a line feed; raises as `utf8_lines`."""
    return "\n".join(utf8_lines(path))


def json_rows(
    path: Path, lines: Iterable[str] | None = None, *, may_be_torn: bool = False
) -> Iterator[tuple[int, Json]]:
    """Yields the objects of JSON lines with the numbers of their lines, from 1; empty lines are left out.

    Args:
        path: the file, or where the lines are from, for messages.
        lines: in place of those of the file.
        may_be_torn: whether another command may be writing the file, or have been killed while it did: a last line that
            is no JSON and has no end is then left out, with a warning.

    Raises:
        ValueError: a line is no JSON object, or not in UTF-8.
    """
    for number, line in enumerate(utf8_lines(path) if lines is None else lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, strict=False)  # control characters inside texts are taken as they are
        except (ValueError, RecursionError) as error:
            if may_be_torn and _is_torn_end(path, line):
                _LOG.warning("%s, line %d is only half written and is left out.", path, number)
                return
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object but {row!r:.80}.")
        yield number, row


def _is_torn_end(path: Path, line: str) -> bool:
    """Returns whether a line is the last of a file and has no end."""
    return path.read_bytes().endswith(line.encode())


def whole_rows(text: str) -> list[Json]:
    """Returns the rows in JSON lines that our commands wrote, without those that a killed process left torn."""
    rows = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def json_line(row: Mapping[str, JsonValue]) -> str:
    """Returns a row as a line of JSON that can be encoded in UTF-8 whatever names are in it."""
    return escape(json.dumps(row, ensure_ascii=False)) + "\n"


def escape(text: str) -> str:
    """Returns a text that can be encoded in UTF-8: what cannot is written as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def well_formed(text: str) -> str:
    """Returns a text for tokenizers: halves of surrogate pairs are joined, and those that stay alone become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
