"""The statistics of a control curve, on generators whose motion is known."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxmotion.evaluation import control, plot

PHOTOS = {name: (np.full((8, 8, 3), grey, np.uint8), f"a {name}") for name, grey in (("cat", 50), ("cup", 90))}
LEVELS = tuple(range(1, 11))


def generator(motion):
    """Clips whose first pixel of the second frame says how much they move: motion(level, prompt, seed), 0..255."""

    def generate(images, prompts, levels, seed):
        clips = np.repeat(images[:, None], 3, axis=1).copy()
        for clip, prompt, level in zip(clips, prompts, levels, strict=True):
            clip[1, 0, 0, 0] = motion(level, prompt, seed)
        return clips

    return generate


def said(video, fps):
    return video[:, 1, 0, 0, 0] * fps


def measured(motion, **options) -> control.Control:
    options = {"fps": 8.0, "measures": {"said": said}, "seeds": (3, 4), **options}
    return control.measure_control(generator(motion), PHOTOS, **options)


def test_perfect_control() -> None:
    numbers = control.summary(measured(lambda level, prompt, seed: 10 * level))
    assert numbers["spearman_said"] == pytest.approx(1.0)
    assert numbers["spearman_per_photo_said"] == pytest.approx(1.0)
    assert numbers["monotonicity_said"] == 1.0
    assert numbers["level1_over_level10_said"] == numbers["level1_over_level10"] == pytest.approx(0.1)
    assert numbers["curve"]["said"]["mean"] == [80.0 * level for level in LEVELS]
    assert numbers["curve"]["said"]["deviation"] == [0.0] * 10
    assert numbers["clips"] == 40


def test_control_the_wrong_way_round() -> None:
    numbers = control.summary(measured(lambda level, prompt, seed: 200 - 10 * level))
    assert numbers["spearman_said"] == pytest.approx(-1.0)
    assert numbers["monotonicity_said"] == 0.0
    assert numbers["level1_over_level10"] == pytest.approx(1.9)


def test_no_control_is_zero_and_not_undefined() -> None:
    numbers = control.summary(measured(lambda level, prompt, seed: 0))
    assert numbers["spearman_said"] == 0.0
    assert numbers["level1_over_level10"] is None


def test_photos_that_differ_lower_the_pooled_rho_only() -> None:
    numbers = control.summary(measured(lambda level, prompt, seed: level + 100 * ("cat" in prompt)))
    assert numbers["spearman_per_photo_said"] == pytest.approx(1.0)
    ranks = np.concatenate([np.arange(10), 10 + np.arange(10)])  # by hand: the levels of one photo, then the other's
    expected = np.corrcoef(np.tile(np.arange(10), 2), ranks)[0, 1]
    assert numbers["spearman_said"] == pytest.approx(expected, abs=1e-6)


def test_spread_and_photos_of_the_curve_by_hand() -> None:
    motion = {("a cat", 3): 10, ("a cat", 4): 20, ("a cup", 3): 30, ("a cup", 4): 60}
    numbers = control.summary(
        measured(lambda level, prompt, seed: motion[prompt, seed] * (level == 5), levels=(1, 5), fps=1.0)
    )
    curve = numbers["curve"]["said"]
    assert curve["mean"] == [0.0, 30.0]
    assert curve["deviation"] == [0.0, pytest.approx(np.std([10, 20, 30, 60]))]
    assert curve["photos"] == {"cat": [0.0, 15.0], "cup": [0.0, 45.0]}
    assert numbers["level1_over_level10"] is None  # level 10 was not asked for


def test_the_stillness_is_that_of_the_worse_measure() -> None:
    both = {"said": said, "half": lambda video, fps: said(video, fps) + 100.0}
    numbers = control.summary(measured(lambda level, prompt, seed: 10 * level, measures=both))
    assert numbers["level1_over_level10_half"] == pytest.approx(180 / 900)
    assert numbers["level1_over_level10"] == numbers["level1_over_level10_half"]


def test_every_photo_level_and_seed_is_asked_for_once() -> None:
    seen, kept = [], {}

    def motion(level, prompt, seed):
        seen.append((prompt, level, seed))
        return level

    measured(motion, on_clips=lambda photo, seed, clips: kept.update({(photo, seed): clips}))
    assert sorted(seen) == sorted((f"a {n}", level, seed) for n in PHOTOS for level in LEVELS for seed in (3, 4))
    assert kept.keys() == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert np.all(kept[1, 0][:, 0, 1, 1] == 90)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (5,)}, "two or more ascending levels"),
        ({"levels": (5, 1)}, "ascending"),
        ({"seeds": ()}, "0 seeds"),
        ({"measures": {}}, "0 measures"),
        ({"measures": {"bad": lambda video, fps: np.where(video[:, 1, 0, 0, 0] == 7, np.nan, 1.0)}}, "level 7, seed 3"),
    ],
)
def test_what_cannot_be_measured(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured(lambda level, prompt, seed: level, **options)


def test_written_numbers_table_and_plot(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = control.summary(
        measured(
            lambda level, prompt, seed: 10 * level + rng.integers(0, 30),
            measures={"ssim": said, "flow": lambda video, fps: said(video, fps) / 100},
        )
    )
    path = control.write(numbers, tmp_path)
    assert path == tmp_path / "evaluate" / "control.json"
    again = json.loads(path.read_text())
    assert again == numbers
    assert {"spearman_ssim", "spearman_flow", "level1_over_level10", "curve"} <= again.keys()
    text = io.StringIO()
    Console(file=text, width=100).print(control.table(numbers))
    assert "level 10" in text.getvalue()
    assert f"{numbers['spearman_flow']:.3f}" in text.getvalue()
    with Image.open(plot.plot_control(numbers, tmp_path)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    orange = (np.abs(pixels - (194, 73, 29)).max(-1) < 10).any(0)
    assert orange[: len(orange) // 2].any()  # one curve in either half
    assert orange[len(orange) // 2 :].any()
    assert sorted(p.name for p in path.parent.iterdir()) == ["control.json", "control.png"]
