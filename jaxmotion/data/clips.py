"""Clips from video files, with their captions. Bad files are named once, with the reason, and skipped."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from jaxmotion.data.bad_clips import BadClips
from jaxmotion.data.source import Buckets, DataConfig, DataSource, Example, Shape, nearest
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, VIDEO
from jaxmotion.video.clip_files import say_odd_names
from jaxmotion.video.decode import BadClipError, latest_time, read_clip, read_size, read_timeline, start_time
from jaxmotion.video.listing import LOOKED_FOR, ClipFile, Listing, describe_missing_captions, list_clips
from jaxmotion.video.pictures import diagonal_over_crop
from jaxmotion.video.score_lists import Scores, read_scores
from jaxmotion.video.synthetic.captions import CAPTION, CAPTIONS

SHOWN = 5
"""So many bad clips are named in an error message; the report names all."""
MOST_SUBSTITUTES = 32
"""After so many clips in a row that cannot be decoded something else is wrong."""
log = logging.getLogger(__name__)


@register()
@dataclasses.dataclass(frozen=True)
class Clips(DataConfig):
    """Clips from video files.

    A file too short for a clip counts as one that cannot be used.
    """

    path: str
    """A folder or a list file; `listing` says in which forms."""
    root: str = ""
    """Where the names in a list start; empty looks around the list."""
    frames: int = 16
    """Length of a clip."""
    fps: float = 8.0
    """Frames per second at which frames are taken, by time. Above a file's own rate, frames repeat."""
    size: tuple[int, int] = (256, 256)
    """(height, width); frames are cropped about the middle and resized."""
    buckets: tuple[tuple[int, int, int], ...] = ()
    """Further shapes (frames, height, width). Each file goes to the shape of the nearest aspect ratio among those that
    it is long enough for, of these to the longest; a batch has clips of one shape."""
    on_bad: Literal["skip", "stop"] = "skip"
    """What a file that cannot be used does: it is skipped, or stops the run."""
    scores: str = ""
    """A jsonl file with the motion scores of the clips, such as the motion meter writes. They are of whole files; a
    training clip gets those of its own time and crop, see `video.score_lists`."""
    probe: bool = True
    """Looks into all files first. Without that, a bad file is found when its turn comes; the next takes its place."""

    def __post_init__(self) -> None:
        if self.frames < 1 or not self.fps > 0 or min(self.size) < 1:
            raise ValueError(
                f"frames={self.frames}, fps={self.fps}, size={self.size}: a clip needs at least 1 frame, a rate above 0"
                " and at least 1 pixel."
            )
        for shape in self.buckets:
            if min(shape) < 1:
                raise ValueError(f"A bucket is {shape}; it is (frames, height, width), each at least 1.")
        if self.buckets and not self.probe:
            raise ValueError("Buckets need a look into all files first; set probe to True.")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes of clips, each once; the first is that of `frames` and `size`."""
        return tuple(dict.fromkeys((Shape(self.frames, *self.size), *(Shape(*shape) for shape in self.buckets))))

    def open(self, report: Path | None = None) -> DataSource:
        """Lists and probes the clips. Those that cannot be used are added to the file `report` (JSON lines).

        Raises:
            FileNotFoundError: there is no such path.
            ValueError: no list of clips and no clip there; none can be used; one cannot, and `on_bad` is "stop".
        """
        listing = self._list()
        self._say_captions(listing.files)
        if not self.buckets:
            return self.open_as_one(report, listing)
        usable, found, bad = self._usable(listing, report)
        scores = self._scores_of(usable)
        parts = []
        for shape in self.shapes:
            mine = [index for index, file in enumerate(usable) if found[file.id] == shape]
            config = dataclasses.replace(self, frames=shape.frames, size=shape.size, buckets=())
            own_scores = {place: scores[index] for place, index in enumerate(mine) if index in scores}
            if mine:
                parts.append(ClipsSource(config, tuple(usable[index] for index in mine), bad, own_scores))
            else:
                log.warning("%s has no clip for the bucket %s.", self.path, shape)
        return Buckets(parts)

    def open_as_one(self, report: Path | None = None, listing: Listing | None = None) -> ClipsSource:
        """Opens all clips as one source, at `frames` and `size`, and says nothing of captions; raises as `open` does.

        Args:
            report: as for `open`.
            listing: of the clips, if that is known.
        """
        usable, _, bad = self._usable(listing or self._list(), report)
        return ClipsSource(self, usable, bad, self._scores_of(usable))

    def _list(self) -> Listing:
        listing = list_clips(Path(self.path), Path(self.root) if self.root else None)
        say_odd_names([file.path for file in listing.files])
        for sentence in listing.left_out:
            log.warning("%s", sentence)
        return listing

    def _usable(
        self, listing: Listing, report: Path | None
    ) -> tuple[tuple[ClipFile, ...], dict[str, str | Shape], BadClips]:
        """Returns the clips that can be used, what probing found out of each file by its id, and the bad clips."""
        bad = BadClips(report)
        found = dict(_probe_shapes(listing.files, self)) if self.probe else {}
        reasons = {name: result for name, result in found.items() if isinstance(result, str)}
        for file in listing.files:
            if file.id in reasons:
                bad.add(file, reasons[file.id])
        self._check(listing, reasons)
        usable = tuple(file for file in listing.files if file.id not in reasons)
        if reasons:
            where = f", named in {report}" if report else ""
            log.warning(
                "%s (%s): %d clips can be used, %d cannot%s.", self.path, listing.form, len(usable), len(reasons), where
            )
        return usable, found, bad

    @property
    def how_to_label(self) -> str:
        return "Give a list of scores (--data.scores, made by `python -m jaxmotion.score`)."

    def _scores_of(self, files: tuple[ClipFile, ...]) -> dict[int, Scores]:
        """The scores of the clips that the list of scores names."""
        if not self.scores:
            return {}
        paths = [os.path.realpath(file.path) for file in files]
        places = {path: index for index, path in enumerate(paths)}  # links may lead to one file from several names
        named = read_scores(Path(self.scores), Path(self.path), places)
        known = {
            index: named[places[path]] for index, path in enumerate(paths) if places[path] in named
        }  # linked files
        if not known:
            raise ValueError(f"{self.scores} names none of the {len(files)} clips in {self.path}.")
        if len(known) < len(files):
            log.warning(
                "%s has scores of %d of the %d clips; the others are trained without.",
                self.scores,
                len(known),
                len(files),
            )
        return known

    def _say_captions(self, files: Sequence[ClipFile]) -> None:
        """Says how many clips have no caption, and why, and how many have several."""
        if missing := describe_missing_captions(files):
            log.warning("%s: %s", self.path, missing)
        if several := sum(bool(file.further) for file in files):
            log.info("%s: %d clips have several captions; one of them is drawn each time.", self.path, several)

    def _check(self, listing: Listing, reasons: dict[str, str]) -> None:
        if len(reasons) == len(listing.files):
            raise ValueError(
                f"None of the {len(reasons)} clips in {self.path} can be used. {_describe_bad(listing.files, reasons)} "
                f"Looked for {LOOKED_FOR}; found {listing.form}."
            )
        if reasons and self.on_bad == "stop":
            raise ValueError(
                f"{len(reasons)} of {len(listing.files)} clips in {self.path} cannot be used. "
                f"{_describe_bad(listing.files, reasons)} To go on without them, set on_bad to 'skip'."
            )


class ClipsSource(DataSource):
    """The clips of a `Clips` config."""

    config: Clips

    def __init__(
        self,
        config: Clips,
        files: tuple[ClipFile, ...],
        bad: BadClips,
        scores: Mapping[int, Scores] | None = None,
    ):
        super().__init__(config)
        self.files = files
        self.bad = bad
        self.scores = scores or {}
        self.optional_entries = self.requested_entries = (OBJECT, CAMERA) if config.scores else ()
        self.most_captions = max((len(file.captions) for file in files), default=1)

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Reads a clip: `video` uint8 [T H W 3], `caption`, `fps`, `id`, and its scores, NaN where they are unknown.

        It starts at a random time and has a caption drawn from its own; without a generator it starts at the first
        frame and has the first caption. When it cannot be read, the next that can
        is read instead, so the same index and generator give the same clip as long as the files do not change.

        Raises:
            BadClipError: a clip cannot be read and `on_bad` is "stop", or none of the next ones can be read either.
        """
        where = 0.0 if rng is None else float(rng.random())
        for step in range(min(MOST_SUBSTITUTES, len(self))):
            example = self._read((index + step) % len(self), where, rng)
            if example is not None:
                return example
        raise BadClipError(
            f"{self.files[index].path} and {min(MOST_SUBSTITUTES, len(self)) - 1} clips after it cannot be read. "
            f"{_describe_bad(self.files, self.bad.reasons)}"
        )

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        return self._read(index, 0.0 if rng is None else float(rng.random()), rng)

    def fingerprint(self) -> str:
        """Returns a digest of the files, their sizes and dates, the captions and the listed scores."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            stat = Path(file.path).stat()
            captions = "\n".join(file.captions)
            digest.update(
                f"{file.id} {captions} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
        for index, scores in sorted(self.scores.items()):
            digest.update(f"{index} {scores}\n".encode())
        return digest.hexdigest()

    def _read(self, index: int, where: float, rng: np.random.Generator | None) -> Example | None:
        """Reads a clip from a place 0..1 of its file on; None, and a line in the report, if it cannot be read.

        Of several captions the generator draws one; without a generator it is the first.

        Raises:
            BadClipError: it cannot be read and `on_bad` is "stop".
        """
        config, file = self.config, self.files[index]
        try:
            video = read_clip(file.path, config.frames, config.fps, config.size, where)
        except BadClipError as error:
            self.bad.add(file, str(error))
            if config.on_bad == "stop":
                raise BadClipError(f"{file.path}: {error}. To go on without it, set on_bad to 'skip'.") from error
            return None
        scores = self._scores_at(index, where)
        labels = {name: np.float32(score) for name, score in zip(self.optional_entries, scores, strict=False)}
        caption = file.caption
        if rng is not None and file.further:  # clips of one caption leave the generator as it is
            caption = file.captions[int(rng.random() * len(file.captions))]
        captions = {CAPTION: caption, CAPTIONS: file.captions} if file.further else {CAPTION: caption}
        return {VIDEO: video, **captions, FPS: np.float32(config.fps), "id": file.id, **labels}

    def _scores_at(self, index: int, where: float) -> tuple[float, float]:
        """Returns the scores of the clip at a place of a file, cropped as it is; NaN where they are not known."""
        if index not in self.scores:
            return float("nan"), float("nan")
        config, path = self.config, self.files[index].path
        timeline = read_timeline(path)
        start = start_time(timeline, config.frames, config.fps, where) - float(timeline.seconds[0])
        growth = diagonal_over_crop(_size_of(path), config.size)
        return self.scores[index].of_clip(start, start + config.frames / config.fps, growth)


@functools.cache
def _size_of(path: str) -> tuple[int, int]:
    """Returns (height, width) at which a file is shown, read once in a process."""
    return read_size(path)


def _probe_shapes(files: Iterable[ClipFile], config: Clips) -> Iterable[tuple[str, str | Shape]]:
    """Ids of the files with the shape of their clips, or with the reason why they cannot be used."""
    files = list(files)

    def look(file: ClipFile) -> str | Shape:
        try:
            return _shape(file, config)
        except BadClipError as error:
            return str(error)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as threads:
        results = tqdm(threads.map(look, files), "looking at the clips", len(files), unit="clip", leave=False)
        yield from zip((file.id for file in files), results, strict=True)


def _shape(file: ClipFile, config: Clips) -> Shape:
    """The shape that suits a file best.

    Raises:
        BadClipError: it cannot be used, or is too short for all of them.
    """
    timeline = read_timeline(file.path)
    shortest = min(shape.frames for shape in config.shapes)
    longest = shortest - 1
    for frames in sorted({shape.frames for shape in config.shapes}):
        try:
            latest_time(timeline, frames, config.fps)
        except BadClipError:
            if frames == shortest:
                raise
            break
        longest = frames
    fitting = [shape for shape in config.shapes if shape.frames <= longest]
    return fitting[0] if len(config.shapes) == 1 else nearest(fitting, *read_size(file.path))


def _describe_bad(files: Iterable[ClipFile], reasons: dict[str, str]) -> str:
    """Some of the bad clips with their reasons."""
    bad = [f"{Path(file.path).name}: {reasons[file.id].rstrip('.')}." for file in files if file.id in reasons]
    more = f" And {len(bad) - SHOWN} more." if len(bad) > SHOWN else ""
    return " ".join(bad[:SHOWN]) + more
