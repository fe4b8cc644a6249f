"""What cannot be compared is said before anything is trained; everything that ships can be."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

pytest.importorskip("cv2")

from jaxmotion.data.clips import Clips
from jaxmotion.evaluation.control_curve import ControlCurve, SweepSettings
from jaxmotion.runs import evaluate, experiment
from jaxmotion.runs.rehearsal import rehearse


@pytest.fixture(scope="module")
def stone(root: Path) -> experiment.Experiment:
    return experiment.load(f"{root}/configs/motionstone.py:smoke")


@pytest.mark.parametrize("file", ["motionstone", "livephoto"])
def test_every_row_of_the_ablations_can_be_compared(root: Path, file: str) -> None:
    rows = experiment.load_all(root / "configs" / "ablations" / f"{file}.py")
    assert len(rows) >= 4
    changes = {"values": (1, 10)}
    assert {name: rehearse(name, row, changes=changes) for name, row in rows.items()} == dict.fromkeys(
        rows, ("control",)
    )


def test_what_cannot_be_measured_ends_before_the_training(
    stone: experiment.Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {"control": ControlCurve({"object": ("depth",)})}
    elsewhere = {"control": ControlCurve(sweeps={"object": SweepSettings(values=(0.0, 20.0))})}
    for evaluations, message in ((unknown, "no measure depth"), (elsewhere, "numbers from 1 to 10")):
        rows = {"full": stone, "odd": dataclasses.replace(stone, evaluations=evaluations)}
        with pytest.raises(
            ValueError, match=f"odd cannot be evaluated, so nothing is trained yet. control: .*{message}"
        ):
            evaluate.ablate(rows, tmp_path, changes={"seeds": (0,)}, count=1)
    alone = dataclasses.replace(stone, evaluations={"control": ControlCurve({"level": ("ssim",)})})
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="alone has no evaluation that it allows"):
        evaluate.ablate({"alone": alone}, tmp_path)
    assert "control is left out for alone: there is no numeric control level" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_system_that_makes_no_clips_is_no_row(root: Path, tmp_path: Path) -> None:
    meter = experiment.load(f"{root}/configs/motion_estimator.py:small")
    with pytest.raises(ValueError, match="meter cannot be evaluated: MotionEstimator makes no clips"):
        evaluate.ablate({"meter": meter}, tmp_path)


def test_scores_on_clips_without_masks_are_measured_on_photos(stone: experiment.Experiment) -> None:
    """The full configs: their data knows no objects, and their prompts are empty."""
    data = Clips("clips", frames=stone.system.frames, fps=16.0, size=stone.system.size)
    full = dataclasses.replace(stone, data=data, prompts=("",))
    assert rehearse("full", full, changes={"values": (1, 10)}) == ("control",)
    photos = evaluate.evaluation_scenes(full, ("masks",), None, 2)
    assert all(scene.prompt and scene.mask is None for scene in photos)
