"""A whole run, small: train, stop, continue, sample, measure, report; and what the command lines say to bad input."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

from jaxmotion.foundation.command_line import command
from jaxmotion.foundation.errors import InUseError
from jaxmotion.foundation.lock import sole_writer
from jaxmotion.parallel.sharding import paths
from jaxmotion.runs import evaluate, experiment, initial, scenes, train
from jaxmotion.runs import trained as run
from jaxmotion.systems.lora import LoRA, PretrainedLoRA
from jaxmotion.training.restore import latest_step, restore_params
from jaxmotion.weights.native_files import open_native
from tests.support import SUPPORT
from tests.support.exports import frames_elsewhere, of_run

SHAPE = [
    "--system.frames", "4", "--data.frames", "4", "--system.size", "16", "16", "--data.size", "16", "16",
    "--system.unet.features", "8", "--system.unet.attention-stages", "True",
    "--system.unet.groups", "2",
    "--system.conditioners.level.clips", "40", "--train.sample-every", "0",
]  # fmt: skip
SMALL = [
    *SHAPE, "--data.clips", "64",
    "--train.decay", "constant", "--train.save-every", "2", "--train.log-every", "1",
]  # fmt: skip
STEPS = 6
CONFIG = f"{SUPPORT / 'plain_livephoto.py'}:smoke"


def overridden(*more: str) -> experiment.Experiment:
    asked = experiment.load(CONFIG)
    return experiment.override(asked, [*SMALL, "--train.steps", str(STEPS), *more], "test", "")


def start(root: Path, module: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"jaxmotion.{module}", *arguments]
    environment, pipe = {**os.environ, "PYTHONPATH": str(root)}, subprocess.PIPE
    return subprocess.Popen(command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True)


def said(root: Path, module: str, *arguments: str) -> tuple[int, str]:
    """(exit code, everything printed) of a command line."""
    process = start(root, module, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "whole"
    result = train.train(overridden(), directory)
    assert (result.step, result.stopped) == (STEPS, False)
    return directory


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_one_never_interrupted(root: Path, trained: Path, tmp_path: Path) -> None:
    """The real system, from the real command line: killed once after a checkpoint and once while compiling."""
    directory = tmp_path / "killed"
    command = ["--config", CONFIG, "--run", str(directory), *SMALL, "--train.steps", str(STEPS)]
    for wanted in (2, None):
        process = start(root, "train", *command)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            if (latest_step(directory) or 0) >= wanted if wanted else (directory / "config.json").exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, out = said(root, "train", *command)
    assert code == 0, out
    for weights in ("raw", "ema"):
        whole, again = restore_params(trained, weights=weights), restore_params(directory, weights=weights)
        assert jax.tree.structure(whole) == jax.tree.structure(again)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(one, other)

    def rows(folder: Path) -> list[tuple[int, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["loss"]) for row in map(json.loads, lines)]

    assert rows(directory) == rows(trained)
    assert (directory / "calibration.json").read_text() == (trained / "calibration.json").read_text()


def test_a_changed_config_is_refused_and_named(root: Path, trained: Path) -> None:
    with pytest.raises(ValueError, match=r"learning_rate was [0-9.]+ and is now 0\.5"):
        train.train(overridden("--train.learning-rate", "0.5"), trained)
    assert latest_step(trained) == STEPS


def test_a_second_run_in_the_same_folder_is_refused(trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    named = rf"The run in {trained} is being written by process {os.getpid()} on"
    with sole_writer(trained / train.LOCK, "The run"), pytest.raises(InUseError, match=named):
        train.train(overridden("--train.steps", str(STEPS + 1)), trained)
    assert sorted(trained.rglob("*")) == before
    assert train.train(overridden(), trained).step == STEPS


def test_levels_were_measured_and_kept_with_the_run(trained: Path) -> None:
    edges = json.loads((trained / "calibration.json").read_text())["level_edges"]
    assert len(edges) == 9
    assert np.all(np.diff(edges) > 0)
    level = run.open_run(trained).experiment.system.level  # pyright: ignore[reportAttributeAccessIssue]
    assert level.edges == tuple(edges)


def test_sampling_writes_a_grid_of_levels(root: Path, trained: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips" / "levels.mp4"
    arguments = ["--run", str(trained), "--image", str(photo), "--prompt", "the camera pans left", "--level", "1,5,10"]
    code, text = said(root, "sample", *arguments, "--out", str(out))
    assert code == 0, text
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    assert (tmp_path / "clips" / "levels-level10.mp4").exists()


def test_the_same_seed_gives_the_same_clip_and_live_weights_another(trained: Path, photo: Path) -> None:
    ema, live = (run.open_run(trained, weights) for weights in ("ema", "raw"))
    pictures = np.stack([np.asarray(Image.open(photo).resize((16, 16)))] * 3)  # as many as a grid: the same program
    asked = (pictures, ["x"] * 3, [{"level": 5}] * 3)
    first, again = (ema.generate(*asked, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != live.generate(*asked, seed=3))
    assert np.any(first != ema.generate(*asked, seed=4))


def test_control_and_report(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = run.open_run(trained)
    generate, changes = evaluate.RunGenerator(opened), {"values": (1, 5, 10), "seeds": (0,)}
    found = evaluate.evaluate(opened, ["control"], changes=changes, count=3, generate=generate)
    assert json.loads((trained / "evaluate" / "control.json").read_text()) == found["control"]
    level = found["control"]["controls"]["level"]
    assert (level["values"], level["own"]) == ([1, 5, 10], ["ssim", "flow", "level_of_clips"])
    errors = {name: each["calibration_error"] for name, each in level["measures"].items()}
    assert errors["ssim"] is errors["flow"] is None  # the level is not in their unit
    assert 0 <= errors["level_of_clips"] <= 9
    assert found["control"]["clips"] == 9
    assert (trained / "evaluate" / "control.png").stat().st_size > 5000
    page = evaluate.report(opened, count=2).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(run.TrainedRun, "generate_grid", None)  # what was measured is shown, and not made again
        assert evaluate.report(opened, count=2, generate=generate).read_text() == page
    assert page.count("<video") == 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.fixture(scope="module")
def adapted(root: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA trained on the run."""
    directory = tmp_path_factory.mktemp("run") / "adapted"
    base = overridden("--start-from.run", str(trained))
    system = LoRA(base.system, rank=2, alpha=4.0, paths=(r"/(text|time_\d)/attention/(query|out)/kernel$",))
    config = dataclasses.replace(base.train, trained=(r"^lora/",))
    result = train.train(dataclasses.replace(base, system=system, train=config), directory)
    assert (result.step, result.stopped) == (STEPS, False)
    return directory


@pytest.mark.slow
def test_a_lora_moves_its_factors_only_and_is_sampled(trained: Path, adapted: Path, photo: Path) -> None:
    before, after = (paths(run.open_run(each).params) for each in (trained, adapted))
    assert all(np.array_equal(after[path], before[path]) for path in before)
    assert all(np.any(after[path]) for path in after if path.endswith("/up"))
    assert (adapted / "calibration.json").read_text() == (trained / "calibration.json").read_text()
    picture = np.asarray(Image.open(photo).resize((16, 16)))[None]
    plain, changed = (run.open_run(each).generate(picture, ["x"], [{"level": 5}]) for each in (trained, adapted))
    assert np.any(plain != changed)


@pytest.mark.slow
def test_a_lora_goes_out_and_comes_back(root: Path, trained: Path, adapted: Path, tmp_path: Path) -> None:
    """Merged into the base by its file, it is what an export of the run has merged."""
    for layout in ("peft", "kohya"):
        asked = ["export", "--run", str(adapted), f"--format=lora-{layout}", f"{tmp_path}/{layout}"]
        code, text = said(root, "convert", *asked)
        assert code == 0, text
    code, text = said(root, "convert", "export", "--run", str(adapted), "--format=safetensors", f"{tmp_path}/merged")
    assert code == 0, text
    merged = open_native(tmp_path / "merged").params
    for layout in ("peft", "kohya"):
        file = str(tmp_path / layout / "pytorch_lora_weights.safetensors")
        base = overridden("--start-from.run", str(trained), "--start-from.lora", file)
        arrays = initial.starting_weights(base, base.system.build())
        assert arrays.keys() == set(merged)
        for path, array in arrays.items():
            np.testing.assert_allclose(array, merged[path], rtol=1e-5, atol=1e-6)  # sums of two factors in float32
        again = experiment.read(adapted / "config.json")
        again = dataclasses.replace(again, pretrained={**again.pretrained, "lora": PretrainedLoRA(file)})
        arrays, own = initial.starting_weights(again, again.system.build()), paths(run.open_run(adapted).params)
        for path in own:
            np.testing.assert_allclose(arrays[path], own[path], rtol=1e-6)


@pytest.mark.slow
def test_export_through_the_command_line(root: Path, trained: Path, photo: Path, tmp_path: Path) -> None:
    """A folder for diffusers, compared with PyTorch part by part; in a clean process it makes the clips of the run."""
    pytest.importorskip("torch")
    out = tmp_path / "out"
    code, text = said(root, "convert", "export", "--run", str(trained), str(out))
    assert code == 0, text
    parts = json.loads((out / "export_report.json").read_text())["parts"]
    assert {"unet", "text_encoder"} <= parts.keys()
    assert {part["status"] for part in parts.values()} == {"verified"}
    assert str(out / "model_index.json") in text
    case = of_run(trained, out, prompt="the camera pans left", motion_level=9)
    assert np.abs(frames_elsewhere({"run": case}, photo, tmp_path)["run"] - case.ours(photo)).max() <= 1e-3
    code, text = said(root, "convert", "export", "--run", str(trained), "--format", "comfy", str(out))
    assert code == 2
    assert "is there already" in text


def test_held_out_photos_are_never_in_the_training_split(trained: Path) -> None:
    opened = run.open_run(trained)
    seen = {photo.name for photo in opened.experiment.data.open().photos}  # pyright: ignore
    shown = {name.split()[0] for name in scenes.evaluation_photos(opened.experiment, count=6)}
    assert shown
    assert not seen & shown


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (
            "train",
            ["--config", "configs/livephoto.py:tinny", "--run", "{tmp}"],
            "Did you mean configs/livephoto.py:tiny?",
        ),
        ("train", ["--config", "configs/none.py", "--run", "{tmp}"], "There is no config file 'configs/none.py'"),
        ("train", ["--config", "configs/livephoto.py:tiny", "--run", "{tmp}", "--train.stepz", "3"], "--train.steps"),
        ("train", ["--config", "configs/livephoto.py:tiny", "--run", "{tmp}", "--data.path", "{tmp}/no"], "{tmp}/no"),
        ("train", ["--config", "configs/livephoto.py:tiny", "--run", "{tmp}", "--data.path", "{tmp}"], "{tmp}"),
        (
            "sample",
            ["--run", "{run}", "--image", "{photo}", "--level", "11", "--out", "{tmp}/a.mp4"],
            "level: values are whole numbers from 1 to 10, e.g. 1,5,10; got '11'",
        ),
        ("sample", ["--run", "{tmp}", "--image", "{photo}", "--out", "{tmp}/a.mp4"], "holds no run"),
        ("sample", ["--run", "{run}", "--image", "{tmp}/text.png", "--out", "{tmp}/a.mp4"], "is no picture"),
        ("sample", ["--run", "{run}", "--image", "{tmp}/none.png", "--out", "{tmp}/a.mp4"], "There is no picture"),
        ("sample", ["--run", "{run}", "--image", "{photo}", "--out", "{tmp}/a.avi"], "written as .mp4 or .gif"),
        ("convert", ["inspect", "{tmp}/none"], "There is no file or folder {tmp}/none"),
        ("convert", ["inspect", "{tmp}/text.png"], "{tmp}/text.png"),
        ("convert", ["import", "{tmp}", "{tmp}/out"], "{tmp} holds no checkpoint"),
        ("convert", ["export", "--run", "{run}", "--format", "lora-peft", "{tmp}/out"], "is no run of LoRA"),
        ("convert", ["export", "--run", "{run}", "--format", "motion-adapter", "{tmp}/out"], "latents of 4 channels"),
        ("convert", ["export", "--imported", "{tmp}", "{tmp}/out"], "holds no parameters of jaxmotion"),
    ],
)
def test_bad_input_gets_one_message(
    root: Path,
    trained: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    module: str,
    arguments: list[str],
    words: str,
) -> None:
    """In this process, for a process each would take minutes; anything but an expected error would come out of it."""
    (tmp_path / "text.png").write_text("just some words\n")
    places = {"tmp": tmp_path, "photo": photo, "run": trained}
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [module, *(argument.format(**places) for argument in arguments)])
    with pytest.raises(SystemExit) as left:
        command(importlib.import_module(f"jaxmotion.{module}").body)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert words.format(**places) in printed.out + printed.err


def test_a_dry_run_prints_the_table_and_makes_nothing(root: Path, tmp_path: Path) -> None:
    directory = tmp_path / "dry"
    arguments = ["--config", "configs/quickstart.py", "--run", str(directory), "--dry-run", "--train.steps", "7"]
    code, text = said(root, "train", *arguments)
    assert code == 0, text
    for words in ('"steps": 7', "denoiser/", "trained", "optimiser", "EMA"):
        assert words in text
    assert not directory.exists()


def test_help_teaches(root: Path) -> None:
    code, text = said(root, "train", "--help")
    assert code == 0
    assert "--config" in text
    code, text = said(root, "train", "--config", "configs/livephoto.py:tiny", "--help")
    assert code == 0
    assert "--train.learning-rate" in text
    assert "Highest learning rate of AdamW" in text


@pytest.mark.slow
def test_the_tiny_config_trains_on_real_clips(root: Path, shared_data: Path, tmp_path: Path) -> None:
    asked = experiment.load(f"{root}/configs/livephoto.py:tiny")
    small = [*SHAPE, "--data.path", str(shared_data / "clips"), "--train.steps", "3"]
    result = train.train(experiment.override(asked, small, "test", ""), tmp_path / "real")
    assert result.step == 3
    assert result.loss is not None
    assert np.isfinite(result.loss)
