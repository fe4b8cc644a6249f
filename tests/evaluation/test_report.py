"""The report is one page that needs nothing else, and says what the files of the run say."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxmotion.evaluation.control_curve import ControlCurve
from jaxmotion.evaluation.curves import Curves, Sweep, summarize
from jaxmotion.evaluation.evaluation import Evaluation, KeyNumber, Numbers, write_numbers
from jaxmotion.evaluation.measures import MEASURES
from jaxmotion.evaluation.report import Panel, Row, write_report
from jaxmotion.foundation.config_json import register

PHOTO = np.stack([*np.mgrid[:32, :32] * 7, np.full((32, 32), 90)], -1).astype(np.uint8)


LEVELS = tuple(range(1, 11))


def row(run: Path, *, prompt: str = "a cat", name: str = "cat") -> Row:
    """A photo and its clips at level 1 and 10, with their motion."""
    panels = [Panel(run / f"cat-{level}.mp4", f"level {level}", heat, motion) for level, heat, motion in CLIPS]
    return Row(PHOTO, panels, prompt, name)


CLIPS = ((1, 0.0, 0.004), (10, 1.0, 0.25))


def write_curve(run: Path, measured: dict, own: dict, scenes: tuple[str, ...]) -> Numbers:
    """Numbers of a control curve with these measurements [scenes values seeds] by control and measure."""
    sweeps = {control: Sweep(LEVELS, names) for control, names in own.items()}
    measures = {name: MEASURES[name] for found in measured.values() for name in found}
    numbers = summarize(Curves(sweeps, measures, scenes, (0,), 8.0, dict.fromkeys(own, (1, 10)), measured))
    write_numbers(run, "control", ControlCurve(), numbers)
    return numbers


@register()
@dataclasses.dataclass(frozen=True)
class Loudness(Evaluation):
    """An evaluation that the package does not know."""

    def key_numbers(self, numbers: Numbers) -> tuple[KeyNumber, ...]:
        return (KeyNumber("loudness", numbers["loudness"], "how loud the clips are", "at most 11", good=True),)


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
    write_curve(tmp_path, {"level": {"ssim": motion, "flow": motion / 10}}, {"level": ("ssim", "flow")}, ("cat", "cup"))
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
    text, page = page_of(write_report(run, [row(run)], facts={"device": "one CPU"}))
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
    _, page = page_of(write_report(run, [row(run)], facts={"device": "one CPU"}))
    words = " ".join(page.words.split())
    rho = numbers["controls"]["level"]["measures"]["ssim"]["spearman"]
    assert f"{rho:.2f} at least 0.9" in words
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
    write_curve(run, {"level": {"flow": flat}}, {"level": ("flow",)}, ("cat",))
    words = " ".join(page_of(write_report(run, []))[1].words.split())
    assert "below 0.9" in words
    assert "over a third" in words


def test_two_controls_have_their_own_curves(run: Path) -> None:
    """The first control does what it should; the second moves both measures alike."""
    rising, still = np.linspace(1, 10, 10)[None, :, None], np.full((1, 10, 1), 4.0)
    measured = {
        "object": {"object_speed": rising, "camera_speed": still},
        "camera": {"object_speed": rising, "camera_speed": rising},
    }
    write_curve(run, measured, {"object": ("object_speed",), "camera": ("camera_speed",)}, ("cup",))
    _, page = page_of(write_report(run, [Row(PHOTO, [Panel(run / "cat-1.mp4", "object 1, camera 5")], "a cat", "cat")]))
    words = " ".join(page.words.split())
    assert "1.00 at least 0.85" in words
    assert "0.00 at most 0.25" in words
    assert "1.00 above 0.25" in words
    assert "object 1, camera 5" in words
    assert "measured on cup" in words
    assert page.tags.count("svg") == 3


def test_every_evaluation_has_its_section(run: Path) -> None:
    """Also one that draws nothing by itself: its key numbers."""
    write_numbers(run, "loudness", Loudness(), {"loudness": 7.25})
    _, page = page_of(write_report(run, []))
    words = " ".join(page.words.split())
    assert "Does it move as much as requested?" in words
    assert "7.25 at most 11 how loud the clips are" in words  # as a tile
    assert "Loudness how loud the clips are 7.250" in words  # as a section
    assert page.tags.count("svg") == 3


def test_numbers_of_an_earlier_version_are_said_to_be(run: Path) -> None:
    (run / "evaluate" / "control.json").write_text('{"spearman_ssim": 1.0}')
    words = " ".join(page_of(write_report(run, []))[1].words.split())
    assert "control.json is of an earlier version: measure again" in words


def test_a_folder_with_nothing_still_gives_a_page(tmp_path: Path) -> None:
    _, page = page_of(write_report(tmp_path, []))
    assert "svg" not in page.tags
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_words_of_people_are_not_markup(run: Path) -> None:
    evil = "<script>alert('$body')</script> & \"quotes\" ${title}"
    shown = row(run, prompt=evil, name=evil)
    text, page = page_of(write_report(run, [shown], title=evil, facts={evil: evil}))
    assert page.tags.count("script") == 1
    assert page.words.count("alert('$body')") == 5  # title, heading, prompt, fact and its value
    assert "<script>alert" not in text


def test_broken_files_of_a_run_are_named(run: Path) -> None:
    (run / "evaluate" / "control.json").write_text("{")
    with pytest.raises(ValueError, match=r"control\.json is damaged or only half written"):
        write_report(run, [])
    (run / "evaluate" / "control.json").unlink()
    with pytest.raises(FileNotFoundError, match="gone"):
        write_report(run, [Row(PHOTO, [Panel(run / "gone.mp4", "level 1")])])


@pytest.mark.parametrize("name", ["metrics.jsonl", "bad_clips.jsonl"])
def test_lines_that_a_killed_process_left_torn_stop_no_report(run: Path, name: str) -> None:
    whole = write_report(run, []).read_text()
    rows = (run / name).read_text() if (run / name).exists() else ""
    assert rows or name == "bad_clips.jsonl"
    (run / name).write_bytes(b'{"step": 1, "lo\n' + rows.encode() + b"\xff\x00")
    assert write_report(run, []).read_text() == whole
