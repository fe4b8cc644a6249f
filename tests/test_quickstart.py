"""The README's first command shows what it promises, and diffusers what it made. As slow as for a newcomer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmotion import quickstart
from jaxmotion.runs import train
from jaxmotion.runs.experiment import Experiment, load
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.training.loop import Result
from tests.support.exports import frames_elsewhere, of_run, write_photo


def test_an_earlier_run_goes_on_with_its_own_config(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Experiment] = []

    def note(config: Experiment, directory: Path) -> Result:
        started.append(config)
        return Result(step=0, loss=None, skipped=0, compile_seconds=0.0, train_seconds=0.0, stopped=True)

    monkeypatch.setattr(train, "train", note)
    earlier = tmp_path / "earlier"
    (earlier / "checkpoints" / "250").mkdir(parents=True)
    saved = json.loads((root / "tests" / "runs" / "frozen" / "quickstart.full.json").read_text())
    saved["system"]["unet"]["expansion"] = 3
    (earlier / "config.json").write_text(json.dumps(saved))
    for more in ([], ["--config", "quickstart"]):
        quickstart.body(["--run", str(earlier), "--train.log-every", "7", *more])
    before, named = started
    assert isinstance(before.system, LivePhoto)
    assert before.system.unet.expansion == 3
    assert named.system == load("quickstart").system
    assert {each.train.log_every for each in started} == {7}


@pytest.mark.slow
def test_the_quickstart_moves_photos_as_much_as_asked(root: Path, tmp_path: Path) -> None:
    here, run = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root)}}, tmp_path / "run"
    assert subprocess.run([sys.executable, "-m", "jaxmotion.quickstart", "--run", str(run)], **here).returncode == 0
    numbers = json.loads((run / "evaluate" / "control.json").read_text())
    level = numbers["controls"]["level"]
    assert level["measures"]["ssim"]["spearman"] >= 0.9
    assert level["measures"]["flow"]["spearman"] >= 0.9
    assert level["lowest_over_highest"] < 1 / 3
    page = (run / "report.html").read_text()
    assert page.count("<video") == 18
    assert "https://" not in page

    out, photo = tmp_path / "out", write_photo(tmp_path / "photo.png")
    command = [sys.executable, "-m", "jaxmotion.convert", "export", "--run", str(run), str(out)]
    assert subprocess.run(command, **here).returncode == 0
    case = of_run(run, out, prompt="the camera pans left", motion_level=9)
    assert np.abs(frames_elsewhere({"run": case}, photo, tmp_path)["run"] - case.ours(photo)).max() <= 1e-3
