"""`python -m jaxmotion.score convert`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jaxmotion import score as command
from jaxmotion.meter import conversion
from jaxmotion.video.score_lists import read_scores


def run(*arguments):
    command.body(["convert", *map(str, arguments)])


def printed(capsys):
    """The medians that were printed, by the first word of their line; the first of a word."""
    found = re.findall(r"^(\w+) +([-+.e\d]+)(.*)$", capsys.readouterr().out, re.MULTILINE)
    return {name: float(median) for name, median, _ in reversed(found)}


def test_a_number_becomes_scores_with_their_spread(capsys) -> None:
    run("vmaf", 12)
    printed = capsys.readouterr()
    low, median, high = conversion.convert(12, "vmaf", conversion.load())["camera"]
    assert f"camera  {median:5.2f}   (8 of 10 clips: {low:.2f} to {high:.2f})\n" in printed.out
    assert "if the camera stands still" in printed.out
    assert "One number cannot tell objects from the camera" in printed.err


def test_pixels_per_frame_are_a_speed_with_rate_and_size(capsys) -> None:
    run("farneback", 0.1)
    speed = printed(capsys)
    run("farneback", 0.1 / 24 * np.hypot(1280, 720), "--fps", 24, "--size", "1280x720")
    assert printed(capsys) == speed
    run("codec", 4, "--fps", 24, "--size", "1280x720")
    large = printed(capsys)
    run("codec", 2, "--fps", 24, "--size", "640x360")
    assert printed(capsys) == large
    run("codec", 2, "--fps", 48, "--size", "1280x720")
    assert printed(capsys) == large
    run("pas", 0.5, "--seconds", 5)
    long = printed(capsys)
    run("pas", 0.2, "--seconds", 2)
    assert printed(capsys) == long


@pytest.mark.parametrize("peer", ["codec", "kandinsky"])
def test_there_and_back_again(capsys, peer) -> None:
    unit = ("--fps", 24, "--size", "1280x720") if peer == "codec" else ()
    run(peer, "--back", 6, *unit)
    number = printed(capsys)[peer]
    run(peer, number, *unit)
    axis = "both" if peer == "codec" else "camera"
    assert printed(capsys)[axis] == pytest.approx(6, abs=0.7 if peer == "codec" else 0.01)


def test_numbers_beyond_the_table_are_given_its_end_and_said_so(capsys) -> None:
    run("vmaf", 250)
    assert "250 is outside of what the table knows" in capsys.readouterr().err
    run("kandinsky", 1)
    assert "not fitted: score = 1 + 3 x number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("codec", 3), "codec counts in pixels per frame; give --fps and --size"),
        (("pas", 3), "pas counts in diagonals over the whole clip; give --seconds"),
        (("kandinsky", 4), "The number of kandinsky is 4; it must be 0 to 3"),
        (("vmaf", "nan"), "The number of vmaf is nan; it must be a finite number"),
        (("vmaf", "twelve"), "twelve is no number, nor a file that ends in one of .json"),
        (("fit", "--scenes", 10), "A table needs 40 clips or more; got 10."),
        (("vmaf", "--back", 11), "--back is 11; our scores are 1 to 10"),
        (("codec", "there_is_none.mp4"), "there_is_none.mp4: cannot be read: No such file or directory."),
        (("kandinsky", "there_is_none.json"), "there_is_none.json"),
    ],
)
def test_what_cannot_be_converted_is_refused(arguments, message) -> None:
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        run(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vmaf",), "a number, a file or --back is needed"),
        (("vmaf", 3, "--back", 3), "one of them only"),
        (("svd", 3), "invalid choice: 'svd'"),
        (("codec", 3, "--size", "1280"), "1280 is no size; write it as 1280x720"),
        (("codec", 3, "--fps", 0), "0 is not above 0"),
        (("codec", 3, "--fps", "many"), "many is no number"),
        (("fit", 3), "fit takes no number"),
        (("fit", "--peer", "pas"), "give --peer, --numbers, --scores and --out"),
        (("vmaf", 3, "--clips", "x"), "are for: convert fit"),
        (("vmaf", 3, "--axis", "camera"), "--axis goes with --back"),
        (("vmaf", 3, "--out", "x.jsonl"), "--out is for files of numbers"),
    ],
)
def test_a_wrong_command_line_says_what_would_do(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def predictions(tmp_path, monkeypatch):
    """60 clips' predictions of Kandinsky's network, as its `inference` returns them with names beside."""
    monkeypatch.chdir(tmp_path)
    camera = np.linspace(0, 3, 60)
    rows = {
        "path": [f"{index}.mp4" for index in range(60)],
        "camera_movement_score": camera.tolist(),
        "object_movement_score": camera[::-1].tolist(),
        "dynamics_score": [0.5] * 60,
    }
    (tmp_path / "predictions.json").write_text(json.dumps(rows))
    return rows


def test_a_file_of_predictions_becomes_scores_that_training_reads(predictions, tmp_path, capsys) -> None:
    run("kandinsky", "predictions.json", "--out", "out/scores.jsonl")
    assert "60 clips" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "path": "0.mp4",
        "object": 10.0,
        "camera": 1.0,
        "dynamics": 0.5,
        "meter": "kandinsky (not fitted: score = 1 + 3 x number)",
    }
    places = {str(tmp_path / name): index for index, name in enumerate(predictions["path"])}
    found = read_scores(tmp_path / "out" / "scores.jsonl", tmp_path, places)
    assert (found[59].object, found[59].camera) == (1.0, 10.0)
    assert len(found) == 60
    (tmp_path / "unnamed.json").write_text(json.dumps({k: v for k, v in predictions.items() if k != "path"}))
    run("kandinsky", "unnamed.json")
    streams = capsys.readouterr()
    assert {"path": "1.mp4", **json.loads(streams.out.splitlines()[1])} == rows[1]
    assert "60 of 60 clips have no name in unnamed.json; training needs a 'path'." in streams.err
    (tmp_path / "same.jsonl").write_text(json.dumps(predictions))
    with pytest.raises(ValueError, match="is the file of the numbers"):
        run("kandinsky", "same.jsonl", "--out", "same.jsonl")


def test_ones_own_table_is_fitted_to_predictions_and_scores(predictions, tmp_path, capsys) -> None:
    """The camera scores 2 more than the table laid down says, the objects as it says; one clip has no score."""
    with (tmp_path / "scores.jsonl").open("w") as file:
        for index, name in enumerate(predictions["path"][:-1]):
            camera, moving = (predictions[f"{axis}_movement_score"][index] for axis in ("camera", "object"))
            file.write(json.dumps({"path": name, "object": 1 + 3 * moving, "camera": min(10, 3 + 2 * camera)}) + "\n")
    run("fit", "--peer", "kandinsky", "--numbers", "predictions.json", "--scores", "scores.jsonl", "--out", "my.json")
    assert "1 of 60 clips of predictions.json have no score in scores.jsonl: 59.mp4, ..." in capsys.readouterr().err
    run("kandinsky", 1.5, "--tables", "my.json")
    ours = printed(capsys)
    assert ours["object"] == pytest.approx(5.5, abs=0.3)
    assert ours["camera"] == pytest.approx(6.0, abs=0.3)
    assert json.loads((tmp_path / "my.json").read_text())["vmaf"] == conversion.load()["vmaf"]


def test_too_few_clips_in_both_files_make_no_table(predictions, tmp_path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"path": "0.mp4", "object": 1, "camera": 2}\n')
    with pytest.raises(ValueError, match=r"needs 40 clips or more; got 1\."):
        run(
            "fit", "--peer", "kandinsky", "--numbers", "predictions.json", "--scores", "scores.jsonl", "--out", "x.json"
        )


def test_a_video_is_measured_as_the_peer_does(tmp_path, film, capsys) -> None:
    path = film(tmp_path / "a.mp4", range(24), rate=24, size=(48, 64))
    run("codec", path)
    found = printed(capsys)
    assert found["codec"] >= 0
    assert 1 <= found["both"] <= 10
    run("vmaf", path)
    assert printed(capsys)["vmaf"] == pytest.approx(30, rel=0.5)  # greys rise by 10 a frame; 3 frames are 1/8 s
    with pytest.raises(ValueError, match="network of Kandinsky's predictor is not here"):
        run("kandinsky", path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: not a video, damaged, or cut off"):
        run("pas", tmp_path / "text.mp4")
    with pytest.raises(ValueError, match=r"text\.mp4: not a video, damaged, or cut off"):
        run("fit", "--clips", tmp_path / "text.mp4")


def test_what_each_table_knows_is_shown(capsys) -> None:
    run("tables")
    lines = capsys.readouterr().out.splitlines()
    codec = next(line for line in lines if line.startswith("| codec | both "))
    assert f"| {conversion.load()['codec']['rho']['both']:.2f} |" in codec
    assert any("not fitted" in line for line in lines if line.startswith("| kandinsky "))
    assert len({line.count("|") for line in lines}) == 1
