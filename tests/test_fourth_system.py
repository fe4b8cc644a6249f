"""The law of the house: a system that the package knows nothing of goes the whole way, from training to export.

The system is `tests/support/fourth_system.py`, its data and evaluation are in `fourth_data.py`. If it ever needs a line
in the package, the design is broken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmotion import convert, evaluate, prepare, train
from jaxmotion.training.restore import latest_step
from tests.support import SUPPORT

CONFIG = f"{SUPPORT / 'fourth_config.py'}:tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained one step with a preview, stopped, and resumed for another."""
    directory = tmp_path_factory.mktemp("fourth") / "run"
    train.body(["--config", CONFIG, "--run", str(directory), "--train.steps", "1"])
    assert latest_step(directory) == 1
    train.body(["--config", CONFIG, "--run", str(directory)])
    return directory


def test_it_trains_previews_stops_and_resumes(run: Path) -> None:
    assert latest_step(run) == 2
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    previews = {path.name for path in (run / "samples").glob("*.mp4")}
    assert {"step_000001_0.mp4", "step_000002_0.mp4"} <= previews


def test_it_is_sampled_from_the_command_line(run: Path, photo: Path, tmp_path: Path) -> None:
    """In a process of its own, which finds the system as a plugin."""
    out = tmp_path / "clip.mp4"
    command = [sys.executable, "-m", "jaxmotion.sample", "--run", str(run), "--image", str(photo)]
    environment = {**os.environ, "JAXMOTION_PLUGINS": "tests.support.fourth_system,tests.support.fourth_data"}
    done = subprocess.run(
        [*command, "--drift", "left,up", "--out", str(out)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"clip.mp4", "clip-driftleft.mp4", "clip-driftup.mp4"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [(["--drift", "away"], "ways are left, right, up, down; got 'away'"), ([], "'drift' has no default")],
)
def test_its_control_says_what_it_takes(run: Path, photo: Path, tmp_path: Path, asked: list[str], words: str) -> None:
    from jaxmotion import sample

    with pytest.raises(ValueError, match=words):
        sample.body(["--run", str(run), "--image", str(photo), "--out", str(tmp_path / "a.mp4"), *asked])


def test_it_is_evaluated_and_reported(run: Path) -> None:
    evaluate.body(["--run", str(run), "--count", "2"])
    numbers = json.loads((run / "evaluate" / "spread.json").read_text())
    assert numbers["spread"] >= 0
    evaluate.body(["report", "--run", str(run), "--count", "1"])
    assert "Clips of different ways differ" in (run / "report.html").read_text()


def test_it_is_precomputed_and_trained_on_that(tmp_path: Path) -> None:
    destination = tmp_path / "set"
    prepare.body(["--config", CONFIG, "--out", str(destination), "--dtype", "float32"])
    cached = [
        "--config", CONFIG.replace(":tiny", ":precomputed"), "--data.path", str(destination),
        "--run", str(tmp_path / "run"), "--train.sample-every", "0",
    ]  # fmt: skip
    train.body(cached)
    assert latest_step(tmp_path / "run") == 2


def test_it_is_exported_in_its_own_format(run: Path, tmp_path: Path) -> None:
    convert.body(["export", "--run", str(run), "--format", "recipe", str(tmp_path / "out")])
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe == {"frames": 4, "weights": ["denoiser"]}
