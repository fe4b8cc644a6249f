"""Settings of a precomputed set: everything that decides its records, as JSON values.

clips: the data config, and how many clips, windows and records a shard. files: `DataSource.fingerprint`.
encoders: the settings of every precomputed entry, the labels, the texts, the precision, digests of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from jaxmotion.foundation.config_json import Json, JsonValue, upgrade_json
from jaxmotion.foundation.entries import TEXT
from jaxmotion.video.synthetic.captions import CAPTION

SETTINGS = "settings.json"
"""The file of the settings; other settings are another set."""
CLIPS, ENCODERS, LABELS, TEXTS, WEIGHTS = "clips", "encoders", "labels", "texts", "weights"
COUNTS = ("count", "windows", "per_shard")
"""Keys beside the data config in `clips`."""
_EARLIER_LABELS = "scores"


def labels_and_texts(settings: Json) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the labels and the texts (`DataSource.texts`) of a set's records, of this or an earlier version."""
    encoders = settings[ENCODERS]
    return tuple(encoders.get(LABELS, encoders.get(_EARLIER_LABELS, ()))), encoders.get(TEXTS, {TEXT: CAPTION})


def upgrade(settings: Json, like: Json | None = None) -> Json:
    """Returns settings of this or an earlier version as this version writes them.

    Args:
        like: settings of this version; earlier ones do not name the class of their data, so they take it from there.
    """
    values: Json = json.loads(json.dumps(settings))
    if isinstance(values.get(CLIPS), dict):
        values[CLIPS] = _upgrade_clips(values[CLIPS], (like or {}).get(CLIPS, {}))
    if isinstance(values.get(ENCODERS), dict):
        values[ENCODERS] = _upgrade_encoders(values[ENCODERS], (like or {}).get(ENCODERS))
    return values


def _upgrade_clips(clips: Json, like: Json) -> Json:
    counts = {name: clips.pop(name) for name in COUNTS if name in clips}
    tag = {"class": like["class"]} if "class" in like else {}
    return {**upgrade_json({**tag, **clips}), **counts}


def _upgrade_encoders(encoders: Json, like: Json | None) -> Json:
    made = {name: _upgrade_part(part) for name, part in encoders.items()}
    if TEXTS in made:
        return made
    # Earlier versions named the labels otherwise, and recorded parts that compute nothing of a record.
    labels, texts = labels_and_texts({ENCODERS: encoders})
    made.pop(_EARLIER_LABELS, None)
    made |= {LABELS: list(labels), TEXTS: texts}
    return {name: part for name, part in made.items() if like is None or name in like}


def _upgrade_part(part: JsonValue) -> JsonValue:
    if not isinstance(part, dict) or "class" not in part:
        return part
    if str(part["class"]).rpartition(":")[2] == "Droppable":  # how often training drops a text changes no record
        return _upgrade_part(part["of"])
    return upgrade_json(part)


def differences(there: JsonValue, requested: JsonValue, path: str = "") -> Iterator[str]:
    """Yields the paths at which two settings differ, such as `clips.fps`."""
    if isinstance(there, dict) and isinstance(requested, dict):
        for name in sorted({*there, *requested}):
            below = f"{path}.{name}" if path else name
            if name in there and name in requested:
                yield from differences(there[name], requested[name], below)
            else:
                yield below
    elif there != requested:
        yield path
