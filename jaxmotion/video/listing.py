"""Lists clips and their captions from the forms in which data sets of videos come.

Every folder may have a list of its own, and the captions of the clips that no list speaks for stand beside them.

- `metadata.jsonl`, `.csv`, `.json` (an array) or `.parquet`, as Hugging Face's video folders have it.
- `prompts.txt` and `videos.txt`, line by line; `captions.txt`, and `video.txt`, too.
- Any other .jsonl, .json, .csv, .tsv or .parquet with names and captions, if it is the only one in the folder.
  WebVid's csv is one: the clip is `page_dir/videoid.mp4`.
- `a.mp4` beside `a.txt`, `a.caption`, `a.mp4.txt` or `a.json`.

A list says which clips of its own folder are data; a list that names a clip in a subfolder says it of all subfolders
that have none. The other clips there are left out. Rows about one clip, in one list or several, are several captions.

A list file can also be given itself, or a single clip. `list_files` says what a row may look like, `list_places` where
its names start, `clip_files` which files are clips, `captions_beside` where their texts may be.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxmotion.foundation.text_files import escape
from jaxmotion.video.captions_beside import NOTHING, Texts
from jaxmotion.video.clip_files import SUFFIXES, Folder, Identities, walk_folders
from jaxmotion.video.list_files import (
    CAPTION_KEYS,
    LISTS,
    TABLES,
    Row,
    has_captions,
    lists_captions,
    read_side_by_side,
    table_rows,
)
from jaxmotion.video.list_places import locate, read_list

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.json", "metadata.parquet")
NAME_TEXTS = ("videos.txt", "video.txt")
CAPTION_TEXTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
LOOKED_FOR = (
    f"{METADATA[0]}, .csv or .json with 'file_name' and a caption, a WebVid csv with 'videoid', 'name' and 'page_dir', "
    f"{CAPTION_TEXTS[0]} and {NAME_TEXTS[0]}, or clips ending in {', '.join(SUFFIXES)} with or without a .txt of the "
    "same name"
)


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A clip as it is listed: a short name that is the same in every form of the list, the file, and the caption."""

    id: str
    path: str
    caption: str
    """The first of its captions; empty if it has none."""
    further: tuple[str, ...] = ()
    """Its other captions."""
    no_caption: str = ""
    """Why it has none."""

    @property
    def captions(self) -> tuple[str, ...]:
        """All its captions: one at least, which may be empty."""
        return (self.caption, *self.further)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The clips that were found, in the order of their ids, and the form of their list."""

    form: str
    files: tuple[ClipFile, ...]
    left_out: tuple[str, ...] = ()
    """Sentences on clips that are in a folder and not in its list."""


def list_clips(path: Path, root: Path | None = None) -> Listing:
    """Lists the clips of a folder or of a list file, or the one clip that a file is.

    Args:
        path: the folder or the file.
        root: where the names in a list file start; `list_places` says what happens without one.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: nothing there that is known, or a list that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"Clips are looked for in {path}, and there is no such file or folder.")
    start = str(root) if root is not None else None
    clips = _Clips()
    if path.is_dir():
        return _list_folder(str(path), start, clips)
    name = path.name.lower()
    if not name.endswith(LISTS):
        clips.add_all(_captions_of_one(str(path), start))
        clips.add_texts(Texts())
        return clips.listing("one clip")
    pair = _pair_with(path) if name in (*NAME_TEXTS, *CAPTION_TEXTS) else None
    clips.add_all(_read([str(each) for each in pair or [path]], start))
    clips.add_texts(Texts())
    return clips.listing(path.name)


def describe_missing_captions(files: Sequence[ClipFile]) -> str:
    """Returns a sentence on how many clips have no caption, and why; empty if all have one."""
    without = [file for file in files if not file.caption]
    if not without:
        return ""
    reasons = Counter(file.no_caption or NOTHING for file in without)
    examples = {file.no_caption or NOTHING: file.id for file in reversed(without)}
    said = "; ".join(
        f"{count} such as {examples[reason]}, because {reason}" for reason, count in reasons.most_common(8)
    )
    return escape(f"{len(without)} of {len(files)} clips have no caption: {said}.")


class _Clips:
    """Collects clips and their captions; a clip that comes again brings further captions."""

    def __init__(self) -> None:
        self._identities = Identities()
        self._paths: dict[str, str] = {}
        self._captions: dict[str, tuple[str, ...]] = {}
        self._reasons: dict[str, str] = {}

    def identity(self, path: str) -> str:
        return self._identities.of(os.path.abspath(path))

    def __contains__(self, path: str) -> bool:
        return self.identity(path) in self._paths

    def add_all(self, rows: Iterable[tuple[Row, str]]) -> None:
        """Adds rows with the paths of their files."""
        for row, path in rows:
            self.add(path, row.captions, row.no_caption)

    def add(self, path: str, captions: tuple[str, ...], reason: str) -> None:
        key = self.identity(path)
        self._paths.setdefault(key, os.path.abspath(path))
        self._captions[key] = tuple(dict.fromkeys((*self._captions.get(key, ()), *captions)))
        self._reasons.setdefault(key, reason)

    def add_texts(self, texts: Texts) -> int:
        """Gives the clips that have no caption the one that stands beside them; returns how many got one."""
        without = [key for key, captions in self._captions.items() if not captions]
        for key in without:
            self._captions[key], beside = texts.of(self._paths[key])
            self._reasons[key] = (self._reasons[key] if beside == NOTHING else "") or beside
        return sum(bool(self._captions[key]) for key in without)

    def listing(self, form: str, left_out: Sequence[str] = ()) -> Listing:
        """Names every clip by its path below the folder that all of them share, without the suffix."""
        if not self._paths:
            raise ValueError(f"{form} lists no clip.")
        shared = os.path.commonpath({os.path.dirname(path) for path in self._paths.values()})
        whole = {key: path[len(os.path.join(shared, "")) :] for key, path in self._paths.items()}
        names = {key: os.path.splitext(name)[0] for key, name in whole.items()}
        if len(set(names.values())) < len(names):  # a.mp4 beside a.mov
            names = whole
        files = []
        for key, path in self._paths.items():
            first, *further = self._captions[key] or ("",)
            files.append(ClipFile(names[key], path, first, tuple(further), "" if first else self._reasons[key]))
        return Listing(form, tuple(sorted(files, key=lambda file: file.id)), tuple(left_out))


def _list_folder(path: str, root: str | None, clips: _Clips) -> Listing:
    folders = list(walk_folders(path))
    texts = Texts(folders)
    scopes = _Scopes()
    lists, reasons = [], {}
    for folder in folders:
        found, reasons[folder.path] = _list_of(folder)
        if found:
            rows = _read(found, root)
            clips.add_all(rows)
            scopes.add(folder.path, found[0], [path for _, path in rows])
            lists.append(os.path.relpath(found[0], path))
    bare = 0
    for folder in folders:
        others = [each for name in folder.clips if (each := os.path.join(folder.path, name)) not in clips]
        if others and not scopes.leave_out(folder.path, others):
            reason = next((why for above in _upwards(folder.path) if (why := reasons.get(above))), "")
            for each in others:
                clips.add(each, (), reason)
            bare += len(others)
    if not bare and not lists:
        raise ValueError(f"No clip in {path}: looked for {LOOKED_FOR}.")
    with_text = clips.add_texts(texts)
    form = [", ".join(lists) if len(lists) < 4 else f"{', '.join(lists[:3])} and {len(lists) - 3} more lists"]
    form += [f"clips, {with_text} with a text beside them" if with_text else "clips without captions"] if bare else []
    return clips.listing("; ".join(filter(None, form)), scopes.sentences())


class _Scopes:
    """The folders for which lists speak: their own, those of the clips that they name, and those below, if any is."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._trees: dict[str, str] = {}
        self._left_out: dict[str, list[str]] = {}

    def add(self, folder: str, listed_in: str, paths: Sequence[str]) -> None:
        own = os.path.realpath(folder)
        named = {os.path.realpath(place) for place in {os.path.dirname(path) for path in paths}}
        self._folders |= dict.fromkeys({own, *named} - set(self._folders), listed_in)
        if any(place.startswith(os.path.join(own, "")) for place in named):
            self._trees[own] = listed_in

    def leave_out(self, folder: str, clips: Sequence[str]) -> bool:
        """Notes clips that are in no list, if one speaks for their folder; returns whether one does."""
        place = os.path.realpath(folder)
        listed_in = self._folders.get(place)
        listed_in = listed_in or next((self._trees[above] for above in _upwards(place) if above in self._trees), None)
        if listed_in is not None:
            self._left_out.setdefault(listed_in, []).extend(clips)
        return listed_in is not None

    def sentences(self) -> list[str]:
        return [
            escape(f"{len(clips)} clips are not in {listed_in} and are left out, such as {clips[0]}.")
            for listed_in, clips in self._left_out.items()
        ]


def _list_of(folder: Folder) -> tuple[tuple[str, ...], str]:
    """Returns the list of a folder, which is one file or two texts, and why there is none where there might be one."""
    there = {name.lower(): os.path.join(folder.path, name) for name in reversed(folder.names)}
    metadata = [there[name] for name in METADATA if name in there]
    if metadata:
        return (metadata[0],), ""
    clips = {part.casefold() for clip in folder.clips for part in (clip, os.path.splitext(clip)[0])}
    alone = [name for name in folder.names if os.path.splitext(name)[0].casefold() not in clips]  # no text of a clip
    small = {name.lower(): os.path.join(folder.path, name) for name in reversed(alone)}
    names, captions = ([small[n] for n in known if n in small] for known in (NAME_TEXTS, CAPTION_TEXTS))
    if names and captions:
        return (names[0], captions[0]), ""
    tables = [os.path.join(folder.path, name) for name in alone if name.lower().endswith(TABLES)]
    lists = [table for table in tables if _is_list(table, alone=len(tables) == 1)]
    if len(lists) == 1:
        return (lists[0],), ""
    if lists:
        return (), f"{len(lists)} lists are in {folder.path} and none is called metadata; give one as data.path"
    if captions:
        return (), f"{captions[0]} has no {NAME_TEXTS[0]} beside it, which would name the clip of each line"
    if names:
        return (), f"{names[0]} has no {CAPTION_TEXTS[0]} beside it"
    shown = ", ".join(os.path.basename(table) for table in tables[:3])
    return (), f"no text stands beside it, and {shown} in {folder.path} lists no clips with captions" if tables else ""


def _is_list(path: str, *, alone: bool) -> bool:
    """Returns whether a file lists clips with captions; one that cannot be read and stands alone ends the listing."""
    try:
        return lists_captions(Path(path))
    except (ValueError, OSError):
        if alone and not path.lower().endswith(".json"):  # configs and the like
            raise
        return False


def _read(found: Sequence[str], root: str | None) -> list[tuple[Row, str]]:
    """Reads a list, which is one file or two texts.

    Raises:
        ValueError: it cannot be read, or is a table in which no row has a caption and no text stands beside a clip.
    """
    if len(found) == 2:
        return locate(read_side_by_side(*map(Path, found)), found[0], root)
    path = Path(found[0])
    rows = read_list(path, root)
    if path.name.lower().endswith(TABLES) and not has_captions([row for row, _ in rows]):
        texts = Texts()
        if not any(texts.of(clip)[0] for _, clip in rows):
            columns = list(next(table_rows(path))[1])
            raise ValueError(
                f"{path} has no caption column; its columns are {columns}, looked for {', '.join(CAPTION_KEYS)}."
            )
    return rows


def _pair_with(path: Path) -> tuple[Path, Path] | None:
    """Returns the texts of names and captions of which this is one; None for a text of names alone."""
    there = {each.name.lower(): each for each in sorted(path.parent.iterdir(), reverse=True)}
    names = next((there[name] for name in NAME_TEXTS if name in there), None)
    captions = next((there[name] for name in CAPTION_TEXTS if name in there), None)
    if path.name.lower() in NAME_TEXTS:
        return (path, captions) if captions else None
    if names is None:
        raise ValueError(f"{path} holds captions; {NAME_TEXTS[0]} beside it would name the clip of each line.")
    return names, path


def _captions_of_one(path: str, root: str | None) -> list[tuple[Row, str]]:
    """Returns one clip with its captions: those of its folder's list, if that names it, or else the one beside it."""
    place = os.path.dirname(path) or os.curdir
    folder = next(iter(walk_folders(place)), Folder(place, ()))
    found, _ = _list_of(folder)
    identity = Identities()
    own = identity.of(os.path.abspath(path))
    rows = _read(found, root) if found else []
    named = [(row, path) for row, each in rows if identity.of(os.path.abspath(each)) == own]
    return named or [(Row((os.path.basename(path),), ""), path)]


def _upwards(folder: str) -> Iterator[str]:
    """Yields a folder and those above it."""
    yield folder
    while (above := os.path.dirname(folder)) != folder:
        folder = above
        yield folder
