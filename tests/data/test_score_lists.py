"""Scores of clips from the lists that the motion meter writes."""

import json

import numpy as np
import pytest

from jaxmotion.data.clips import Clips
from jaxmotion.foundation.entries import CAMERA, OBJECT
from jaxmotion.meter.sinks import add_to_metadata
from jaxmotion.video import motion_scale
from jaxmotion.video.score_lists import ScoredWindow, Scores


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


def config(folder, scores, size=(32, 48)):
    return Clips(str(folder), frames=4, size=size, scores=scores)


@pytest.mark.parametrize("form", ["scores", "metadata", "metadata with a motion of its own"])
def test_clips_bring_the_scores_of_a_list(folder, tmp_path, form):
    known = {"a": (2.5, 7.0), "c": (1.0, 1.5)}
    records = [
        {"path": str(folder / f"{name}.mp4"), "object": o, "camera": c, "meter": "test", "windows": []}
        for name, (o, c) in known.items()
    ]
    path = lines(tmp_path / "scores.jsonl", records)
    if form != "scores":
        word = {} if form == "metadata" else {"motion": "fast"}
        path = lines(folder / "metadata.jsonl", [{"file_name": f"{name}.mp4", "text": name, **word} for name in "abc"])
        assert add_to_metadata(folder / "metadata.jsonl", records) == 2  # the row of b stays without scores
    source = config(folder, path).open()
    assert source.optional_entries == (OBJECT, CAMERA)
    for index in range(3):
        clip = source.example(index)
        expected = known.get(clip["id"], (np.nan, np.nan))
        np.testing.assert_array_equal((clip[OBJECT], clip[CAMERA]), np.float32(expected))
    assert Clips(str(folder), frames=4, size=(32, 48)).open().optional_entries == ()


def test_files_of_one_name_are_not_mistaken_for_each_other(folder, write, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    (folder / "sub").mkdir()
    write(folder / "sub" / "a.mp4", pixels=noise)
    rows = [{"path": name, "object": o, "camera": o} for name, o in (("a.mp4", 1), ("sub/a.mp4", 9), ("x/b.mp4", 5))]
    source = config(folder, lines(tmp_path / "s.jsonl", rows)).open()
    scores = {clip["id"]: clip[OBJECT] for clip in map(source.example, range(len(source)))}
    assert scores == {"a": 1, "b": 5, "c": pytest.approx(np.nan, nan_ok=True), "sub/a": 9}  # b alone has its name
    (folder / "sub" / "a.mp4").unlink()
    source = config(folder, lines(tmp_path / "s.jsonl", rows)).open()
    assert source.example(0)[OBJECT] == 1
    elsewhere = [{"path": f"/elsewhere/{row['path']}", "object": row["object"], "camera": 1} for row in rows]
    source = config(folder, lines(tmp_path / "s.jsonl", elsewhere)).open()
    assert np.isnan(source.example(0)[OBJECT])  # two lines could mean it
    assert source.example(1)[OBJECT] == 5


def test_a_list_that_cannot_be_used_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match=r"names none of the 3 clips"):
        config(folder, lines(tmp_path / "s.jsonl", [{"path": "z.mp4", "object": 1, "camera": 1}])).open()
    with pytest.raises(ValueError, match="line 1: needs path, object and camera"):
        config(folder, lines(tmp_path / "s.jsonl", [{"path": "a.mp4", "object": 1}])).open()
    with pytest.raises(ValueError, match=r"line 1: the scores are \(0\.3, 1\.0\); they must be in 1\.\.10"):
        config(folder, lines(tmp_path / "s.jsonl", [{"path": "a.mp4", "object": 0.3, "camera": 1}])).open()
    with pytest.raises(FileNotFoundError):
        config(folder, str(tmp_path / "nowhere.jsonl")).open()


def test_lists_of_any_key_and_captions_of_any_kind_bring_scores(folder, tmp_path):
    (folder / "link.mp4").symlink_to(folder / "a.mp4")
    rows = [
        {"Video": "a.mp4", "caption": "a\u2028dog\x85 runs", "motion": {"object": 2, "camera": 3}},
        {"path": "b.mp4", "caption": "not scored yet"},
        {"video_path": "c.mp4", "object": 4, "camera": 5},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    source = config(folder, str(path)).open()
    scores = {clip["id"]: clip[OBJECT] for clip in map(source.example, range(len(source)))}
    assert scores == {"a": 2, "link": 2, "b": pytest.approx(np.nan, nan_ok=True), "c": 4}


def test_a_last_line_that_a_killed_command_left_torn_stops_no_training(folder, tmp_path, caplog):
    path = lines(tmp_path / "scores.jsonl", [{"path": str(folder / "a.mp4"), "object": 2.5, "camera": 7.0}])
    with open(path, "a") as file:
        file.write('{"path": "clips/b.mp4", "obj')
    clip = config(folder, path).open().example(0)
    assert (clip[OBJECT], clip[CAMERA]) == (2.5, 7.0)
    assert "line 2 is only half written" in caplog.text
    with open(path, "a") as file:
        file.write("\n")  # a whole line that is no JSON is somebody's mistake
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 2 is not JSON"):
        config(folder, path).open()


def test_scores_of_a_crop_are_in_the_diagonals_of_the_crop(folder, tmp_path):
    """From 3:2 to a square: as many pixels are more diagonals, but a zoom moves the corners of every crop alike."""
    growth = np.hypot(3, 2) / np.hypot(2, 2)
    rows = [
        {"path": "a.mp4", "object": 4, "camera": 6, "move": "pan"},
        {"path": "b.mp4", "object": 4, "camera": 6, "move": "zoom"},
        {"path": "c.mp4", "object": 1, "camera": 10},
    ]
    source = config(folder, lines(tmp_path / "s.jsonl", rows), size=(32, 32)).open()
    pan, zoom, ends = map(source.example, range(3))
    objects, cameras = (motion_scale.score(growth * motion_scale.speed(x)) for x in (4.0, 6.0))
    assert (pan[OBJECT], pan[CAMERA]) == pytest.approx((objects, cameras), abs=1e-4)
    assert objects > 4.3
    assert (zoom[OBJECT], zoom[CAMERA]) == pytest.approx((objects, 6), abs=1e-4)
    assert (ends[OBJECT], ends[CAMERA]) == (1, 10)


def test_scores_of_a_stretch_are_those_of_its_windows():
    windows = tuple(ScoredWindow(start, start + 2, 1 + start, 5) for start in (0, 2, 4))
    scores = Scores(3.0, 5.0, "pan", windows)
    assert scores.of_clip(2.5, 3.5) == (3, 5)
    half = motion_scale.score((motion_scale.speed(3.0) + motion_scale.speed(5.0)) / 2)
    assert scores.of_clip(3.0, 5.0)[0] == pytest.approx(half)
    assert scores.of_clip(7.0, 8.0) == (3, 5)  # no window: those of the file
