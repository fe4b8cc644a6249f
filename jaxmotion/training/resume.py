"""Check that a run may continue with a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxmotion.foundation import config_json as saved
from jaxmotion.foundation.errors import ConfigChangedError
from jaxmotion.foundation.files import read_json
from jaxmotion.training.config import MAY_CHANGE
from jaxmotion.training.restore import latest_step

CONFIG = "config.json"
_ABSENT = "nothing"


def check_continues(
    directory: str | Path, meta: Mapping[str, saved.JsonValue], may_change: Sequence[str] = MAY_CHANGE
) -> None:
    """Raises ConfigChangedError, naming each value, if the run in `directory` cannot go on with `meta`.

    `meta` is the whole configuration. Anything goes while there is no checkpoint, and what matches `may_change`
    (regular expressions searched in '/'-joined paths of `meta`) may always differ. Fields that the configuration has
    got since the run was started count as having been at their default.
    """
    directory = Path(directory).absolute()
    path = directory / CONFIG
    if latest_step(directory) is None or not path.exists():
        return
    before, now = read_json(path), json.loads(json.dumps(meta))
    before = json.loads(json.dumps(saved.upgrade_json(before)))
    changes = [
        f"  {path} was {old} and is now {new}"
        for path, old, new in differences(before, now)
        if not any(re.search(pattern, path) for pattern in may_change)
    ]
    if changes:
        raise ConfigChangedError(
            f"The run in {directory} was started with another configuration and cannot continue with this one:\n"
            + "\n".join(changes)
            + "\nPut the old values back, or start in another folder with --run."
        )


def differences(before: saved.JsonValue, now: saved.JsonValue, path: str = "") -> list[tuple[str, str, str]]:
    """Returns (path, old value, new value) as JSON text, for each place where two JSON values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for name in [*before, *(name for name in now if name not in before)]:
            below = f"{path}/{name}" if path else name
            if name not in now:
                found.append((below, json.dumps(before[name]), _ABSENT))
            elif name not in before:
                found.append((below, _ABSENT, json.dumps(now[name])))
            else:
                found += differences(before[name], now[name], below)
        return found
    return [] if before == now else [(path, json.dumps(before), json.dumps(now))]
