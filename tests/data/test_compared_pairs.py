"""Pairs of real clips with what is known about them."""

import json

import av
import numpy as np
import pytest

from jaxmotion.data.compared_pairs import ComparedPairs
from jaxmotion.video.encode import write_mp4
from jaxmotion.video.pairs import Pair, write_pairs


@pytest.fixture
def folder(tmp_path):
    """Four clips of one grey level each."""
    for number in range(4):
        with av.open(str(tmp_path / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for _ in range(10):
                picture = np.full((64, 64, 3), 50 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return tmp_path


def config(folder, **more):
    return ComparedPairs(str(folder), frames=4, size=(32, 56), **more)


def test_judgements_become_signs_and_gaps_no_numbers(folder) -> None:
    pairs = [Pair("0.mp4", "1.mp4", "b", "tie"), Pair("2.mp4", "3.mp4", "a", "")]
    write_pairs(pairs, folder / "pairs.csv")
    source = config(folder, pairs=str(folder / "pairs.csv")).open()
    first, second = source.example(0), source.example(1)
    assert first["video"].shape == first["second_video"].shape == (4, 40, 40, 3)  # about as many pixels as 32 x 64
    assert abs(int(first["second_video"].mean()) - 50) < 6  # grey as the codec keeps it
    assert (first["stronger_object"], first["stronger_camera"]) == (-1.0, 0.0)
    assert second["stronger_object"] == 1.0
    assert np.isnan(second["stronger_camera"])
    assert np.isnan(first["object"]).all()


def test_labelled_clips_are_all_read_whether_or_not_somebody_judged_them(folder) -> None:
    rows = [{"path": f"{number}.mp4", "object": 1.0 + number, "camera": 2.0} for number in range(3)]
    (folder / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    write_pairs([Pair("0.mp4", "3.mp4", "b", "tie")], folder / "pairs.csv")
    source = config(folder, labels=str(folder / "labels.jsonl"), pairs=str(folder / "pairs.csv")).open()
    assert len(source) == 1 + 2
    judged = source.example(0)
    np.testing.assert_equal(judged["object"], np.float32([1, np.nan]))  # of clip 3 no label is known
    read = set()
    for index in (1, 2):
        example = source.example(index)
        levels = [example[name].mean() / 50 + 1 for name in ("video", "second_video")]
        np.testing.assert_allclose(example["object"], np.rint(levels))
        assert np.isnan(example["stronger_object"])
        read |= {*np.rint(levels)}
    assert read == {1, 2, 3}


@pytest.fixture
def film(tmp_path):
    """Writes `frames` frames of 8 a second, each of its own grey, in a size."""

    def write(name, frames, height, width):
        greys = 16 + 7 * np.arange(frames)
        pictures = np.broadcast_to(greys[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)
        write_mp4(tmp_path / name, pictures, 8)

    return write


@pytest.mark.parametrize("count", [25, 31, 5])
def test_every_frame_of_a_labelled_clip_is_seen_over_the_epochs(film, tmp_path, count) -> None:
    """Of 25 frames the last 9 were never seen, and of 31 the last 15. A label is that of the window."""
    film("a.mp4", count, 64, 64)
    windows = [{"start": 0, "end": 1, "object": 2, "camera": 4}, {"start": 1, "end": 9, "object": 6, "camera": 4}]
    row = {"path": "a.mp4", "object": 5, "camera": 4, "windows": windows}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row) + "\n")
    source = ComparedPairs(str(tmp_path), labels=str(tmp_path / "labels.jsonl"), frames=9, size=(32, 56)).open()
    seen = set()
    for epoch in range(8):
        example = source.load(0, np.random.default_rng(epoch))
        numbers = np.rint((example["video"].mean((1, 2, 3)) - 16) / 7).astype(int)
        seen |= {*numbers.tolist()}
        assert (np.abs(np.diff(numbers)) == 1).all()
        np.testing.assert_allclose(example["step_seconds"], 1 / 8, rtol=1e-3)
        assert example["step_shares"][0].sum() == pytest.approx(numbers.max() - numbers.min())
        if numbers.min() > 8:
            np.testing.assert_allclose(example["object"][0], 6)
    assert seen == set(range(count))


def test_clips_keep_their_shape_and_tall_ones_lie_on_their_side(film, tmp_path) -> None:
    film("tall.mp4", 9, 128, 72)
    film("wide.mp4", 9, 72, 128)
    film("square.mp4", 9, 64, 64)
    write_pairs([Pair("tall.mp4", "wide.mp4", "a", "b"), Pair("square.mp4", "tall.mp4", "a", "b")], tmp_path / "p.csv")
    source = ComparedPairs(str(tmp_path), pairs=str(tmp_path / "p.csv"), size=(72, 128)).open()
    same, other = source.parts
    assert {same.example(0)[name].shape for name in ("video", "second_video")} == {(9, 72, 128, 3)}
    mixed = other.example(0)  # the smaller shape comes first, and the judgement is turned with it
    assert (mixed["video"].shape, mixed["second_video"].shape) == ((9, 72, 128, 3), (9, 96, 96, 3))
    assert (mixed["stronger_object"], mixed["stronger_camera"]) == (-1.0, 1.0)


def test_without_anything_known_there_is_nothing_to_learn(folder) -> None:
    with pytest.raises(ValueError, match=r"data\.pairs, data\.labels or both"):
        config(folder)
    (folder / "labels.jsonl").write_text('{"path": "0.mp4", "object": 1}\n')
    with pytest.raises(ValueError, match="line 1: needs path, object and camera"):
        config(folder, labels=str(folder / "labels.jsonl")).open()
    write_pairs([Pair("0.mp4", "9.mp4", "a", "a")], folder / "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"9\.mp4"):
        config(folder, pairs=str(folder / "pairs.csv")).open()
