"""Motion scores of clips in a list, written by the motion meter or by anybody else.

{"path": "cat.mp4", "object": 4.2, "camera": 1.3}                                  python -m jaxmotion.score --out
{"file_name": "cat.mp4", "text": "...", "motion": {"object": 4.2, ...}}            python -m jaxmotion.score --metadata
"""

from __future__ import annotations

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
Scores = tuple[float, float]


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
            scores = None if part is None else (float(part[OBJECT]), float(part[CAMERA]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: needs path, object and camera ({error!r}).") from error
        name = Path(names_in(row, f"{path}, line {number}")[0])
        if scores is None:
            continue
        if not all(unit.LOWEST <= score <= unit.HIGHEST for score in scores):
            raise ValueError(f"{path}, line {number}: the scores are {scores}; they must be in 1..10.")
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


def _scores_part(row: Json) -> Json | None:
    """Returns the part of a row that has the scores; None for a row of a data set's own list that has none."""
    for key in (MOTION, MOTION_SCORE):
        if isinstance(row.get(key), dict) and OBJECT in row[key]:
            return row[key]
    listed = PATH not in row or bool({*CAPTION_KEYS} & set(row))
    return None if listed and not {OBJECT, CAMERA} & set(row) else row
