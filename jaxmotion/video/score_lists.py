"""Motion scores of clips in a list, written by the motion meter or by anybody else.

{"path": "cat.mp4", "object": 4.2, "camera": 1.3}                                  python -m jaxmotion.score --out
{"file_name": "cat.mp4", "text": "...", "motion": {"object": 4.2, ...}}            python -m jaxmotion.score --metadata

Scores are of whole files: in their diagonals, over all of their time. A training clip is a stretch of one, often
cropped. `Scores.of_clip` gives the scores of that: those of the windows it lies in, where the list has windows, and in
the diagonals of the crop. A pan or an object moves by as many pixels in the crop; a zoom or a roll about the middle
moves the crop's corners by as many of its own diagonals.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import CAMERA, OBJECT
from jaxmotion.foundation.text_files import json_rows
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.list_files import CAPTION_KEYS, names_in

MOTION, MOTION_SCORE = "motion", "motion_score"
"""The key of the scores in a data set's own list, and the one to use when the first already means something else."""
PATH = "path"
"""The key of the meter's own records."""
MOVES_OF_CORNERS = ("zoom", "roll")
"""Camera moves that are as fast in every crop about the middle."""


@dataclasses.dataclass(frozen=True)
class ScoredWindow:
    """The scores of a stretch of a file, from one time to another, in seconds from its first frame on."""

    start: float
    end: float
    object: float
    camera: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a file."""

    object: float
    camera: float
    move: str = ""
    """What the camera mostly does; empty where that is not listed."""
    windows: tuple[ScoredWindow, ...] = ()
    """The scores of its windows; empty where they are not listed."""

    def of_clip(self, start: float, end: float, growth: float = 1.0) -> tuple[float, float]:
        """Returns the object and camera scores of a clip of the file.

        Args:
            start: of the clip, in seconds from the first frame of the file on.
            end: of the clip.
            growth: the file's diagonal over the crop's, both in pixels of the file; 1: nothing is cropped.
        """
        overlaps = [max(0.0, min(end, each.end) - max(start, each.start)) for each in self.windows]
        parts = list(zip(self.windows, overlaps, strict=True)) if any(overlaps) else [(self, 1.0)]
        if abs(growth - 1) < 1e-9 and len(parts) == 1:
            return parts[0][0].object, parts[0][0].camera
        total = sum(weight for _, weight in parts)
        objects = sum(weight * unit.speed(part.object) for part, weight in parts) / total
        cameras = sum(weight * unit.speed(part.camera) for part, weight in parts) / total
        camera_growth = 1.0 if self.move in MOVES_OF_CORNERS else growth
        return float(unit.score(objects * growth)), float(unit.score(cameras * camera_growth))


def read_scores(path: Path, root: Path, places: Mapping[str, int]) -> dict[int, Scores]:
    """Reads object and camera scores by the index of a clip; clips that have no index are left out.

    A clip that is not where the list says, because list or clips have moved, is known by its file's name, if no other
    clip and no other line has that.

    Args:
        root: where the list's paths start, if they are not found from here or beside the list.
        places: the place of a clip by its resolved path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object with a path and both scores in 1..10.
    """
    listed: dict[Path, Scores] = {}
    for number, row in json_rows(path, may_be_torn=True):
        try:
            part = _scores_part(row)
            scores = None if part is None else _scores(part)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: needs path, object and camera ({error!r}).") from error
        name = Path(names_in(row, f"{path}, line {number}")[0])
        if scores is None:
            continue
        numbers = [(each.object, each.camera) for each in (scores, *scores.windows)]
        wrong = next((pair for pair in numbers if not all(unit.LOWEST <= x <= unit.HIGHEST for x in pair)), None)
        if wrong is not None:
            raise ValueError(f"{path}, line {number}: the scores are {wrong}; they must be in 1..10.")
        listed[name] = scores
    found: dict[int, Scores] = {}
    missing: list[Path] = []
    for name, scores in listed.items():
        there = (os.path.realpath(place) for place in (name, root / name, path.parent / name))
        place = next((places[at] for at in there if at in places), None)
        if place is None:
            missing.append(name)
        else:
            found[place] = scores
    named = Counter(name.name for name in listed)
    here = Counter(Path(place).name for place in places)
    by_name = {Path(place).name: index for place, index in places.items()}
    for name in missing:
        if named[name.name] == here[name.name] == 1:
            found.setdefault(by_name[name.name], listed[name])
    return found


def _scores(part: Json) -> Scores:
    windows = tuple(
        ScoredWindow(*(float(row[name]) for name in ("start", "end", OBJECT, CAMERA)))
        for row in part.get("windows") or ()
    )
    return Scores(float(part[OBJECT]), float(part[CAMERA]), str(part.get("move", "")), windows)


def _scores_part(row: Json) -> Json | None:
    """Returns the part of a row that has the scores; None for a row of a data set's own list that has none."""
    for key in (MOTION, MOTION_SCORE):
        if isinstance(row.get(key), dict) and OBJECT in row[key]:
            return row[key]
    listed = PATH not in row or bool({*CAPTION_KEYS} & set(row))
    return None if listed and not {OBJECT, CAMERA} & set(row) else row
