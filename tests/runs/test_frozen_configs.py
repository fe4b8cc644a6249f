"""What earlier versions wrote still opens: configurations say what the shipped ones say, so such runs go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxmotion.meter.meter import packaged_meter
from jaxmotion.runs.compatibility import check_precomputed
from jaxmotion.runs.experiment import from_json, load, override, to_json
from jaxmotion.training.config import MAY_CHANGE
from jaxmotion.training.resume import differences

FROZEN = Path(__file__).parent / "frozen"
CHANGED = {
    # A fresh LivePhoto halved the text that its frozen U-Net reads. Runs from before go on with 0.5, by this flag, for
    # what they have learned belongs to it.
    "livephoto.full": ["--system.conditioners.text.initial-weight", "0.5"],
    # Dials go up to 10, a diagonal a second; training stopped at 9.5.
    "motionstone.tiny": ["--data.camera-speed", "0.012", "0.8", "--data.object-speed", "0.012", "0.8"],
}
"""Shipped values that are others now, and what continues an earlier run."""


@pytest.mark.parametrize("name", sorted(path.stem for path in FROZEN.glob("*.json")))
def test_an_earlier_file_is_the_shipped_experiment(name: str) -> None:
    file, _, value = name.partition(".")
    opened = from_json(json.loads((FROZEN / f"{name}.json").read_text()))
    found = differences(to_json(opened), to_json(override(load(f"{file}:{value}"), CHANGED.get(name, []), "test", "")))
    assert [each for each in found if not any(re.search(pattern, each[0]) for pattern in MAY_CHANGE)] == []


def test_a_set_that_was_prepared_before_is_trained_on(root: Path, tmp_path: Path) -> None:
    """Its settings are those of its encoders, and of no others."""
    settings = json.loads((Path(__file__).parent / "frozen_set" / "settings.json").read_text())
    experiment = load(f"{root}/benchmarks/same_as_before_configs.py:motionstone_prepared")
    source = SimpleNamespace(parts=[SimpleNamespace(settings=settings)])
    check_precomputed(experiment, source, {}, tmp_path, fresh=True)  # pyright: ignore[reportArgumentType]
    check_precomputed(experiment, source, {}, tmp_path, fresh=False)  # pyright: ignore[reportArgumentType]
    other = override(experiment, ["--system.codec.sizes.scaling", "0.5"], "test", "")
    with pytest.raises(ValueError, match="made with another codec than this run"):
        check_precomputed(other, source, {}, tmp_path, fresh=True)  # pyright: ignore[reportArgumentType]


def test_the_shipped_meter_has_its_earlier_name() -> None:
    """Scores carry the name, so that those of other weights are told apart."""
    assert packaged_meter().name == "motion_meter-993730dd7dee"
