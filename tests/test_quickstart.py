"""The README's first command shows what it promises, and diffusers what it made. As slow as for a newcomer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.exports import frames_elsewhere, of_run, write_photo


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
