"""Motion scores of clips in a list: what the motion meter wrote, or anybody else.

{"path": "cat.mp4", "object": 4.2, "camera": 1.3}                                  python -m jaxmotion.score --out
{"file_name": "cat.mp4", "text": "...", "motion_score": {"object": 4.2, ...}}      python -m jaxmotion.score --metadata
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from jaxmotion.types import CAMERA, OBJECT

WITHIN = "motion_score"
"""Under which key a data set's own list has the scores."""


def read_scores(path: Path, root: Path, places: Mapping[str, int]) -> dict[int, tuple[float, float]]:
    """Object and camera score by the place of a clip; clips that have no place are left out.

    Args:
        root: where the list's paths start, if they are not found from here or beside the list.
        places: the place of a clip by its resolved path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object with a path and both scores.
    """
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            said = row.get(WITHIN, row)
            scores = (float(said[OBJECT]), float(said[CAMERA]))
            name = Path(row["path"] if "path" in row else row["file_name"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: needs path, object and camera ({error!r}).") from error
        for place in (name, root / name, root / name.name, path.parent / name):
            if str(place.resolve()) in places:
                found[places[str(place.resolve())]] = scores
                break
    return found
