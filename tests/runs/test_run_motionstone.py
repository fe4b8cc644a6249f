"""A run with two dials, small: train, sample grids of both, measure, report, and ablations side by side."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jaxmotion.runs import evaluate, experiment, measures, scenes, train
from jaxmotion.runs import trained as run
from jaxmotion.sample import body as sample_body
from jaxmotion.sampling.request import Request
from jaxmotion.video.motion_scale import score

pytest.importorskip("cv2")


def small(root: Path, name: str = "smoke") -> experiment.Experiment:
    """One layer, four steps."""
    found = experiment.load(f"{root}/configs/motionstone.py:{name}")
    smoke = experiment.load(f"{root}/configs/motionstone.py:smoke")
    system = dataclasses.replace(found.system, transformer=dataclasses.replace(found.system.transformer, depth=1))
    sampling = dataclasses.replace(found.sampling, sampler=dataclasses.replace(found.sampling.sampler, steps=2))
    return dataclasses.replace(smoke, system=system, sampling=sampling)


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "stone"
    assert train.train(small(root), folder).step == 4
    return folder


def test_every_combination_of_scores_is_a_clip_of_a_grid(trained: Path, photo: Path, tmp_path: Path) -> None:
    opened = run.open_run(trained)
    asked = Request(photo, "a cat moves left", {"object": (2.0, 9.0), "camera": (5.0,)}, seed=1)
    files = opened.animate(asked, tmp_path / "grid.mp4")
    names = [path.name for path in files]
    assert names == ["grid.mp4", "grid-object02-camera05.mp4", "grid-object09-camera05.mp4"]
    assert all(path.is_file() for path in files)
    guided = dataclasses.replace(asked, guidance_scales={"object": 2.0, "camera": 3.0})
    sampling = guided.resolve_sampling(opened.experiment.sampling)
    assert dict(sampling.guidance_scales) == {"object": 2.0, "camera": 3.0}
    with pytest.raises(ValueError, match="no control level; it has object, camera"):
        opened.control_entries([{"level": 5}])


def test_a_run_is_opened_in_the_type_that_it_computes_in(trained: Path, tmp_path: Path) -> None:
    """A network of the full size in float32 would not fit."""
    folder = tmp_path / "half"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["precision"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    for precision, expected in (("train", "bfloat16"), ("saved", "float32")):
        leaves = jax.tree.leaves(run.open_run(folder, precision=precision).params)
        assert {str(leaf.dtype) for leaf in leaves} == {expected}


def test_the_command_line_asks_for_what_it_says(trained: Path, photo: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(run.TrainedRun, "animate", lambda self, request, out: asked.append((request, out)) or [])
    command = f"--run {trained} --image {photo} --prompt x --object 2,9 --camera 5 --out {tmp_path}/a.mp4"
    more = "--guidance-text 4 --guidance-object 2 --guidance-camera 3 --frames 8 --size 24 48 --preview p.pth --steps 3"
    sample_body([*command.split(), *more.split()])
    ((request, out),) = asked
    assert out == tmp_path / "a.mp4"
    assert request.controls == {"object": (2.0, 9.0), "camera": (5.0,)}
    assert (request.guidance, request.guidance_scales) == (4.0, {"object": 2.0, "camera": 3.0})
    assert (request.frames, request.size, request.steps, str(request.preview)) == (8, (24, 48), 3, "p.pth")
    assert request.sampling is None
    sample_body([*command.split(), "--sampling.sampler.eta", "0.5"])
    assert asked[-1][0].sampling.sampler.eta == 0.5
    with pytest.raises(SystemExit):
        sample_body([*command.split(), "--level", "3"])
    for flags in ("--guidance-image 2", "--sampling.guidance-scales image 2.0"):
        with pytest.raises(ValueError, match="without 'image', which this network has never learned"):
            sample_body([*command.split(), *flags.split()])


def test_a_dial_that_is_not_there_is_refused(trained: Path, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no control level; it has object, camera"):
        run.open_run(trained).animate(Request(photo, controls={"level": (5,)}), tmp_path / "a.mp4")


def test_dials_are_turned_and_reported(trained: Path) -> None:
    opened = run.open_run(trained)
    (numbers,) = evaluate.evaluate(opened, changes={"values": (1, 10), "seeds": (0,)}, count=1).values()
    assert json.loads((trained / "evaluate" / "control.json").read_text()) == numbers
    own = {name: curve["own"] for name, curve in numbers["controls"].items()}
    assert own == {"object": ["object_speed"], "camera": ["camera_speed"]}
    assert numbers["controls"]["object"]["held"] == {"camera": 1.0}  # as in the paper
    assert numbers["controls"]["camera"]["held"] == {"object": 5.0}
    assert numbers["clips"] == 2 * 2
    assert (trained / "evaluate" / "control.png").stat().st_size > 5000
    page = evaluate.report(opened, count=1).read_text()
    assert page.count("<video") == 5  # each dial at 1, 5 and 10, the other at 5
    assert "Cross-talk is its change in each scene" in page
    assert "Asked for object, clips are" in page


def test_dials_are_turned_on_pictures(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says where their objects are: points that follow no camera, and the motion meter; or masks say it."""
    estimate = SimpleNamespace(object_speed=0.1, camera_speed=0.2)
    monkeypatch.setattr(measures, "packaged_meter", lambda: lambda clips: [estimate] * len(clips))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60, 3), np.uint8)
    mask[10:30, 20:40] = 255
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(picture).save(tmp_path / "pictures" / "Cat.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "Cat.png")
    row = {"file_name": "cat.png", "caption": "a cat that sleeps"}
    (tmp_path / "pictures" / "captions.jsonl").write_text(json.dumps(row) + "\n")
    opened = run.open_run(trained)
    options = {"changes": {"values": (1, 10), "seeds": (0,)}, "images": tmp_path / "pictures"}
    numbers = evaluate.evaluate(opened, **options)["control"]
    own = {name: curve["own"] for name, curve in numbers["controls"].items()}
    assert own == {"object": ["object_speed", "object_meter"], "camera": ["camera_speed", "camera_meter"]}
    talk = numbers["controls"]["object"]["measures"]["object_meter"]["cross_talk"]
    assert list(talk) == ["camera_meter"]  # each way of measuring by itself
    metered = numbers["controls"]["object"]["measures"]["object_meter"]["mean"]
    assert metered == pytest.approx([float(score(0.1))] * 2)
    assert numbers["controls"]["object"]["measures"]["object_meter"]["calibration_error"] is not None
    masked = evaluate.evaluate(opened, masks=tmp_path / "masks", **options)["control"]
    assert masked["controls"]["object"]["own"] == ["object_speed"]
    (scene,) = scenes.evaluation_scenes(opened.experiment, ("masks",), tmp_path / "pictures", 1, tmp_path / "masks")
    assert scene.prompt == "a cat that sleeps"
    assert scene.mask is not None
    assert scene.mask.mean() == pytest.approx(0.25, abs=0.03)  # of the square that is cut out of the picture


@pytest.mark.slow
def test_ablations_stand_side_by_side_and_are_not_made_twice(root: Path, trained: Path, tmp_path: Path) -> None:
    """One row is trained already."""
    rows = {"full": small(root), "mixed": small(root, "tiny_mixed")}
    shutil.copytree(trained, tmp_path / "full")
    options = {"changes": {"values": (1, 10), "seeds": (0,)}, "count": 1}
    found = evaluate.ablate(rows, tmp_path, **options)
    assert list(found) == list(rows)
    written = json.loads((tmp_path / "ablations.json").read_text())
    assert written == json.loads(json.dumps(found))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/evaluate/control.json")}
    assert len(stamps) == 2
    assert evaluate.ablate(rows, tmp_path, **options) == written
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    sampling = dataclasses.replace(rows["full"].sampling, guidance=3.0)
    other = evaluate.ablate({"full": dataclasses.replace(rows["full"], sampling=sampling)}, tmp_path, **options)
    assert other["full"]["control"]["sampling"]["guidance"] == 3.0
    assert other["full"]["control"]["controls"] != written["full"]["control"]["controls"]
    with pytest.raises(ValueError, match="nothing to compare"):
        evaluate.ablate({}, tmp_path)
