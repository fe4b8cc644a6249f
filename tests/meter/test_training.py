"""From a config to a file of weights that scores clips: the way of the shipped meter, at the tiny size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.data.compared_pairs import ComparedPairs
from jaxmotion.data.mixture import Mixture
from jaxmotion.data.two_by_two import TwoByTwo
from jaxmotion.meter import meter
from jaxmotion.meter.estimate import Clip
from jaxmotion.runs import experiment, export, train
from jaxmotion.runs.start_from import PretrainedRun
from jaxmotion.video.pairs import Pair, write_pairs


@pytest.fixture(scope="module")
def trained(tmp_path_factory, root) -> Path:
    """A run of the tiny estimator, six steps long."""
    tiny = experiment.load(f"{root / 'configs' / 'motion_estimator.py'}:tiny")
    folder = tmp_path_factory.mktemp("runs") / "meter"
    train.train(dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, steps=6, save_every=6)), folder)
    return folder


def test_a_run_becomes_a_meter_and_a_file_that_says_the_same(trained, tmp_path) -> None:
    export.export_meter(trained, tmp_path / "mine.safetensors")
    opened, loaded = export.open_meter(trained), meter.load_meter(tmp_path / "mine.safetensors")
    clip = Clip.at(ClutteredScenes(size=(48, 64), frames=5).open().example(0)["video"], 8)
    ours, theirs = opened([clip])[0], loaded([clip])[0]
    assert loaded.name.startswith("mine-")
    assert opened.name == "meter-6"
    # weights are kept in half precision
    np.testing.assert_allclose(dataclasses.astuple(ours)[:2], dataclasses.astuple(theirs)[:2], rtol=0.05, atol=1e-3)


def test_what_it_learnt_is_logged(trained) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 6
    for name in ("object_off", "camera_off", "object_pairs_right", "camera_pairs_right"):
        assert np.isfinite(rows[-1][name])


def test_a_run_of_something_else_is_no_meter(trained) -> None:
    values = json.loads((trained / "config.json").read_text())
    assert values["system"]["class"] == "MotionEstimator"
    with pytest.raises(FileNotFoundError, match="holds no run"):
        export.open_meter(trained.parent)


@pytest.mark.parametrize("name", ["small", "r50", "r14", "tiny", "judged"])
def test_every_experiment_comes_back_from_json(root, name) -> None:
    loaded = experiment.load(f"{root / 'configs' / 'motion_estimator.py'}:{name}")
    assert experiment.from_json(experiment.to_json(loaded)) == loaded


@pytest.mark.slow
def test_judged_pairs_and_pseudo_labels_train_it_further(trained, root, film, tmp_path) -> None:
    """As `judged`: from a trained meter, on people's pairs, measured clips' scores and drawn clips in every batch."""
    for number in range(4):
        film(tmp_path / f"{number}.mp4", range(12), rate=8, size=(48, 64))
    write_pairs([Pair("0.mp4", "1.mp4", "a", "tie"), Pair("1.mp4", "2.mp4", "", "b")], tmp_path / "pairs.csv")
    labels = [{"path": f"{number}.mp4", "object": 2.0, "camera": 4.0} for number in (0, 3)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    tiny = experiment.load(f"{root / 'configs' / 'motion_estimator.py'}:tiny")
    shape = {"frames": 4, "size": (48, 64)}
    data = Mixture(
        {
            "judged": ComparedPairs(str(tmp_path), pairs=str(tmp_path / "pairs.csv"), **shape),
            "labelled": ComparedPairs(str(tmp_path), labels=str(tmp_path / "labels.jsonl"), **shape),
            "drawn": TwoByTwo(ClutteredScenes(**shape)),
        },
        {"drawn": 2.0},
    )
    (part,) = data.open().parts
    assert [weight for _, weight in part.mixed] == [1.0, 1.0, 2.0]
    settings = dataclasses.replace(tiny.train, steps=3, batch_size=4, save_every=3, log_every=1, warmup_steps=0)
    pretrained = {"run": PretrainedRun(str(trained))}
    further = dataclasses.replace(tiny, data=data, train=settings, pretrained=pretrained)
    train.train(further, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    before, after = export.open_meter(trained), export.open_meter(tmp_path / "run")
    clip = Clip.at(ClutteredScenes(size=(48, 64), frames=5).open().example(0)["video"], 8)
    assert before([clip])[0] != after([clip])[0]
