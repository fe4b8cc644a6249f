"""The statistics of control curves, on generators whose motion is known."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxmotion.evaluation.control_curve import ControlCurve, SweepSettings
from jaxmotion.evaluation.curves import Curves, Sweep, summarize
from jaxmotion.evaluation.evaluation import Numbers, Scene, comparison, read_numbers, write_numbers
from jaxmotion.evaluation.measures import MEASURES, GeneratedClips, Measure
from jaxmotion.foundation import config_json
from jaxmotion.systems.control import Scalar

LEVELS = tuple(range(1, 11))
SCENES = [Scene(name, np.full((8, 8, 3), grey, np.uint8), f"a {name}") for name, grey in (("cat", 50), ("cup", 90))]
Motion = Callable[[Mapping[str, float], Scene, int], Sequence[float]]


class Answer:
    """A generator whose clips are the numbers that `motion` answers to control values; measures read them again."""

    def __init__(self, motion: Motion, *, measured_by: Mapping[str, tuple[str, ...]]) -> None:
        self.controls = {name: Scalar(measures=measures) for name, measures in measured_by.items()}
        self.motion = motion
        self.calls: list[tuple[str, tuple[Mapping[str, float], ...], int]] = []

    def __call__(self, scene: Scene, values: Sequence[Mapping[str, float]], seed: int) -> np.ndarray:
        self.calls.append((scene.name, tuple(values), seed))
        defaults = {name: control.default for name, control in self.controls.items()}
        return np.array([self.motion({**defaults, **each}, scene, seed) for each in values], np.float64)


def answered(number: int) -> Callable[[GeneratedClips], np.ndarray]:
    return lambda clips: clips.video[:, number]


@pytest.fixture(autouse=True)
def made_up_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures that read a generator's answers: `one` and `two` in a common unit, `other` in its own."""
    monkeypatch.setitem(MEASURES, "one", Measure("first answer", "score", answered(0), good_rho=0.85))
    monkeypatch.setitem(MEASURES, "two", Measure("second answer", "score", answered(1), good_rho=0.85))
    monkeypatch.setitem(MEASURES, "other", Measure("in another unit", "pixels", answered(1)))


def of_level(motion: Motion, measures: tuple[str, ...] = ("one",), **options) -> Numbers:
    """Numbers of one control `level`."""
    curve = ControlCurve(**{"seeds": (3, 4), **options})
    return curve.measure(Answer(motion, measured_by={"level": measures}), SCENES, 8.0)


def of_two(motion: Motion, values: tuple[float, ...] = (1, 4, 7, 10)) -> tuple[Numbers, Answer]:
    """Numbers of two controls, `a` that should move the first answer and `b` the second."""
    generate = Answer(motion, measured_by={"a": ("one",), "b": ("two",)})
    return ControlCurve(values=values).measure(generate, SCENES, 8.0), generate


def test_perfect_control() -> None:
    numbers = of_level(lambda at, scene, seed: [10 * at["level"]])
    level = numbers["controls"]["level"]
    one = level["measures"]["one"]
    assert one["spearman"] == pytest.approx(1.0)
    assert one["spearman_per_scene"] == pytest.approx(1.0)
    assert one["monotonicity"] == 1.0
    assert one["lowest_over_highest"] == level["lowest_over_highest"] == pytest.approx(0.1)
    assert one["change"] == 90.0
    assert level["values"] == list(LEVELS)
    assert one["mean"] == [10.0 * value for value in LEVELS]
    assert one["deviation"] == [0.0] * 10
    assert numbers["clips"] == 40


def test_control_the_wrong_way_round() -> None:
    one = of_level(lambda at, scene, seed: [200 - 10 * at["level"]])["controls"]["level"]["measures"]["one"]
    assert one["spearman"] == pytest.approx(-1.0)
    assert one["monotonicity"] == 0.0
    assert one["lowest_over_highest"] == pytest.approx(1.9)


def test_no_control_is_zero_and_not_undefined() -> None:
    level = of_level(lambda at, scene, seed: [0.0])["controls"]["level"]
    assert level["measures"]["one"]["spearman"] == 0.0
    assert level["lowest_over_highest"] is None


def test_scenes_that_differ_lower_the_pooled_rho_only() -> None:
    found = of_level(lambda at, scene, seed: [at["level"] + 100 * (scene.name == "cat")])
    one = found["controls"]["level"]["measures"]["one"]
    assert one["spearman_per_scene"] == pytest.approx(1.0)
    ranks = np.concatenate([np.arange(10), 10 + np.arange(10)])  # by hand: values of one scene, then the other's
    expected = np.corrcoef(np.tile(np.arange(10), 2), ranks)[0, 1]
    assert one["spearman"] == pytest.approx(expected, abs=1e-6)


def test_spread_and_scenes_of_the_curve_by_hand() -> None:
    motion = {("cat", 3): 10, ("cat", 4): 20, ("cup", 3): 30, ("cup", 4): 60}
    level = of_level(lambda at, scene, seed: [motion[scene.name, seed] * (at["level"] == 5)], values=(1, 5))
    one = level["controls"]["level"]["measures"]["one"]
    assert one["mean"] == [0.0, 30.0]
    assert one["deviation"] == [0.0, pytest.approx(np.std([10, 20, 30, 60]))]
    assert one["scenes"] == {"cat": [0.0, 15.0], "cup": [0.0, 45.0]}
    assert one["lowest_over_highest"] is None  # the highest level was not requested


def test_the_stillness_is_that_of_the_worse_measure() -> None:
    level = of_level(lambda at, scene, seed: [10 * at["level"], 10 * at["level"] + 10], ("one", "other"))
    numbers = level["controls"]["level"]
    assert numbers["measures"]["other"]["lowest_over_highest"] == pytest.approx(20 / 110)
    assert numbers["lowest_over_highest"] == numbers["measures"]["other"]["lowest_over_highest"]


def test_measures_in_different_units_have_no_cross_talk() -> None:
    level = of_level(lambda at, scene, seed: [at["level"], at["level"]], ("one", "other"))
    numbers = level["controls"]["level"]["measures"]
    assert numbers["one"]["cross_talk"] == numbers["other"]["cross_talk"] == {}
    assert numbers["one"]["largest_cross_talk"] is None


def test_two_controls_that_do_what_they_say() -> None:
    numbers, generate = of_two(lambda at, scene, seed: (at["a"], at["b"]))
    for control, own, other in (("a", "one", "two"), ("b", "two", "one")):
        found = numbers["controls"][control]["measures"][own]
        assert found["spearman"] == found["spearman_per_scene"] == pytest.approx(1.0)
        assert found["change"] == 9.0
        assert found["cross_talk"] == {other: 0.0}
        assert numbers["controls"][control]["measures"][other]["mean"] == [5.0] * 4
    assert numbers["clips"] == 2 * 2 * 4 * 2
    assert ("cat", ({"a": 1}, {"a": 4}, {"a": 7}, {"a": 10}), 0) in generate.calls
    assert len(generate.calls) == 2 * 2 * 2


def test_a_control_that_moves_the_other_measure_too() -> None:
    """`b` moves the first answer by a quarter of what it moves its own."""
    numbers, _ = of_two(lambda at, scene, seed: (at["a"] + 0.25 * (at["b"] - 5), at["b"]))
    assert numbers["controls"]["b"]["measures"]["two"]["cross_talk"] == {"one": 0.25}
    assert numbers["controls"]["a"]["measures"]["one"]["largest_cross_talk"] == 0.0


def test_one_control_for_two_measures_cannot_tell_them_apart() -> None:
    generate = Answer(lambda at, scene, seed: (at["i"], 2 * at["i"]), measured_by={"i": ("one", "two")})
    numbers = ControlCurve(values=(1, 10)).measure(generate, SCENES, 8.0)
    measures = numbers["controls"]["i"]["measures"]
    assert measures["one"]["cross_talk"] == {"two": 2.0}
    assert measures["two"]["cross_talk"] == {"one": 0.5}
    assert len(generate.calls) == 2 * 2  # swept once, not once for each measure


def test_a_control_that_does_nothing_has_no_cross_talk() -> None:
    numbers, _ = of_two(lambda at, scene, seed: (3.0, 2.0))
    assert numbers["controls"]["a"]["measures"]["one"]["spearman"] == 0.0
    assert numbers["controls"]["a"]["measures"]["one"]["cross_talk"] == {"two": None}


@pytest.mark.parametrize("sign", ["scene", "seed"])
def test_leaks_that_cancel_are_caught(sign: str) -> None:
    """`a` moves the second answer by half of what it moves its own, up in one scene or seed and down in the other."""

    def leak(at: Mapping[str, float], scene: Scene, seed: int) -> tuple[float, float]:
        up = scene.name == "cat" if sign == "scene" else seed == 0
        return at["a"], at["b"] + (0.5 if up else -0.5) * (at["a"] - 5)

    numbers, _ = of_two(leak)
    assert numbers["controls"]["a"]["measures"]["one"]["cross_talk"] == {"two": pytest.approx(0.5)}
    assert numbers["controls"]["a"]["measures"]["two"]["mean"] == pytest.approx([5.0] * 4)  # of which means see nothing
    keys = {key.name: key for key in ControlCurve().key_numbers(numbers)}
    assert (keys["cross-talk one"].value, keys["cross-talk one"].good) == (pytest.approx(0.5), False)


def test_a_leak_that_comes_and_goes_is_caught() -> None:
    numbers, _ = of_two(lambda at, scene, seed: (at["a"], at["b"] + 4.5 * (at["a"] == 7)))
    assert numbers["controls"]["a"]["measures"]["one"]["cross_talk"] == {"two": pytest.approx(0.5)}


def test_other_controls_are_held_where_they_say_or_the_config_says() -> None:
    generate = Answer(lambda at, scene, seed: (at["a"], at["b"]), measured_by={"a": ("one",), "b": ("two",)})
    generate.controls["b"] = Scalar(measures=("two",), held=1.0)
    numbers = ControlCurve(values=(1, 10), seeds=(0,)).measure(generate, SCENES, 8.0)
    assert numbers["controls"]["a"]["measures"]["two"]["mean"] == [1.0, 1.0]
    assert numbers["controls"]["b"]["measures"]["one"]["mean"] == [5.0, 5.0]  # a says nothing: its default
    assert (numbers["controls"]["a"]["held"], numbers["controls"]["b"]["held"]) == ({"b": 1.0}, {})
    sweeps = {"a": SweepSettings(values=(2, 4, 6), held={"b": 3.0})}
    curve = ControlCurve(values=(1, 10), seeds=(0,), sweeps=sweeps)
    numbers = curve.measure(generate, SCENES, 8.0)
    assert numbers["controls"]["a"]["measures"]["two"]["mean"] == [3.0] * 3
    assert numbers["controls"]["b"]["values"] == [1, 10]
    shorter = curve.with_changes({"values": (1, 5)})  # a command line's, for all controls
    assert {name: each["values"] for name, each in shorter.measure(generate, SCENES, 8.0)["controls"].items()} == {
        "a": [1, 5],
        "b": [1, 5],
    }
    assert config_json.from_json(config_json.to_json(curve), ControlCurve) == curve


def test_the_calibration_error_by_hand() -> None:
    """The right ranks at the wrong scale: half of what is asked above 1."""
    numbers = in_scores(lambda at, scene, seed: [1 + (at["level"] - 1) / 2 + (1 if scene.name == "cat" else -1)])
    one = numbers["controls"]["level"]["measures"]["scored"]
    asked = np.arange(1, 11)
    apart = np.stack([1 + (asked - 1) / 2 + sign - asked for sign in (1, -1)])
    assert one["spearman_per_scene"] == pytest.approx(1.0)
    assert one["calibration_error"] == pytest.approx(np.abs(apart).mean())
    assert one["error_by_value"] == pytest.approx(np.abs(apart).mean(0).tolist())
    assert one["bias_by_value"] == pytest.approx(apart.mean(0).tolist())
    keys = {key.name: key for key in ControlCurve().key_numbers(numbers)}
    assert keys["error scored"].verdict == "above 1"
    said = ControlCurve().section(numbers, Path())
    assert "most at 10, where it is 4.5 too little" in said
    assert '<td class="far">5.5</td>' in said


def test_a_control_in_another_unit_has_no_calibration_error() -> None:
    numbers = in_scores(lambda at, scene, seed: [at["level"]], unit="motion level")
    assert numbers["controls"]["level"]["measures"]["scored"]["calibration_error"] is None
    assert "is not defined: level is in motion level" in ControlCurve().section(numbers, Path())
    assert not any(key.name.startswith("error") for key in ControlCurve().key_numbers(numbers))
    assert in_scores(lambda at, scene, seed: [at["level"]], unit="score")["controls"]["level"]["measures"]["scored"][
        "calibration_error"
    ] == pytest.approx(0.0)


def in_scores(motion: Motion, unit: str = "") -> Numbers:
    """Numbers of one control `level` that is in the unit of its measure, unless it says another."""
    MEASURES["scored"] = Measure("score", "score", answered(0), (1.0, 10.0))
    generate = Answer(motion, measured_by={"level": ("scored",)})
    generate.controls["level"] = Scalar(measures=("scored",), unit=unit)
    try:
        return ControlCurve(seeds=(0,)).measure(generate, SCENES, 8.0)
    finally:
        del MEASURES["scored"]


def test_a_generator_brings_measures_of_its_own() -> None:
    class Measuring(Answer):
        def own_measures(self, scenes: Sequence[Scene]) -> Mapping[str, Mapping[str, Measure]]:
            assert list(scenes) == SCENES
            return {"level": {"own": Measure("its own", "level", answered(1), (1.0, 10.0))}}

    generate = Measuring(lambda at, scene, seed: (2 * at["level"], at["level"]), measured_by={"level": ("one",)})
    numbers = ControlCurve(seeds=(0,)).measure(generate, SCENES, 8.0)
    assert numbers["controls"]["level"]["own"] == ["one", "own"]
    assert numbers["controls"]["level"]["measures"]["own"]["calibration_error"] == 0.0


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (Scalar(low=1, high=3, default=2, integer=True), (1, 2, 3)),
        (Scalar(low=0, high=1, default=0.5), tuple(np.linspace(0, 1, 10))),
        (Scalar(), LEVELS),
    ],
)
def test_values_are_such_as_the_control_takes(control: Scalar, expected: tuple[float, ...]) -> None:
    generate = Answer(lambda at, scene, seed: [at["level"]], measured_by={"level": ("one",)})
    generate.controls["level"] = dataclasses.replace(control, measures=("one",))
    numbers = ControlCurve(seeds=(0,)).measure(generate, SCENES, 8.0)
    assert numbers["controls"]["level"]["values"] == pytest.approx(expected)
    assert all(control.check(value) == value for value in numbers["controls"]["level"]["values"])


def test_a_config_chooses_controls_and_their_measures() -> None:
    generate = Answer(lambda at, scene, seed: (at["a"], at["b"]), measured_by={"a": ("one",), "b": ("two",)})
    numbers = ControlCurve({"a": ("two",)}, values=(1, 10), seeds=(0,)).measure(generate, SCENES, 8.0)
    assert {control: curve["own"] for control, curve in numbers["controls"].items()} == {"a": ["two"]}
    assert numbers["controls"]["a"]["measures"]["two"]["change"] == 0.0


def test_scenes_need_the_entries_that_the_measures_read() -> None:
    controls = {"a": Scalar(measures=("object_speed", "ssim")), "b": Scalar(measures=("flow",))}
    assert ControlCurve().entries(controls) == ("masks",)
    assert ControlCurve({"b": ("flow",)}).entries(controls) == ()


@pytest.mark.parametrize(
    ("options", "measures", "message"),
    [
        ({"values": (5,)}, ("one",), "two or more ascending values"),
        ({"values": (5, 1)}, ("one",), "ascending"),
        ({"seeds": ()}, ("one",), "0 seeds"),
        ({}, (), "at least one measure"),
        ({}, ("depth",), "no measure depth; there are ssim"),
        ({"controls": {"speed": ("one",)}}, ("one",), "no numeric control speed; there are level"),
    ],
)
def test_what_cannot_be_measured(options: dict, measures: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_level(lambda at, scene, seed: [at["level"]], measures, **options)


def test_a_measure_that_fails_says_on_which_clip() -> None:
    with pytest.raises(ValueError, match="'one' is not finite for 'cat' at level 7, seed 3"):
        of_level(lambda at, scene, seed: [np.nan if at["level"] == 7 else 1.0])
    sweeps, measures = {"a": Sweep((1, 2), ("one",))}, {"one": MEASURES["one"]}
    with pytest.raises(ValueError, match=r"values \(1, 2\) for"):
        Curves(sweeps, measures, ("cat",), (0,), 8.0, {"a": (1, 10)}, {"a": {"one": np.zeros((1, 2))}})


def test_written_numbers_table_and_plot(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curve = ControlCurve()
    numbers = of_level(lambda at, scene, seed: [at["level"], at["level"] + rng.uniform(0, 3)], ("one", "other"))
    path = write_numbers(tmp_path, "control", curve, numbers)
    assert path == tmp_path / "evaluate" / "control.json"
    assert read_numbers(path) == (curve, json.loads(path.read_text()))
    assert {"evaluation": json.loads(path.read_text())["evaluation"], **numbers} == json.loads(path.read_text())
    text = io.StringIO()
    Console(file=text, width=100).print(curve.table(numbers))
    assert "level 10" in text.getvalue()
    assert f"{numbers['controls']['level']['measures']['other']['spearman']:.3f}" in text.getvalue()
    with Image.open(tmp_path / "evaluate" / "control.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    orange = (np.abs(pixels - (194, 73, 29)).max(-1) < 10).any(0)
    assert orange[: len(orange) // 2].any()  # one curve in either half
    assert orange[len(orange) // 2 :].any()
    assert sorted(file.name for file in path.parent.iterdir()) == ["control.json", "control.png"]


def test_numbers_without_errors_are_of_an_earlier_version(tmp_path: Path) -> None:
    numbers = of_level(lambda at, scene, seed: [at["level"]])
    path = write_numbers(tmp_path, "control", ControlCurve(), numbers)
    assert read_numbers(path) is not None
    del numbers["controls"]["level"]["measures"]["one"]["calibration_error"]
    path.write_text(json.dumps({"evaluation": config_json.to_json(ControlCurve()), **numbers}))
    assert read_numbers(path) is None


def test_runs_side_by_side_have_one_column_for_each_key_number() -> None:
    """Runs with one control and with two are compared by the measures that they share."""
    both, _ = of_two(lambda at, scene, seed: (at["a"], at["b"]))
    generate = Answer(lambda at, scene, seed: (at["i"], at["i"]), measured_by={"i": ("one", "two")})
    single = ControlCurve(values=(1, 10)).measure(generate, SCENES, 8.0)
    found = {"full": ControlCurve().key_numbers(both), "single": ControlCurve().key_numbers(single)}
    table = comparison(found, "2 experiments")
    columns = [column.header for column in table.columns]
    assert table.row_count == 2
    assert columns.count("rho one") == 1
    cells = list(table.columns[columns.index("cross-talk one")].cells)
    assert cells == ["0.000", "1.000"]


def test_a_file_of_an_earlier_version_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "control.json").write_text('{"spearman_ssim": 1.0, "curve": {}}')
    assert read_numbers(tmp_path / "control.json") is None


def test_a_curve_of_numbers_by_hand() -> None:
    """Two scenes, two values, one seed: everything follows from four numbers."""
    measured = {"a": {"one": np.array([[[1.0], [3.0]], [[2.0], [2.0]]])}}
    curves = Curves(
        {"a": Sweep((1, 10), ("one",))}, {"one": MEASURES["one"]}, ("x", "y"), (0,), 8.0, {"a": (1, 10)}, measured
    )
    one = summarize(curves)["controls"]["a"]["measures"]["one"]
    assert (one["mean"], one["change"], one["monotonicity"]) == ([1.5, 2.5], 1.0, 0.5)
    assert one["spearman_per_scene"] == pytest.approx(0.5)  # 1 for the scene that rises, 0 for the one that stays
    assert one["lowest_over_highest"] == 0.6
