"""Configurations that earlier versions wrote still open, and say what the shipped ones say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxmotion.foundation.config_json import from_json, to_json
from jaxmotion.runs.experiment import Experiment, load

FROZEN = Path(__file__).parent / "frozen"


@pytest.mark.parametrize("name", sorted(path.stem for path in FROZEN.glob("*.*.json")))
def test_the_system_of_an_earlier_file_is_the_shipped_one(name: str) -> None:
    """So a run that was started before goes on: rates of dropping, renamed classes and fields are read."""
    file, _, value = name.partition(".")
    opened = from_json(json.loads((FROZEN / f"{name}.json").read_text()), Experiment)
    assert to_json(opened.system) == to_json(load(f"{file}:{value}").system)
