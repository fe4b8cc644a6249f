import io
import json
import sys

import pytest

from jaxmotion.meter.sinks import (
    BadFiles,
    ScoreFile,
    StdoutSink,
    add_to_metadata,
    check_metadata,
    open_sink,
    read_parquet,
    write_parquet,
)

RECORD = {
    "path": "a é.mp4",
    "object": 3.5,
    "camera": 1.0,
    "object_speed": 0.04,
    "camera_speed": 0.0,
    "move": "static",
    "confidence": 0.75,
    "seconds": 4.0,
    "fps": 24.0,
    "width": 64,
    "height": 48,
    "hash": "00ff",
    "meter": "small",
}
LONG = {
    **RECORD,
    "path": "b.mp4",
    "hash": "11ff",
    "sampled": 2,
    "note": "1 of 3 windows cannot be decoded",
    "windows": [
        {"start": start, "end": start + 2.0, "object": 3.5, "camera": 1.0, "move": "static", "confidence": 0.75}
        for start in (0.0, 2.0)
    ],
}


def test_records_are_printed_as_lines():
    stream = io.StringIO()
    sink = StdoutSink(stream)
    sink.add(RECORD)
    sink.add(LONG)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [RECORD, LONG]
    assert "é" in stream.getvalue()
    assert sink.records_of(RECORD["hash"]) == []


def test_a_record_is_on_the_disk_when_it_is_added(tmp_path):
    file = ScoreFile(tmp_path / "new" / "scores.jsonl")
    file.add(RECORD)
    assert json.loads(file.path.read_text()) == RECORD
    newer = {**RECORD, "object": 4.0}
    file.add(newer)
    assert file.records_of("00ff") == [newer, RECORD]
    assert file.records_of("none") == []
    file.close()
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == [newer]


def test_two_runs_cannot_write_one_file(tmp_path):
    first = ScoreFile(tmp_path / "scores.jsonl")
    with pytest.raises(ValueError, match="Another run is writing"):
        ScoreFile(tmp_path / "scores.jsonl")
    first.close()
    ScoreFile(tmp_path / "scores.jsonl").close()


@pytest.mark.parametrize(
    "text", ['{"file_name": "a.mp4", "caption": "a cat"}\n', "a text without a line's end", "\xff\n"]
)
def test_files_of_something_else_are_left_alone(tmp_path, text):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"holds something else than scores.*--metadata"):
        ScoreFile(path)
    assert path.read_bytes() == text.encode("latin-1")


def test_bad_files_are_named_once_and_those_of_other_runs_kept(tmp_path):
    path = tmp_path / "scores.bad.jsonl"
    BadFiles(path, ["a", "b"])
    assert not path.exists()
    first = BadFiles(path, ["a", "b"])
    first.add("a", "empty")
    first.add("b", "no video")
    BadFiles(path, ["b", "c"]).add("c", "one frame")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"path": "a", "reason": "empty"},
        {"path": "c", "reason": "one frame"},
    ]


def test_parquet_gives_back_what_was_written(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "scores.parquet"
    assert read_parquet(path) == []
    write_parquet([RECORD, LONG], path)
    assert read_parquet(path) == [RECORD, LONG]
    assert [each.name for each in tmp_path.iterdir()] == ["scores.parquet"]


def test_parquet_is_continued_from_its_lines_or_from_itself(tmp_path):
    pytest.importorskip("pyarrow")
    path, lines = tmp_path / "scores.parquet", tmp_path / "scores.parquet.part.jsonl"

    def stopped():
        with open_sink(path, None, []) as (sink, _):
            sink.add(RECORD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert lines.exists()
    assert not path.exists()
    with open_sink(path, None, []) as (sink, _):
        assert sink.records_of("00ff") == [RECORD]
        sink.add(LONG)
    assert not lines.exists()
    with open_sink(path, None, []) as (sink, _):
        assert sink.records_of("11ff") == [LONG]
    assert read_parquet(path) == [RECORD, LONG]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sink = open_sink(tmp_path / "scores.parquet", None, [])
    with pytest.raises(ValueError, match=r"pip install 'jaxmotion\[parquet\]'"):
        sink.__enter__()


@pytest.fixture
def metadata(tmp_path):
    """Writes metadata.jsonl for three clips, the second of which has no scores."""
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()

    def write(*rows):
        path = tmp_path / "metadata.jsonl"
        named = [{"file_name": f"{'abc'[place]}.mp4", **row} for place, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in named))
        return path

    return write


def records(tmp_path):
    return [{**RECORD, "path": str(tmp_path / "a.mp4")}, {**RECORD, "path": str(tmp_path / "c.mp4"), "camera": 9.0}]


def test_scores_go_into_the_rows_of_their_clips(tmp_path, metadata):
    path = metadata({"caption": "é", "fps": 24.0}, {"caption": "b"}, {"motion": {"level": 3, "object": 1.0}, "z": None})
    assert add_to_metadata(path, records(tmp_path)) == 2
    first, second, third = [json.loads(line) for line in path.read_text().splitlines()]
    unit = first["motion"]["unit"]
    assert "diagonals per second" in unit
    said = {"object": 3.5, "camera": 1.0, "unit": unit, "source": "small"}
    assert list(first.items()) == [("file_name", "a.mp4"), ("caption", "é"), ("fps", 24.0), ("motion", said)]
    assert second == {"file_name": "b.mp4", "caption": "b"}
    assert third == {"file_name": "c.mp4", "motion": {"level": 3, **said, "camera": 9.0}, "z": None}
    before = path.read_text()
    assert path.read_text().isascii()  # as it was written
    add_to_metadata(path, records(tmp_path))
    assert path.read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4", "metadata.jsonl"]


def test_a_motion_that_means_something_else_stays(tmp_path, metadata):
    path = metadata({"motion": "object"}, {"motion": "camera"}, {})
    add_to_metadata(path, records(tmp_path))
    first, second, third = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["motion"], first["motion_score"]["object"]) == ("object", 3.5)
    assert second == {"file_name": "b.mp4", "motion": "camera"}
    assert third["motion_score"]["camera"] == 9.0
    assert "motion" not in third


def test_metadata_alone_leaves_no_other_file(tmp_path, metadata):
    path = metadata({}, {}, {})
    with open_sink(None, path, []) as (sink, bad):
        sink.add(records(tmp_path)[0])
        bad("b.mp4", "empty")
    assert json.loads(path.read_text().splitlines()[0])["motion"]["object"] == 3.5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4", "metadata.jsonl"]


def test_metadata_of_another_form_is_refused(tmp_path):
    table = tmp_path / "metadata.csv"
    table.write_text("file_name\na.mp4\n")
    with pytest.raises(ValueError, match=r"metadata\.csv is no \.jsonl"):
        check_metadata(table)
    lines = tmp_path / "metadata.jsonl"
    lines.write_text('{"caption": "a cat"}\n')
    with pytest.raises(ValueError, match="names no clip"):
        check_metadata(lines)
