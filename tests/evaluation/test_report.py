"""The report is one page that needs nothing else, and says what the files of the run say."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxmotion.evaluation import control, dials
from jaxmotion.evaluation.chart import Line, line_chart
from jaxmotion.evaluation.report import Row, write_report
from jaxmotion.foundation.types import Settings

PHOTO = np.stack([*np.mgrid[:32, :32] * 7, np.full((32, 32), 90)], -1).astype(np.uint8)


def asked(level: int) -> Settings:
    return (("level", level),)


MOTION = {asked(1): 0.004, asked(10): 0.25}


class Page(HTMLParser):
    """What a page loads, says, and whether its elements close."""

    EMPTY = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.loaded += [
            (tag, value or "") for name, value in attrs if name in {"src", "href", "srcset", "data", "poster"}
        ]

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words += data + " "


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with metrics, control curve, config and two clips."""
    rows = [
        {"step": s, "loss": 2.0 / s, "step_seconds": 0.5, "clips_per_second": 64.0, "skipped": 0} for s in (10, 20, 40)
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 50, "loss": None, "step_seconds": 0.5}])
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 60, "lo')  # the last row is half written
    (tmp_path / "config.json").write_text(json.dumps({"class": "Experiment", "note": "<b>&"}))
    motion = np.linspace(0.1, 1, 10)[None, :, None] * np.array([0.9, 1.1])[:, None, None]
    curve = control.Control(("cat", "cup"), tuple(range(1, 11)), (0,), 8.0, {"ssim": motion, "flow": motion / 10})
    control.write(control.summary(curve), tmp_path)
    for level in (1, 10):
        (tmp_path / f"cat-{level}.mp4").write_bytes(b"clip of level %d" % level)
    return tmp_path


def page_of(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    page.close()
    assert page.open == []
    return text, page


def test_everything_is_inside_the_page(run: Path) -> None:
    row = Row(
        PHOTO,
        {asked(10): run / "cat-10.mp4", asked(1): run / "cat-1.mp4"},
        "a cat",
        "cat",
        {asked(1): 0.004, asked(10): 0.25},
    )
    text, page = page_of(write_report(run, [row], facts={"device": "one CPU"}))
    assert [tag for tag, _ in page.loaded] == ["img", "video", "video"]
    assert all(value.startswith("data:") for _, value in page.loaded)
    clips = [base64.b64decode(value.partition(",")[2]) for tag, value in page.loaded if tag == "video"]
    assert clips == [b"clip of level 1", b"clip of level 10"]  # in the order of the levels
    with Image.open(io.BytesIO(base64.b64decode(page.loaded[0][1].partition(",")[2]))) as photo:
        shown = np.asarray(photo, float)
    assert shown.shape == (256, 256, 3)
    assert np.abs(shown.reshape(32, 8, 32, 8, 3).mean((1, 3)) - PHOTO).mean() < 1
    assert "default-src 'none'" in text  # the browser itself refuses anything from elsewhere
    assert not re.search(r"https?://|url\(|@import|fetch\(", text)


def test_the_page_says_what_the_files_say(run: Path) -> None:
    numbers = json.loads((run / "evaluate" / "control.json").read_text())
    row = Row(
        PHOTO,
        {asked(1): run / "cat-1.mp4", asked(10): run / "cat-10.mp4"},
        "a cat",
        "cat",
        {asked(1): 0.004, asked(10): 0.25},
    )
    _, page = page_of(write_report(run, [row], facts={"device": "one CPU"}))
    words = " ".join(page.words.split())
    assert f"{numbers['spearman_ssim']:.2f} at least 0.9" in words
    assert "10 % under a third" in words
    assert "25 s of training, 50 steps" in words  # 50 steps of half a second
    assert "level 1 0.40 % a second" in words
    assert "level 10 25 % a second" in words
    assert "The loss went from 0.2 to" in words
    assert "device one CPU" in words
    assert '"note": "<b>&"' in words  # escaped in the page, itself again when read
    assert page.tags.count("svg") == 3


def test_control_that_falls_short_is_said_to(run: Path) -> None:
    flat = np.array([[3.0, 1.0, 2.0, 1.5, 2.5, 1.0, 3.0, 2.0, 1.0, 2.0]])[..., None]
    numbers = control.summary(control.Control(("cat",), tuple(range(1, 11)), (0,), 8.0, {"flow": flat}))
    control.write(numbers, run)
    words = " ".join(page_of(write_report(run, []))[1].words.split())
    assert "below 0.9" in words
    assert "over a third" in words


def test_two_dials_have_their_own_curves(run: Path) -> None:
    """The object dial does what it should; the camera dial moves both axes alike."""
    rising = np.linspace(1, 10, 10)[None, :, None]
    still = np.full((1, 10, 1), 4.0)
    scores = np.array([[rising, still], [rising, rising]])
    turned = dials.Turned({a: a for a in dials.AXES}, tuple(range(1, 11)), ("cup",), (0,), scores)
    dials.write(dials.summary(turned), run)
    row = Row(PHOTO, {(("object", 1.0), ("camera", 5.0)): run / "cat-1.mp4"}, "a cat", "cat")
    _, page = page_of(write_report(run, [row]))
    words = " ".join(page.words.split())
    assert "1.00 at least 0.85" in words
    assert "0.00 at most 0.25" in words
    assert "1.00 above 0.25" in words
    assert "object 1, camera 5" in words
    assert "measured on cup" in words
    assert page.tags.count("svg") == 3


def test_a_folder_with_nothing_still_gives_a_page(tmp_path: Path) -> None:
    _, page = page_of(write_report(tmp_path, []))
    assert "svg" not in page.tags
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_words_of_people_are_not_markup(run: Path) -> None:
    evil = "<script>alert('$body')</script> & \"quotes\" ${title}"
    row = Row(PHOTO, {asked(1): run / "cat-1.mp4"}, evil, evil)
    text, page = page_of(write_report(run, [row], title=evil, facts={evil: evil}))
    assert page.tags.count("script") == 1
    assert page.words.count("alert('$body')") == 5  # title, heading, prompt, fact and its value
    assert "<script>alert" not in text


def test_broken_files_of_a_run_are_named(run: Path) -> None:
    (run / "evaluate" / "control.json").write_text("{")
    with pytest.raises(ValueError, match=r"control\.json is no JSON"):
        write_report(run, [])
    (run / "evaluate" / "control.json").unlink()
    (run / "metrics.jsonl").write_text('oops\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .*metrics\.jsonl"):
        write_report(run, [])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="gone"):
        write_report(run, [Row(PHOTO, {asked(1): run / "gone.mp4"})])


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
