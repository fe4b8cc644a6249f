import numpy as np
import pytest
from PIL import Image

from jaxmotion.meter.plot import draw_contact_sheet, plot_scores
from jaxmotion.video.decode import BadClipError


def records(count):
    moves = ("static", "pan", "zoom")
    return [
        {"path": f"{n:03}.mp4", "object": 1 + 8 * n / count, "camera": 9 - 8 * n / count, "move": moves[n % 3]}
        for n in range(count)
    ]


@pytest.fixture
def shown():
    """Which clips were asked for frames; each has the grey of its number."""
    asked = []

    def frames(path):
        asked.append(path)
        return [np.full((40, 60, 3), int(path[:3]), np.uint8)] * 3

    frames.asked = asked
    return frames


@pytest.mark.parametrize("count", [1, 2, 40])
def test_scores_are_drawn(tmp_path, count):
    with Image.open(plot_scores(records(count), tmp_path / "deep" / "scores.png")) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert ((colours == (0xC2, 0x49, 0x1D)).all(1)).sum() > 300  # the bars of object scores
    assert ((colours == (0x3B, 0x6E, 0xA5)).all(1)).sum() > 300  # and of camera scores


def test_the_sheet_shows_the_extremes_from_the_outside_in(tmp_path, shown):
    path = draw_contact_sheet(records(40), tmp_path / "sheet.png", shown)
    least, most = list(range(5)), list(range(39, 34, -1))
    assert [int(name[:3]) for name in shown.asked] == [*least, *most, *most, *least]
    with Image.open(path) as picture:
        greys = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for number in (*least, *most):  # three frames each, on two axes
        assert (greys == number).all(1).sum() > 6 * 100 * 160


@pytest.mark.parametrize(("count", "sides"), [(1, (1, 0)), (2, (1, 1)), (3, (1, 2)), (7, (3, 3))])
def test_few_clips_are_shown_once_an_axis(tmp_path, shown, count, sides):
    draw_contact_sheet(records(count), tmp_path / "sheet.png", shown)
    first = shown.asked[: sum(sides[:1]) + min(sides)]
    assert len(set(first)) == len(first)
    assert len(shown.asked) <= 2 * count


def test_a_clip_that_is_gone_does_not_stop_the_sheet(tmp_path):
    def gone(path):
        raise BadClipError("cannot be read: No such file")

    assert draw_contact_sheet(records(4), tmp_path / "sheet.png", gone).stat().st_size > 1000
