import json
import logging
import shutil
import threading

import numpy as np
import pytest

from jaxmotion.data.bad_clips import BadClips
from jaxmotion.data.clips import Clips
from jaxmotion.video.decode import BadClipError
from jaxmotion.video.listing import ClipFile

BAD = ("audio_only", "empty", "not_a_video", "one_frame", "truncated", "truncated_no_index")
FORMATS = ("clips", "formats/webvid.csv", "formats/metadata.csv")


@pytest.fixture
def damaged(write, tmp_path):
    """Three clips: `b` has its second half blanked, which only decoding shows."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (tmp_path / "clips").mkdir()
    for name in "abc":
        write(tmp_path / "clips" / f"{name}.mp4", pixels=noise)
    path = tmp_path / "clips" / "b.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) * 9 // 10] = bytes(len(data) * 9 // 10 - len(data) // 2)
    path.write_bytes(data)
    return tmp_path / "clips"


def test_every_bad_file_is_named_once_with_its_reason(shared_data, tmp_path, caplog):
    folder, report = tmp_path / "clips", tmp_path / "run" / "bad_clips.jsonl"
    shutil.copytree(shared_data / "bad", folder)
    shutil.copy(shared_data / "clips" / "bus_qcif.mp4", folder)
    config = Clips(str(folder), frames=8, size=(32, 32))
    with caplog.at_level(logging.WARNING):
        source = config.open(report)
    assert len(source) == 1
    assert source.example(0)["id"] == "bus_qcif"
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert tuple(line["id"] for line in lines) == BAD
    assert all(len(line["reason"]) > 10 for line in lines)
    for name in BAD:
        assert sum(f"{name}.mp4 cannot be used" in message for message in caplog.messages) == 1
    assert "1 clips can be used, 6 cannot" in caplog.messages[-1]
    config.open(report)  # the run goes on
    assert len(report.read_text().splitlines()) == len(BAD)


def test_a_folder_without_a_usable_clip_says_what_was_looked_for(shared_data):
    with pytest.raises(
        ValueError, match=r"None of the 6 clips.*empty.mp4: the file is empty.*Looked for metadata.jsonl"
    ):
        Clips(str(shared_data / "bad")).open()


def test_bad_clips_stop_the_run_if_the_config_says_so(shared_data, damaged):
    with pytest.raises(ValueError, match=r"None of the 6"):
        Clips(str(shared_data / "bad"), on_bad="stop").open()
    source = Clips(str(damaged), frames=8, size=(32, 32), on_bad="stop").open()
    late = _Fixed(0.99)
    with pytest.raises(BadClipError, match=r"b\.mp4: .*set on_bad to 'skip'"):
        source.load(1, late)


def test_all_formats_give_the_same_clips(shared_data):
    sources = [Clips(str(shared_data / path), frames=4, size=(32, 48)).open() for path in FORMATS]
    assert len(sources[0]) == 46
    assert sources[0].files == sources[1].files == sources[2].files
    listed = [json.loads(line) for line in (shared_data / "clips" / "metadata.jsonl").read_text().splitlines()]
    assert {file.id: file.caption for file in sources[0].files} == {
        row["file_name"].removesuffix(".mp4"): row["caption"] for row in listed
    }
    for index in range(0, 46, 9):
        first, *others = [source.example(index, np.random.default_rng(index)) for source in sources]
        for other in others:
            assert (first["video"] == other["video"]).all()
            assert first["caption"] == other["caption"]
    pairs = Clips(str(shared_data / "formats" / "pairs"), frames=4, size=(32, 48)).open()
    assert [file.id for file in pairs.files] == ["a", "b"]
    assert "galloping" in pairs.example(0)["caption"]


def test_clips_start_where_the_generator_says(shared_data):
    source = Clips(str(shared_data / "clips"), frames=4, size=(32, 32)).open()
    index = [file.id for file in source.files].index("foreman_cif")
    drawn = [source.example(index, np.random.default_rng(seed))["video"] for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all()
    assert not (drawn[0] == drawn[2]).all()
    assert (source.example(index)["video"] == source.load(index, _Fixed(0.0))["video"]).all()


def test_a_clip_that_fails_late_is_reported_once_and_replaced_by_the_next(damaged, tmp_path, caplog):
    report = tmp_path / "bad_clips.jsonl"
    source = Clips(str(damaged), frames=8, size=(32, 32)).open(report)
    assert len(source) == 3  # its index is whole
    early, late = source.load(1, _Fixed(0.0)), source.load(1, _Fixed(0.99))
    assert (early["id"], late["id"]) == ("b", "c")
    assert source.load(1, _Fixed(0.99))["id"] == "c"
    assert (late["video"] == source.load(2, _Fixed(0.99))["video"]).all()
    assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == ["b"]
    assert sum("b.mp4 cannot be used" in message for message in caplog.messages) == 1
    assert source.load(1, _Fixed(0.0))["id"] == "b"  # what was reported depends on the past; what is loaded does not


def test_without_probing_bad_files_are_found_when_their_turn_comes(shared_data, tmp_path):
    folder, report = tmp_path / "clips", tmp_path / "bad_clips.jsonl"
    shutil.copytree(shared_data / "bad", folder)
    shutil.copy(shared_data / "clips" / "bus_qcif.mp4", folder)
    source = Clips(str(folder), frames=8, size=(32, 32), probe=False).open(report)
    assert len(source) == 7
    assert {source.example(index)["id"] for index in range(7)} == {"bus_qcif"}
    assert sorted(json.loads(line)["id"] for line in report.read_text().splitlines()) == sorted(BAD)
    with pytest.raises(BadClipError, match=r"and 5 clips after it cannot be read"):
        Clips(str(shared_data / "bad"), frames=8, probe=False).open().example(0)


def test_the_report_is_shared_and_survives_a_torn_line(tmp_path):
    report = tmp_path / "bad_clips.jsonl"
    report.write_text('{"id": "torn", "pa')
    files = [ClipFile(str(index), f"/clips/{index}.mp4", "") for index in range(20)]

    def add():
        reporter = BadClips(report)  # as another process has it
        for file in files:
            reporter.add(file, "broken")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = report.read_text().splitlines()[1:]
    assert [json.loads(line)["id"] for line in whole] == [file.id for file in files]


def test_what_cannot_be_a_clip_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame"):
        Clips("x", frames=0)


class _Fixed:
    """A generator that always draws the same."""

    def __init__(self, value):
        self.random = lambda: value
