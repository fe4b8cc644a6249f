"""`calibration.json` in the folder of a run: what was measured on its training clips before the first step."""

from __future__ import annotations

from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import read_json
from jaxmotion.systems.system import System

CALIBRATION = "calibration.json"


def read_calibration(directory: Path) -> Json | None:
    """Returns what was measured for the run in a folder; None if nothing was.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = directory / CALIBRATION
    if not path.is_file():
        return None
    measured = read_json(path)
    if not isinstance(measured, dict):
        raise ValueError(f"{path} must hold a JSON object and holds {str(measured)[:60]}.")
    return measured


def calibrate(system: System, measured: Json, directory: Path) -> System:
    """Returns the system with what was measured for the run in a folder.

    Raises:
        ValueError: it is not what the system measures; the message names the file.
    """
    try:
        return system.with_calibration(measured)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{directory / CALIBRATION} is not what was measured for this system: {error}") from error
