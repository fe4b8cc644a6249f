"""Controls are read, checked, put into batches and named in one place each, whatever their values are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxmotion.foundation.config_json import from_json, register, to_json
from jaxmotion.systems.control import Control, Scalar, combinations, control_entries, describe, filename_suffix, sweeps

LEVEL = Scalar(integer=True)
SCORES = {"object": Scalar(), "camera": Scalar()}


@register()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Colour(Control[str]):
    """A control that is no number: one of three colours, as a one-hot row."""

    names: tuple[str, ...] = ("red", "green", "blue")

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(self.check(part) for part in text.split("+"))

    def check(self, value: str) -> str:
        if value not in self.names:
            raise ValueError(f"a colour is one of {', '.join(self.names)}; got {value!r}")
        return value

    def entry(self, values) -> np.ndarray:
        return np.stack([np.eye(len(self.names), dtype=np.float32)[self.names.index(value)] for value in values])


MIXED = {"level": LEVEL, "colour": Colour()}


def test_a_scalar_reads_each_value_once_and_in_order() -> None:
    assert LEVEL.parse("5") == (5,)
    assert LEVEL.parse(" 1, 10,5,10 ") == (1, 10, 5)
    assert Scalar().parse("2.5,9,2.5") == (2.5, 9.0)


@pytest.mark.parametrize("text", ["11", "0", "-3", "1,five", "2.5", "1,,11", "nan", " , "])
def test_a_scalar_says_what_came_and_what_would_do(text: str) -> None:
    with pytest.raises(ValueError, match=r"values are whole numbers from 1 to 10, e\.g\. 1,5,10"):
        LEVEL.parse(text)


def test_sweeps_hold_the_other_controls() -> None:
    assert LEVEL.sweep == Scalar().sweep == (1, 5, 10)
    found = sweeps(SCORES)
    assert [(each["object"], each["camera"]) for each in found] == [(1, 5), (5, 5), (10, 5), (5, 1), (5, 10)]
    assert [each["camera"] for each in sweeps(SCORES, {"camera": 7.0})[:3]] == [7.0] * 3
    assert sweeps({}) == [{}]
    assert sweeps({"colour": Colour(default="red")}) == [{"colour": "red"}]
    assert sweeps(MIXED, {"colour": "blue"}) == [{"level": level, "colour": "blue"} for level in (1, 5, 10)]


def test_entries_are_what_each_control_makes_of_its_values() -> None:
    entries = control_entries(MIXED, [{"level": 3, "colour": "blue"}, {"colour": "red"}])
    np.testing.assert_array_equal(entries["level"], np.array([3, 5], np.int32), strict=True)
    np.testing.assert_array_equal(entries["colour"], np.float32([[0, 0, 1], [1, 0, 0]]), strict=True)
    assert control_entries(SCORES, [{}])["object"].dtype == np.float32


def test_every_combination_in_the_order_of_the_controls() -> None:
    found = combinations(MIXED, {"colour": ("red", "blue"), "level": (1, 10, 1)})
    assert [tuple(each.values()) for each in found] == [(1, "red"), (1, "blue"), (10, "red"), (10, "blue")]
    assert combinations(SCORES, {}) == [{"object": 5.0, "camera": 5.0}]
    assert combinations({}, {}) == [{}]


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ({"speed": (1,)}, "no control speed; it has level, colour"),
        ({"level": (1, 11)}, r"level: values are whole numbers .*; got 11"),
        ({"level": (2.5,)}, r"got 2\.5"),
        ({"level": ()}, "No level was asked for"),
        ({"level": 5}, "takes a tuple of values.*got 5"),
        ({"colour": "red"}, "takes a tuple of values.*got 'red'"),
        ({"colour": ("pink",)}, "one of red, green, blue; got 'pink'"),
        ({}, "'colour' has no default; it must be given"),
    ],
)
def test_a_wrong_request_is_refused(requested: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        combinations(MIXED, requested)


def test_values_are_named_for_grids_and_files() -> None:
    values = {"object": 2.5, "camera": 10.0}
    assert describe(SCORES, values) == "object 2.5, camera 10"
    assert filename_suffix(SCORES, values) == "-object2.5-camera10"
    assert filename_suffix(MIXED, {"level": 5, "colour": "red"}, "_") == "_level05_colourred"
    assert Colour().filename_part("colour", "a/b c") == "coloura_b_c"


def test_an_example_is_previewed_at_its_own_value_where_it_has_one() -> None:
    assert Colour().from_example("colour", {"colour": "green"}) == "green"
    assert Colour().from_example("colour", {}) is None
    assert Scalar().from_example("object", {"object": 7.0}) == 5.0  # previews of all clips can be compared


def test_controls_come_back_from_json() -> None:
    for control in (LEVEL, Scalar(low=0, high=1, default=None), Colour(default="red")):
        assert from_json(to_json(control), Control) == control


def test_a_scalar_without_a_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between two ends"):
        Scalar(low=2, high=1)
    with pytest.raises(ValueError, match="outside 1 to 10"):
        Scalar(default=0)
