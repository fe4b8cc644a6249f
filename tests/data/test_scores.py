"""Scores of clips from the lists that the motion meter writes."""

import json

import numpy as np
import pytest

from jaxmotion.data.clips import Clips
from jaxmotion.types import CAMERA, OBJECT


@pytest.fixture
def folder(write, tmp_path):
    """Three clips."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    for name in "abc":
        write(tmp_path / "clips" / f"{name}.mp4", pixels=noise)
    return tmp_path / "clips"


@pytest.fixture(autouse=True)
def made(tmp_path):
    (tmp_path / "clips").mkdir()


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(folder, scores):
    return Clips(str(folder), frames=4, size=(32, 32), scores=scores)


@pytest.mark.parametrize("form", ["scores", "metadata"])
def test_clips_bring_the_scores_of_a_list(folder, tmp_path, form):
    known = {"a": (2.5, 7.0), "c": (1.0, 1.5)}
    rows = [
        {"path": f"{name}.mp4", "object": o, "camera": c, "windows": []}
        if form == "scores"
        else {"file_name": f"{name}.mp4", "motion_score": {"object": o, "camera": c}}
        for name, (o, c) in known.items()
    ]
    source = config(folder, lines(tmp_path / "scores.jsonl", rows)).open()
    assert source.labels == (OBJECT, CAMERA)
    for index in range(3):
        clip = source.example(index)
        expected = known.get(clip["id"], (np.nan, np.nan))
        np.testing.assert_array_equal((clip[OBJECT], clip[CAMERA]), np.float32(expected))
    assert Clips(str(folder), frames=4, size=(32, 32)).open().labels == ()


def test_a_list_that_cannot_be_used_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match=r"names none of the 3 clips"):
        config(folder, lines(tmp_path / "s.jsonl", [{"path": "z.mp4", "object": 1, "camera": 1}])).open()
    with pytest.raises(ValueError, match="line 1: needs path, object and camera"):
        config(folder, lines(tmp_path / "s.jsonl", [{"path": "a.mp4", "object": 1}])).open()
    with pytest.raises(FileNotFoundError):
        config(folder, str(tmp_path / "nowhere.jsonl")).open()
