"""Dials that do what they say, that do not, and that move each other's axis."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxmotion.evaluation.dials import Scene, measure_dials, plot, summary, table, write
from jaxmotion.video import motion_scale as unit

SCENES = [Scene(name, np.zeros((8, 8, 3), np.uint8), "a cat") for name in ("one", "two", "three")]
BOTH = {"object": "object", "camera": "camera"}
VALUES = (1, 4, 7, 10)


def turned(answer, dials=BOTH, seeds=(0, 1)):
    """What is measured of a system that answers settings with (object score, camera score)."""
    asked_for = []

    def make(scene, asked, seed):
        asked_for.append((scene.name, tuple(tuple(each.items()) for each in asked), seed))
        rows = [answer({"object": 5.0, "camera": 5.0, "intensity": 5.0, **each}, scene, seed) for each in asked]
        return np.array(rows, np.float64)

    def speeds(clip, mask):
        return tuple(float(unit.speed(float(score))) for score in clip)

    found = measure_dials(make, SCENES, dials, speeds, values=VALUES, seeds=seeds)
    return summary(found), asked_for


def test_dials_that_do_what_they_say() -> None:
    numbers, asked = turned(lambda at, scene, seed: (at["object"], at["camera"]))
    for axis in BOTH:
        assert numbers[f"rho_{axis}"] == pytest.approx(1.0)
        assert numbers[f"rho_per_scene_{axis}"] == pytest.approx(1.0)
        assert numbers[f"change_{axis}"] == pytest.approx(9.0)
        assert numbers[f"cross_talk_{axis}"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["clips"] == 2 * 3 * 4 * 2
    assert ("one", ((("object", 1),), (("object", 4),), (("object", 7),), (("object", 10),)), 0) in asked
    assert len(asked) == 2 * 3 * 2


def test_a_dial_that_moves_the_other_axis_too() -> None:
    numbers, _ = turned(lambda at, scene, seed: (at["object"] + 0.25 * (at["camera"] - 5), at["camera"]))
    assert numbers["cross_talk_camera"] == pytest.approx(0.25, abs=0.01)
    assert numbers["cross_talk_object"] == pytest.approx(0.0, abs=1e-6)


def test_one_dial_for_both_axes_cannot_tell_them_apart() -> None:
    numbers, asked = turned(
        lambda at, scene, seed: (at["intensity"], at["intensity"]), {"object": "intensity", "camera": "intensity"}
    )
    assert numbers["cross_talk_object"] == numbers["cross_talk_camera"] == pytest.approx(1.0)
    assert len(asked) == 3 * 2  # turned once, not once for each axis


def test_a_dial_that_does_nothing() -> None:
    numbers, _ = turned(lambda at, scene, seed: (3.0, 2.0))
    assert numbers["rho_object"] == 0.0
    assert numbers["cross_talk_object"] is None


def test_what_is_asked_for_must_make_sense() -> None:
    with pytest.raises(ValueError, match="two or more ascending values"):
        measure_dials(lambda *_: None, SCENES, BOTH, lambda *_: (0, 0), values=(5,))
    with pytest.raises(ValueError, match="0 scenes"):
        measure_dials(lambda *_: None, [], BOTH, lambda *_: (0, 0))


def test_it_is_written_and_drawn(tmp_path) -> None:
    numbers, _ = turned(lambda at, scene, seed: (at["object"], 2.0 + seed))
    assert json.loads(write(numbers, tmp_path).read_text())["values"] == list(VALUES)
    assert plot(numbers, tmp_path).stat().st_size > 10_000
    assert table({"full": numbers, "other": numbers}, "both").row_count == 2
