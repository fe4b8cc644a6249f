"""Pairs of real clips with what is known about them."""

import json

import av
import numpy as np
import pytest

from jaxmotion.data.compared_pairs import ComparedPairs
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
    return ComparedPairs(str(folder), frames=4, size=(32, 32), **more)


def test_judgements_become_signs_and_gaps_no_numbers(folder) -> None:
    pairs = [Pair("0.mp4", "1.mp4", "b", "tie"), Pair("2.mp4", "3.mp4", "a", "")]
    write_pairs(pairs, folder / "pairs.csv")
    source = config(folder, pairs=str(folder / "pairs.csv")).open()
    first, second = source.example(0), source.example(1)
    assert first["video"].shape == (2, 4, 32, 32, 3)
    assert abs(int(first["video"][1].mean()) - 50) < 6  # grey as the codec keeps it
    assert (first["stronger_object"], first["stronger_camera"]) == (-1.0, 0.0)
    assert second["stronger_object"] == 1.0
    assert np.isnan(second["stronger_camera"])
    assert np.isnan(first["object"]).all()


def test_labels_of_single_clips_make_pairs(folder) -> None:
    rows = [{"path": f"{number}.mp4", "object": 1.0 + number, "camera": 2.0} for number in range(3)]
    (folder / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    source = config(folder, labels=str(folder / "labels.jsonl")).open()
    assert len(source) == 3
    for index in range(3):
        example = source.example(index)
        levels = example["video"].mean((1, 2, 3, 4)) / 50 + 1
        np.testing.assert_allclose(example["object"], np.rint(levels))
        assert np.isnan(example["stronger_object"])


def test_without_anything_known_there_is_nothing_to_learn(folder) -> None:
    with pytest.raises(ValueError, match=r"data\.pairs, data\.labels or both"):
        config(folder)
    (folder / "labels.jsonl").write_text('{"path": "0.mp4", "object": 1}\n')
    with pytest.raises(ValueError, match="line 1: needs path, object and camera"):
        config(folder, labels=str(folder / "labels.jsonl")).open()
    write_pairs([Pair("0.mp4", "9.mp4", "a", "a")], folder / "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"9\.mp4"):
        config(folder, pairs=str(folder / "pairs.csv")).open()
