"""Clips of several shapes: each goes to the bucket that suits it, batches have one shape, and they train."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxmotion.data.clips import Clips
from jaxmotion.data.loader import batches
from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.data.source import Buckets, Shape, nearest
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.foundation.entries import FPS, MOMENTS, VIDEO
from jaxmotion.runs import experiment, precompute, train
from jaxmotion.runs import trained as run
from jaxmotion.sampling.request import Request
from tests.support import SUPPORT

CONFIG = SUPPORT / "prepare_config.py"
WIDE, TALL, LONG = Shape(5, 32, 64), Shape(5, 64, 32), Shape(9, 32, 64)
TALL_AND_LONG = Shape(9, 64, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write):
    """Four wide clips of a second, two wide ones of half a second, two tall ones, and one that is too short."""
    folder = tmp_path_factory.mktemp("clips")
    for name, size, frames in (
        *((f"long_{i}", (64, 128), 30) for i in range(4)),
        *((f"short_{i}", (64, 120), 16) for i in range(2)),
        *((f"tall_{i}", (128, 72), 30) for i in range(2)),
        ("glimpse", (64, 128), 3),
    ):
        write(folder / f"{name}.mp4", frames=frames, size=size)
        (folder / f"{name}.txt").write_text("the camera pans left")
    return folder


@pytest.fixture(scope="module")
def clips(folder) -> Clips:
    return Clips(str(folder), frames=5, fps=8.0, size=(32, 64), buckets=(tuple(TALL), tuple(LONG)))


@pytest.fixture(scope="module")
def asked(clips) -> experiment.Experiment:
    base = experiment.load(str(CONFIG))
    system = dataclasses.replace(base.system, size=(32, 64))
    train = dataclasses.replace(base.train, steps=6, save_every=6)
    return dataclasses.replace(base, system=system, data=clips, train=train)


def test_the_nearest_shape_is_that_of_the_aspect_then_the_longest() -> None:
    shapes = [WIDE, TALL, LONG, Shape(9, 16, 32)]
    assert nearest(shapes, 720, 1280) == LONG
    assert nearest(shapes, 1920, 1080) == TALL
    assert nearest([WIDE, TALL], 100, 99) == TALL
    assert str(LONG) == "9x32x64"


def test_every_clip_goes_where_it_fits(clips, tmp_path) -> None:
    source = clips.open(tmp_path / "bad.jsonl")
    assert isinstance(source, Buckets)
    found = {
        str(shape): sorted(f.id for f in part.files) for shape, part in zip(source.shapes, source.parts, strict=True)
    }
    assert found == {
        "5x32x64": ["short_0", "short_1"],
        "5x64x32": ["tall_0", "tall_1"],
        "9x32x64": [f"long_{i}" for i in range(4)],
    }
    assert [json.loads(line)["id"] for line in (tmp_path / "bad.jsonl").open()] == ["glimpse"]
    assert len(source) == 8
    shapes = Counter(source.example(index)[VIDEO].shape for index in range(8))
    assert shapes == {(5, 32, 64, 3): 2, (5, 64, 32, 3): 2, (9, 32, 64, 3): 4}
    assert str(source) == "3 buckets: 5x32x64 (2 clips), 5x64x32 (2 clips), 9x32x64 (4 clips)"
    with pytest.raises(IndexError, match="there are 8"):
        source[8]


def test_a_bucket_without_clips_is_named_and_left_out(clips, caplog) -> None:
    square = dataclasses.replace(clips, buckets=(*clips.buckets, (99, 64, 64)))
    with caplog.at_level(logging.WARNING):
        assert len(square.open().parts) == 3
    assert any("no clip for the bucket 99x64x64" in message for message in caplog.messages)
    with pytest.raises(ValueError, match="set probe to True"):
        dataclasses.replace(clips, probe=False)
    with pytest.raises(ValueError, match="each at least 1"):
        dataclasses.replace(clips, buckets=((0, 32, 32),))


def shapes_of(clips, count, **options) -> list[tuple[int, ...]]:
    loader = batches(clips.open(), batch_size=2, seed=0, tokenize=HashTokenizer(), **options)
    return [next(loader)[VIDEO].shape for _ in range(count)]


def test_a_batch_is_of_one_bucket_and_every_bucket_has_its_share(clips) -> None:
    shapes = Counter(shapes_of(clips, 16))
    assert shapes == {(2, 5, 32, 64, 3): 4, (2, 5, 64, 32, 3): 4, (2, 9, 32, 64, 3): 8}


def test_all_processes_see_the_same_bucket_and_a_loader_continues(clips) -> None:
    alone = shapes_of(clips, 6)
    for process in range(2):
        rows = shapes_of(clips, 6, process_index=process, process_count=2)
        assert [(2, *shape[1:]) for shape in rows] == alone
    options = {"batch_size": 2, "seed": 0, "tokenize": HashTokenizer()}
    loader, other = (batches(clips.open(), **options) for _ in range(2))
    for _ in range(3):
        next(loader)
    other.set_state(loader.get_state())
    one, two = next(loader), next(other)
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def scored(asked, folder, tmp_path_factory) -> experiment.Experiment:
    """With a list of scores, and one further bucket."""
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    lines = [{"path": str(file), "object": 3.0, "camera": 6.0} for file in sorted(folder.glob("*.mp4"))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = dataclasses.replace(asked.data, scores=str(path), buckets=(tuple(TALL_AND_LONG),))
    return dataclasses.replace(asked, data=data)


@pytest.mark.slow
def test_they_train_and_the_step_is_compiled_once_for_each(scored, tmp_path, capsys) -> None:
    result = train.train(scored, tmp_path / "run")
    assert (result.step, result.skipped) == (6, 0)
    said = capsys.readouterr().err
    assert said.count("Compiling the training step for 2x5x32x64x3") == 1
    assert said.count("Compiling the training step for 2x9x64x32x3") == 1
    assert "2 buckets: 5x32x64 (6 clips), 9x64x32 (2 clips)" in said
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert np.isfinite([row["loss"] for row in rows]).all()
    # The run samples other lengths and sizes with the same parameters.
    opened = run.open_run(tmp_path / "run")
    picture = next(Path(scored.data.path).glob("*.mp4")).with_suffix(".png")
    from PIL import Image

    Image.new("RGB", (80, 80), (200, 40, 90)).save(picture)
    request = Request(picture, "the camera pans left", steps=2, frames=9, size=(64, 32))
    (path,) = opened.animate(request, tmp_path / "clip.mp4")[:1]
    picture.unlink()
    assert path.is_file()
    assert opened.resized(9, (64, 32)).generate_grid(np.zeros((64, 32, 3), np.uint8), "", [{}]).shape == (
        1,
        9,
        64,
        32,
        3,
    )


@pytest.mark.slow
def test_they_are_prepared_apart_and_train_together(scored, tmp_path, capsys) -> None:
    folder = tmp_path / "set"
    assert precompute.precompute(scored, folder, dtype="float32", per_shard=2, at_once=2) == 8
    assert precompute.precompute(scored, folder, dtype="float32", per_shard=2, at_once=2) == 0
    assert json.loads((folder / "buckets.json").read_text()) == ["5x32x64", "9x64x32"]
    prepared = dataclasses.replace(scored, data=PrecomputedLatents(str(folder), 5, 8.0, (32, 64)))
    source = prepared.data.open()
    assert Counter(source.example(index)[MOMENTS].shape[:3] for index in range(8)) == {
        (2, 8, 16): 6,
        (3, 16, 8): 2,
    }
    assert source.example(0)[FPS] == 8.0
    result = train.train(prepared, tmp_path / "run")
    assert (result.step, result.skipped) == (6, 0)
    assert capsys.readouterr().err.count("Compiling the training step for") == 2
    scores = Path(scored.data.scores)
    kept = scores.read_text()
    scores.write_text(kept.replace("6.0", "2.0"))
    with pytest.raises(ValueError, match=r"other settings \(files\)"):
        precompute.precompute(scored, folder, dtype="float32", per_shard=2, at_once=2)
    scores.write_text(kept)
    fewer = dataclasses.replace(scored, data=dataclasses.replace(scored.data, buckets=(tuple(TALL),)))
    with pytest.raises(ValueError, match="holds the buckets 5x32x64, 9x64x32; asked for are 5x32x64, 5x64x32"):
        precompute.precompute(fewer, folder, dtype="float32")
    with pytest.raises(ValueError, match="has the shapes 5x32x64, 9x64x32; data is 5x32x32"):
        PrecomputedLatents(str(folder), 5, 8.0, (32, 32)).open()


def test_a_bucket_that_the_system_cannot_make_is_refused_at_the_start(scored, tmp_path, root) -> None:
    bad = dataclasses.replace(scored, data=dataclasses.replace(scored.data, buckets=((5, 64, 36),)))
    with pytest.raises(ValueError, match="width of 36 px; this model needs a multiple of 8"):
        train.train(bad, tmp_path / "run")
    full = experiment.load(f"{root}/configs/motionstone.py").system
    with pytest.raises(ValueError, match="learned the places of 480 x 720 px and knows no others"):
        full.resized(49, (720, 480))
    small = scored.system
    assert small.resized(81, (64, 64)).frames == 81
    photo = experiment.load(f"{root}/configs/quickstart.py:smoke").system
    with pytest.raises(ValueError, match=f"cannot make clips of 24 frames of {photo.size[0]} x {photo.size[1]} px"):
        photo.resized(24, photo.size)
