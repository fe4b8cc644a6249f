"""Captions in files of their own beside clips: `a.txt`, `a.caption`, `a.mp4.txt` or `a.json` beside `a.mp4`.

Where `a.mp4` lies in a folder `videos`, they may be in a folder `labels` (or `captions`, `texts`, ...) beside that, as
CogVideo's own trainer has them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxmotion.foundation.text_files import read_utf8
from jaxmotion.video.clip_files import Folder, is_left_out
from jaxmotion.video.list_files import captions_in, read_captions

ENDINGS = (".txt", ".caption", ".json")
"""In capitals or not; the first that has a caption counts."""
CLIP_FOLDERS = ("videos", "video", "clips")
TEXT_FOLDERS = ("labels", "captions", "texts", "prompts", "label", "caption", "text", "prompt", "txt")
NOTHING = "no list names it and no text stands beside it"


class Texts:
    """Finds the texts beside clips in folders whose files are known, and reads folders that are not."""

    def __init__(self, folders: Iterable[Folder] = ()):
        self._names = {os.path.abspath(folder.path): _by_small(folder.names) for folder in folders}

    def of(self, clip: str) -> tuple[tuple[str, ...], str]:
        """Returns the caption that stands beside a clip, and why there is none.

        Raises:
            ValueError: a text is not in UTF-8, or no text.
        """
        reason = NOTHING
        for path in self._beside(clip):
            captions, why = _read(path)
            if captions:
                return captions, ""
            reason = f"the text beside it is no caption: {why}" if reason == NOTHING else reason
        return (), reason

    def _beside(self, clip: str) -> list[str]:
        folder, name = os.path.split(os.path.abspath(clip))
        found = [os.path.join(folder, text) for text in _texts_of(name, self._names_in(folder))]
        above, own = os.path.split(folder)
        if not found and own.casefold() in CLIP_FOLDERS:
            siblings = [os.path.join(above, each) for each in TEXT_FOLDERS]
            found = [os.path.join(each, text) for each in siblings for text in _texts_of(name, self._names_in(each))]
        return found

    def _names_in(self, folder: str) -> Mapping[str, Sequence[str]]:
        if folder not in self._names:
            try:
                names = [name for name in sorted(os.listdir(folder)) if not is_left_out(name)]
            except OSError:
                names = []
            self._names[folder] = _by_small(names)
        return self._names[folder]


def _by_small(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns the names that may be those of texts, by their form in small letters."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(ENDINGS):
            found.setdefault(name.casefold(), []).append(name)
    return found


def _texts_of(clip: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the names of a clip's texts: of the spelling of the clip's name if there is one, else of any."""
    found = []
    for ending in ENDINGS:
        for base in (os.path.splitext(clip)[0], clip):
            alike = names.get(f"{base}{ending}".casefold(), ())
            found += [name for name in alike if name.startswith(base)][:1] or alike[:1]
    return found


def _read(path: str) -> tuple[tuple[str, ...], str]:
    if not path.lower().endswith(".json"):
        return read_captions(" ".join(read_utf8(Path(path)).split()), path)
    try:
        row = json.loads(read_utf8(Path(path)), strict=False)
        return captions_in(row, path) if isinstance(row, dict) else ((), "its JSON is no object")
    except (ValueError, RecursionError):  # many tools write a .json beside a clip, and few of them captions
        return (), "its JSON has no caption that can be read"
