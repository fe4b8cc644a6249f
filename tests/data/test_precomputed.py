"""Prepared sets: the same however often they are killed, never of two settings, and training as on the clips."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.support import SUPPORT

pytest.importorskip("tensorflow_datasets")

from jaxmotion.data.clips import Clips
from jaxmotion.data.precompute import encode as encoding
from jaxmotion.data.precompute import shards
from jaxmotion.data.precompute.encode import parse_shard
from jaxmotion.data.precomputed import PrecomputedLatents, datasets
from jaxmotion.foundation.entries import CAMERA, FPS, IMAGE, MOMENTS, OBJECT, TEXT, TEXT_FEATURES, VIDEO
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.models import tadaconv
from jaxmotion.models.motion_estimator import MotionEstimatorSizes
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import paths
from jaxmotion.runs import experiment, initial, precompute, train
from jaxmotion.runs.compatibility import check_entries, check_precomputed
from jaxmotion.runs.trained import open_run
from jaxmotion.systems.motionstone.injection import ScoreEmbedding
from jaxmotion.systems.motionstone.intensity import (
    INTENSITY,
    ConstantScores,
    EstimatedScores,
    ProvidedScores,
    ScalarScore,
)
from jaxmotion.systems.pretrained import text_encoder
from jaxmotion.systems.system import TaskWithout
from jaxmotion.training import restore
from jaxmotion.weights import native_files

METER = EstimatedScores(MotionEstimatorSizes(tadaconv.SMALL))
CONFIG = SUPPORT / "prepare_config.py"
SHARD = 4


@pytest.fixture(scope="module")
def asked() -> experiment.Experiment:
    return experiment.load(str(CONFIG))


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory) -> Path:
    """A set of 24 records in 6 shards, never interrupted, in full precision."""
    folder = tmp_path_factory.mktemp("set") / "whole"
    assert precompute.precompute(asked, folder, dtype="float32", per_shard=SHARD, at_once=4) == 24
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed(command: list[str], root: Path, delays: list[float]) -> int:
    """Starts a command and kills it after each of these delays; says how often it was still running."""
    environment, kills = {**os.environ, "PYTHONPATH": str(root)}, 0
    for delay in delays:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    return kills


def finished(command: list[str], root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_set_killed_ten_times_is_one_never_interrupted(root, tmp_path) -> None:
    """Of made-up records, so that most kills meet the writing; one of the 90 clips cannot be used."""
    script = str(CONFIG.with_name("killed_prepare.py"))
    finished([sys.executable, script, str(tmp_path / "whole")], root)
    seconds = time.monotonic()
    finished([sys.executable, script, str(tmp_path / "timed")], root)
    seconds = time.monotonic() - seconds
    rng = random.Random(0)
    delays = [rng.uniform(0.1, 0.75 * seconds) for _ in range(10)]
    command = [sys.executable, script, str(tmp_path / "killed")]
    assert killed(command, root, delays) >= 6  # the rest came after the end
    finished(command, root)
    assert content(tmp_path / "killed") == content(tmp_path / "whole") == content(tmp_path / "timed")
    source = datasets().builder_from_directory(str(tmp_path / "killed")).as_data_source(split="train")
    assert [record["id"].decode() for record in source] == [f"clip {i}" for i in range(90) if i != 7]


@pytest.mark.slow
def test_the_command_killed_ten_times_makes_the_same_set(root, whole, tmp_path) -> None:
    """The real networks, killed while they start, compile, encode and write."""
    command = [sys.executable, "-m", "jaxmotion.prepare", "--config", str(CONFIG)]
    command += ["--out", str(tmp_path / "killed"), "--dtype", "float32", "--per-shard", str(SHARD), "--at-once", "4"]
    rng = random.Random(1)
    assert killed(command, root, [rng.uniform(1.0, 40.0) for _ in range(10)]) >= 3
    finished(command, root)
    assert content(tmp_path / "killed") == content(whole)


def test_the_same_command_again_does_nothing(asked, whole) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert precompute.precompute(asked, whole, dtype="float32", per_shard=SHARD, at_once=4) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_lost_shard_and_one_with_a_torn_note_are_written_again(asked, whole, tmp_path) -> None:
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    shard = next(folder.glob("*00002-of*"))
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-7])
    (folder / f".{shard.name}.0123abcd.part").write_bytes(kept[:50])  # as a kill leaves it
    note = next(folder.rglob("00001.json"))
    note.write_text(note.read_text()[:9])
    assert precompute.precompute(asked, folder, dtype="float32", per_shard=SHARD, at_once=4) == 2 * SHARD
    assert content(folder) == content(whole)


def test_processes_share_the_shards(asked, whole, tmp_path) -> None:
    folder = tmp_path / "shared"
    counts = [
        precompute.precompute(
            asked, folder, dtype="float32", per_shard=SHARD, at_once=4, shard_index=process, shard_count=4
        )
        for process in range(4)
    ]
    assert counts == [8, 8, 4, 4]
    assert content(folder) == content(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--data.seed", "1"], r"clips\.seed"),
        (["--data.fps", "12"], r"clips\.fps"),
        (["--system.codec.sizes.scaling", "0.5"], r"encoders\.codec\.sizes\.scaling"),
    ],
)
def test_another_setting_is_another_set(asked, whole, change, named) -> None:
    other = experiment.override(asked, change, "test", "")
    with pytest.raises(ValueError, match=f"other settings .*{named}"):
        precompute.precompute(other, whole, dtype="float32", per_shard=SHARD)


def test_another_precision_or_weights_are_another_set(asked, whole, monkeypatch) -> None:
    moved = {"codec/encoder/conv_in/bias": np.ones(4, np.float32)}
    with pytest.raises(ValueError, match=r"other settings \(encoders\.dtype"):
        precompute.precompute(asked, whole, dtype="float16", per_shard=SHARD)
    monkeypatch.setattr(precompute, "starting_weights", lambda experiment, task: moved)
    with pytest.raises(ValueError, match=r"encoders\.weights\.codec"):
        precompute.precompute(asked, whole, dtype="float32", per_shard=SHARD)


def test_what_changes_no_record_is_the_same_set(asked, whole) -> None:
    other = experiment.override(asked, ["--system.codec.clips-at-once", "1"], "test", "")
    assert precompute.precompute(other, whole, dtype="float32", per_shard=SHARD, at_once=4) == 0


def test_the_times_of_further_windows_are_part_of_the_set(asked, tmp_path) -> None:
    options = {"dtype": "float32", "per_shard": SHARD, "at_once": 4, "windows": 2, "shard_index": 0, "shard_count": 12}
    assert precompute.precompute(asked, tmp_path / "two", **options) == SHARD
    moved = experiment.override(asked, ["--train.seed", "1"], "test", "")
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        precompute.precompute(moved, tmp_path / "two", **options)


def test_what_a_kill_leaves_in_a_fresh_folder_is_nobody_elses(tmp_path) -> None:
    job = shards.Job(tmp_path, 2, 1, 1, {"made": "up"})
    (tmp_path / ".settings.json.0123abcd.part").write_text("{")
    shards.begin(job)
    assert json.loads((tmp_path / "settings.json").read_text()) == {"made": "up"}
    with pytest.raises(ValueError, match=r"other settings \(here\)"):
        shards.begin(dataclasses.replace(job, settings={"made": "up", "here": None}))


@pytest.mark.parametrize(
    ("intensity", "listed", "expected"),
    [
        (ProvidedScores(), True, "listed"),
        (METER, True, "measured"),
        (METER, False, "measured"),
        (ConstantScores(), True, "none"),
    ],
)
def test_scores_are_those_that_the_system_trains_on(asked, monkeypatch, intensity, listed, expected) -> None:
    """A measuring system measures whatever a list says, as it does in training."""
    system = dataclasses.replace(asked.system, intensity=intensity)
    source = asked.data.open()
    source.optional_entries = (OBJECT, CAMERA) if listed else ()
    encoder = encoding.Encoder(system, source, asked.tokenizer, "float32")
    made = {MOMENTS: np.zeros((2, 2, 4, 4, 8)), TEXT_FEATURES: np.zeros((2, 16, 64))}
    made |= {name: np.full(2, 7.0) for name in encoder.entries if name in (OBJECT, CAMERA)}
    monkeypatch.setattr(encoding.Encoder, "_program", lambda self, params, batch: made)
    clip = {VIDEO: np.zeros((5, 32, 32, 3), np.uint8), FPS: 8.0, "caption": "x"}
    clip |= {OBJECT: np.float32(3.0), CAMERA: np.float32(3.0)} if listed else {}
    mesh = make_mesh(devices=jax.local_devices()[:1])
    for record in encoder.encode({}, [clip, clip], 2, mesh):
        assert record.get(OBJECT) == {"listed": 3.0, "measured": 7.0, "none": None}[expected]
    assert encoder.settings()["labels"] == ([] if expected == "none" else [OBJECT, CAMERA])


def test_a_run_takes_no_set_of_other_encoders(asked, whole, tmp_path) -> None:
    prepared = dataclasses.replace(asked, data=PrecomputedLatents(str(whole), frames=5, size=(32, 32)))
    source = prepared.data.open()
    check_precomputed(prepared, source, {}, tmp_path, fresh=True)
    check_precomputed(prepared, source, {}, tmp_path, fresh=False)
    scaled = experiment.override(prepared, ["--system.codec.sizes.scaling", "0.5"], "test", "")
    with pytest.raises(ValueError, match="made with another codec than this run"):
        check_precomputed(scaled, source, {}, tmp_path, fresh=True)
    source.settings = {**source.settings, "files": "others"}
    with pytest.raises(ValueError, match=r"is not the one that the run in .* was started with"):
        check_precomputed(prepared, source, {}, tmp_path, fresh=False)


@pytest.mark.slow
def test_a_run_takes_no_set_of_other_weights(asked, whole, tmp_path) -> None:
    prepared = dataclasses.replace(asked, data=PrecomputedLatents(str(whole), frames=5, size=(32, 32)))
    source = prepared.data.open()
    weights = paths(jax.jit(asked.system.build().init)(jax.random.key(0)))  # as a set has them when none are given
    check_precomputed(prepared, source, weights, tmp_path, fresh=True)
    name = next(path for path in weights if path.startswith("text_encoder/"))
    moved = {**weights, name: 1 + weights[name]}
    with pytest.raises(ValueError, match="another weights of the text_encoder than"):
        check_precomputed(prepared, source, moved, tmp_path, fresh=True)


def test_data_that_a_system_cannot_learn_from_is_refused(asked) -> None:
    def check(intensity, labels, entries=(VIDEO, FPS), requested=()):
        data = Clips("clips", frames=5, size=(32, 32))
        conditioners = asked.system.conditioners
        if isinstance(intensity, ScalarScore):
            told = {name: each for name, each in conditioners.items() if name not in (OBJECT, CAMERA)}
            conditioners = {**told, INTENSITY: ScoreEmbedding(INTENSITY, "all", 16)}
        system = dataclasses.replace(asked.system, intensity=intensity, conditioners=conditioners, dropout={})
        source = SimpleNamespace(optional_entries=labels, entries=entries, requested_entries=requested)
        check_entries(dataclasses.replace(asked, system=system, data=data), source)

    kept = (MOMENTS, IMAGE, TEXT_FEATURES, OBJECT, CAMERA, FPS)
    both = (OBJECT, CAMERA)
    without = (MOMENTS, IMAGE, TEXT_FEATURES, FPS)
    check(ProvidedScores(), both)
    check(METER, ())
    check(METER, both, kept)
    check(ConstantScores(), (), without)
    with pytest.raises(
        ValueError, match=r"learns from the object and camera of its clips, and the data does not.*data\.scores"
    ):
        check(ProvidedScores(), ())
    with pytest.raises(ValueError, match=r"brings the object and camera of its clips, .* would not read them"):
        check(METER, both, requested=both)
    with pytest.raises(ValueError, match="measures the intensity of clips on their frames, which a prepared set"):
        check(ScalarScore("ssim"), both, kept)
    with pytest.raises(
        ValueError, match=r"measures the camera and object .* was not prepared for a system that measures"
    ):
        check(METER, (), without)


def test_a_record_is_what_the_encoders_say(asked, whole) -> None:
    source = opened(whole)
    clips = asked.data.open()
    assert len(source) == len(clips) == 24
    raw, kept = clips.example(5), source.example(5)
    np.testing.assert_array_equal(kept[IMAGE], raw[VIDEO][0])
    assert (kept["id"], kept["caption"]) == (raw["id"], raw["caption"])
    assert (kept[OBJECT], kept[CAMERA], kept[FPS]) == (raw[OBJECT], raw[CAMERA], raw[FPS])
    assert kept[MOMENTS].shape == (2, 8, 8, 8)
    assert pickle.loads(pickle.dumps(source)).example(5)["id"] == raw["id"]


def opened(folder: Path, **changes):
    config = PrecomputedLatents(str(folder), frames=5, size=(32, 32))
    return dataclasses.replace(config, **changes).open()


def test_the_loss_is_that_of_the_clips(asked, whole) -> None:
    """With the same parameters and key, on the same clips."""
    model = asked.system.build()
    params = jax.jit(model.init)(jax.random.key(0))
    noisy = jax.tree.map(lambda x: x + 0.1, params["denoiser"])
    encoders = {part: tree for part, tree in params.items() if part in ("codec", "text_encoder")}
    params = {**params, "denoiser": noisy, **encoders}
    source, clips = opened(whole), asked.data.open()
    records, raws = ([each.example(i) for i in (3, 8)] for each in (source, clips))
    text = asked.tokenizer([each["caption"] for each in records])
    names = (MOMENTS, IMAGE, TEXT_FEATURES, OBJECT, CAMERA, FPS)
    prepared = {name: np.stack([each[name] for each in records]) for name in names}
    raw = {name: np.stack([each[name] for each in raws]) for name in (VIDEO, OBJECT, CAMERA, FPS)}
    loss = jax.jit(model.loss)
    for seed in range(3):
        key = jax.random.key(seed)
        ours, _ = loss(params, {**prepared, TEXT: text}, key)
        theirs, _ = loss(params, {**raw, TEXT: text}, key)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.fixture
def without_t5(asked, whole, tmp_path) -> experiment.Experiment:
    """Zeros for no text, on the prepared set, with T5 in a file of its own."""
    params = jax.jit(asked.system.build().init)(jax.random.key(0))
    text = {path: array for path, array in paths(params).items() if path.startswith("text_encoder/")}
    native_files.export_parameters(text, tmp_path / "t5", meta={})
    conditioners = asked.system.conditioners
    conditioners = {**conditioners, "text": dataclasses.replace(conditioners["text"], null="zeros")}
    return dataclasses.replace(
        asked,
        system=dataclasses.replace(asked.system, conditioners=conditioners),
        data=opened(whole).config,
        pretrained={"text_encoder": text_encoder(str(tmp_path / "t5"))},
    )


def test_zeros_for_no_text_need_no_t5(asked, without_t5, whole) -> None:
    """It is neither looked for nor among the parameters of training, and comes back from its source."""
    source = opened(whole)
    idle = initial.idle_parts(without_t5, source.entries)
    assert idle == {"text_encoder"}
    assert not initial.idle_parts(asked, source.entries)
    assert not initial.idle_parts(without_t5, asked.data.open().entries)
    fresh = dataclasses.replace(without_t5, pretrained={})
    assert not initial.idle_parts(fresh, source.entries), "no source would bring it back"
    gone = dataclasses.replace(without_t5, pretrained={"text_encoder": text_encoder("/nowhere")})
    model = without_t5.system.build()
    assert initial.starting_weights(gone, model, idle) == {}
    task = TaskWithout(model, idle)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert params.keys() == {"denoiser", "codec", "object_score", "camera_score"}
    record = source.example(0)
    batch = {name: np.stack([record[name]]) for name in (MOMENTS, IMAGE, TEXT_FEATURES, OBJECT, CAMERA, FPS)}
    loss, _ = jax.eval_shape(task.loss, params, {**batch, TEXT: asked.tokenizer([""])}, jax.random.key(0))
    assert loss.shape == ()
    read = initial.read_parts(without_t5, model, idle)
    folder = without_t5.pretrained["text_encoder"].source
    kept = native_files.open_native(Path(folder)).params
    assert all(np.array_equal(array, np.asarray(kept[path])) for path, array in paths(read).items())
    with pytest.raises(CheckpointFileError, match=r"without its text_encoder, which pretrained.text_enc.*nowhere"):
        initial.read_parts(gone, model, idle)


@pytest.mark.slow
def test_a_run_without_t5_makes_clips_with_it(without_t5, tmp_path) -> None:
    """Its checkpoints hold no T5; opened, it has the one of its source; the loss was that of a run with T5."""
    train.train(without_t5, tmp_path / "run")
    saved = restore.restore_params(tmp_path / "run", weights="raw")
    assert "text_encoder" not in saved
    run = open_run(tmp_path / "run", "raw")
    assert run.params.keys() == {*saved, "text_encoder"}
    clips = run.generate(np.zeros((1, 32, 32, 3), np.uint8), ["a dog"], [{"object": 5.0, "camera": 5.0}])
    assert (len(clips), *clips.shape[2:]) == (1, 32, 32, 3)
    with_it = dataclasses.replace(without_t5, pretrained={})
    train.train(with_it, tmp_path / "with")
    assert "text_encoder" in restore.restore_params(tmp_path / "with", weights="raw")
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "with")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_it_trains(root, whole, tmp_path) -> None:
    """From the command line, with a process that loads."""
    command = [
        sys.executable,
        "-m",
        "jaxmotion.train",
        "--config",
        f"{CONFIG}:prepared",
        "--run",
        str(tmp_path / "run"),
    ]
    finished([*command, "--data.path", str(whole), "--workers", "1"], root)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_what_is_wrong_is_said(asked, whole, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no prepared set"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"has frames 5; data\.frames is 9"):
        opened(whole, frames=9)
    half = tmp_path / "half"
    precompute.precompute(asked, half, dtype="float32", per_shard=SHARD, at_once=4, shard_index=0, shard_count=2)
    with pytest.raises(FileNotFoundError, match="is not finished; run the same"):
        opened(half)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no prepared set"):
        precompute.precompute(asked, tmp_path / "full")
    tiny = experiment.load(str(CONFIG.parents[2] / "configs" / "livephoto.py") + ":tiny")
    with pytest.raises(ValueError, match="no latents or other entries that could be precomputed"):
        precompute.precompute(tiny, tmp_path / "other")
    assert parse_shard("2/8") == (2, 8)
    with pytest.raises(ValueError, match=r"it must be like 0/4"):
        parse_shard("4/4")


def test_a_damaged_record_is_found(whole, tmp_path) -> None:
    folder = tmp_path / "damaged"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    source = opened(folder)
    record = dict(source._records[0])
    moved = np.array(record[MOMENTS])
    moved[0, 0, 0, 0] += 1

    class Tampered(list):
        pass

    source.__dict__["_records"] = Tampered([{**record, MOMENTS: moved}])
    with pytest.raises(ValueError, match=r"Record 0 .* is damaged"):
        source.example(0)
