"""Charts put values where their axes say."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from jaxmotion.evaluation.chart import Line, line_chart


def svg(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def places(chart: str, style: str) -> np.ndarray:
    path = svg(chart).find(f"g[@class='{style}']/path[@class='line']")
    assert path is not None
    return np.array([[float(n) for n in point.split()] for point in path.get("d", "")[1:].split("L")])


def ticks(chart: str) -> dict[str, tuple[float, float]]:
    return {
        t.text or "": (float(t.get("x", 0)), float(t.get("y", 0)) - 4) for t in svg(chart).iter("text") if t.get("x")
    }


def test_a_chart_puts_values_at_their_ticks() -> None:
    chart = line_chart(
        [Line([1, 2, 4], [0.0, 10.0, 20.0])], says="x", x_label="", y_label="", x_ticks=[1, 2, 4], zero=True
    )
    points, at = places(chart, "main"), ticks(chart)
    assert points[0, 1] == pytest.approx(at["0"][1], abs=0.2)
    assert points[1, 1] == pytest.approx(at["10"][1], abs=0.2)
    assert points[2, 1] == pytest.approx(at["20"][1], abs=0.2)
    assert points[1, 0] == pytest.approx(at["2"][0], abs=0.2)
    assert points[2, 0] - points[1, 0] == pytest.approx(2 * (points[1, 0] - points[0, 0]), abs=0.2)


def test_a_logarithmic_chart_has_equal_steps_for_equal_ratios() -> None:
    chart = line_chart([Line([1, 2, 3, 4], [1000.0, 10.0, 1.0, 0.1])], says="x", x_label="", y_label="", log=True)
    points, at = places(chart, "main"), ticks(chart)
    assert points[1, 1] - points[0, 1] == pytest.approx(2 * (points[2, 1] - points[1, 1]), abs=0.3)
    assert points[1, 1] == pytest.approx(at["10"][1], abs=0.2)
    assert points[0, 1] == pytest.approx(at["1 000"][1], abs=0.2)


@pytest.mark.parametrize("values", [[5.0, 5.0], [0.0, 0.0], [1e-9, 2e-9], [1.0, 1e9]])
def test_any_range_stays_inside_the_picture(values: list[float]) -> None:
    for options in ({"zero": True}, {"zero": False}, {"log": min(values) > 0}):
        chart = line_chart(
            [Line([3, 3.5], values, bars=[0.0, values[1] / 4 if "zero" in options else 0.0])],
            says="x",
            x_label="",
            y_label="",
            **options,
        )
        points = places(chart, "main")
        assert np.all(points >= 0)
        assert np.all(points[:, 0] <= 560)
        assert np.all(points[:, 1] <= 300)
        numbers = [t.text for t in svg(chart).iter("text")]
        assert len([n for n in numbers if n]) >= 2


def test_bars_dots_and_names_of_a_line() -> None:
    chart = line_chart(
        [Line([1, 2], [1.0, 3.0], "main", [0.5, 1.0], ["one <&>", "two"], "a < b")],
        says='the "chart"',
        x_label="x & y",
        y_label="z",
        x_ticks=[1, 2],
        zero=True,
    )
    group, at = svg(chart).find("g"), ticks(chart)
    assert group is not None
    assert [dot.findtext("title") for dot in group.findall("circle")] == ["one <&>", "two"]
    assert group.findtext("path[@class='line']/title") == "a < b"
    unit = (at["0"][1] - at["4"][1]) / 4  # pixels
    for bar, half in zip(group.findall("path[@class='bar']"), (0.5, 1.0), strict=True):
        start, end = bar.get("d", "")[1:].split("M")[0].split("V")
        assert float(start.split()[1]) - float(end) == pytest.approx(2 * half * unit, abs=0.3)
    assert svg(chart).get("aria-label") == 'the "chart"'
    assert "x & y" in [text.text for text in svg(chart).iter("text")]


def test_lines_are_drawn_in_order_and_share_their_axes() -> None:
    lines = [Line([1, 3], [2.0, 2.0], "faint"), Line([1, 3], [2.0, 4.0], "main")]
    chart = line_chart(lines, says="x", x_label="", y_label="")
    assert [group.get("class") for group in svg(chart).findall("g")] == ["faint", "main"]
    faint, main = places(chart, "faint"), places(chart, "main")
    assert np.array_equal(faint[0], main[0])
    assert main[1, 1] < faint[1, 1]  # larger is higher, which is a smaller y
