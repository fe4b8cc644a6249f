"""Captions of pictures in a folder, in the forms in which clips have them: a list of names, or texts beside them.

Every table of the folder counts that names pictures and has captions, such as `captions.jsonl` or `metadata.csv`; then
`a.txt`, `a.caption`, `a.jpg.txt` or `a.json` beside `a.jpg`. Of several captions the first is taken.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxmotion.video.captions_beside import Texts
from jaxmotion.video.clip_files import is_left_out
from jaxmotion.video.list_files import CAPTION_KEYS, ID_KEYS, NAME_KEYS, TABLES, captions_in, table_rows

PICTURE_KEYS = ("image", "image_path", "image_file", "image_name", "img", "picture", "photo")
"""Keys under which a row names its picture, before those that name clips."""


def picture_captions(pictures: Sequence[Path]) -> dict[Path, str]:
    """Returns the caption of every picture of a folder that has one.

    Raises:
        ValueError: a list of captions cannot be read; the message names the file and the line.
    """
    listed: dict[str, str] = {}
    for folder in dict.fromkeys(picture.parent for picture in pictures):
        for name, caption in _listed(folder):
            listed.setdefault(name, caption)
    texts, found = Texts(), {}
    for picture in pictures:
        captions = [listed[name] for name in (_plain(picture.name), _plain(picture.stem)) if name in listed]
        captions += texts.of(str(picture))[0]
        if captions:
            found[picture] = captions[0]
    return found


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields the names in the folder's tables, without folders and in small letters, and their captions."""
    for path in sorted(folder.iterdir()):
        if not path.name.lower().endswith(TABLES) or is_left_out(path.name):
            continue
        for place, row in table_rows(path):
            captions, _ = captions_in(row, f"{path}, {place}")
            for name in _names(row) if captions else ():
                yield _plain(os.path.basename(name.replace("\\", "/"))), captions[0]


def _names(row: Mapping[str, object]) -> Iterator[str]:
    keys = {str(key).strip().lower().replace(" ", "_").replace("-", "_"): value for key, value in row.items()}
    for key in (*PICTURE_KEYS, *NAME_KEYS, *ID_KEYS):
        value = keys.get(key)
        value = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(value, str | int) and not isinstance(value, bool) and key not in CAPTION_KEYS:
            yield str(value)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()
