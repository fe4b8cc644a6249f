"""Configurations that earlier versions wrote still open, and say what the shipped ones say: such runs go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxmotion.runs.experiment import from_json, load, to_json

FROZEN = Path(__file__).parent / "frozen"


@pytest.mark.parametrize("name", sorted(path.stem for path in FROZEN.glob("*.json")))
def test_an_earlier_file_is_the_shipped_experiment(name: str) -> None:
    file, _, value = name.partition(".")
    opened = from_json(json.loads((FROZEN / f"{name}.json").read_text()))
    assert to_json(opened) == to_json(load(f"{file}:{value}"))
