"""Files of other people's numbers: every form gives the same, and what is wrong is named with its line."""

from __future__ import annotations

import json

import pytest

from jaxmotion.meter.peer_files import complete_shape, read_numbers
from jaxmotion.meter.peers import PEERS, Shape

KANDINSKY = PEERS["kandinsky"]
ROWS = [
    {"path": "a.mp4", "camera_movement_score": 0.4, "object_movement_score": 2.5, "dynamics_score": 1.0},
    {"path": "b.mp4", "camera_movement_score": 3.02, "object_movement_score": -0.01, "dynamics_score": 0.2},
]
FOUND = [
    ("a.mp4", {"object": 2.5, "camera": 0.4, "dynamics": 1.0}),
    ("b.mp4", {"object": 0.0, "camera": 3.0, "dynamics": 0.2}),  # a regression may give a little more than its range
]
LISTS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
TABLE = "path,object_movement_score,camera_movement_score,dynamics_score\na.mp4,2.5,0.4,1\nb.mp4,-0.01,3.02,0.2\n"
FORMS = {
    "rows.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    "array.json": json.dumps(ROWS, indent=2),
    "by_name.json": json.dumps({row["path"]: {k: v for k, v in row.items() if k != "path"} for row in ROWS}),
    "lists.json": json.dumps(LISTS),
    "lists_of_one.jsonl": "".join(f"{json.dumps({k: [v] for k, v in row.items()})}\n" for row in ROWS),
    "table.csv": TABLE,
    "table.tsv": TABLE.replace(",", "\t"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same(tmp_path, name) -> None:
    (tmp_path / name).write_text(FORMS[name])
    assert [(entry.clip, dict(entry.numbers)) for entry in read_numbers(tmp_path / name, KANDINSKY)] == FOUND


def test_what_kandinskys_inference_returns_needs_no_names(tmp_path) -> None:
    (tmp_path / "raw.json").write_text(json.dumps({key: value for key, value in LISTS.items() if key != "path"}))
    assert [(e.clip, dict(e.numbers)) for e in read_numbers(tmp_path / "raw.json", KANDINSKY)] == [
        ("", numbers) for _, numbers in FOUND
    ]


NUMBERS = [key for key in ROWS[0] if key != "path"]


def row(**changed):
    return json.dumps({**ROWS[0], **changed})


BAD = {
    "wrong keys": (
        '{"path": "a.mp4", "camera": 1, "object": 2}',
        r"line 1 has no 'object_movement_score' or .*; it has 'path', 'camera', 'object'\.$",
    ),
    "too large": (row(camera_movement_score=4), r"line 1: 'camera_movement_score' is 4; it must be 0 to 3\.$"),
    "negative": (row(object_movement_score=-1), r"line 1: 'object_movement_score' is -1; it must be 0 to 3\.$"),
    "nan": (row(object_movement_score=float("nan")), r"is nan; it must be a finite number\.$"),
    "text": (row(object_movement_score="2.5"), r"is the text '2.5'; it must be a number\.$"),
    "null": (row(object_movement_score=None), r"is null; it must be a number\.$"),
    "true": (row(object_movement_score=True), r"is True; it must be a number\.$"),
    "twice": (row() + "\n\n" + row(), r"line 3: a.mp4 is there already, at .*, line 1; leave one of them out\.$"),
    "twice in other words": (row() + "\n" + row(path="./a.mp4"), r"line 2: ./a.mp4 is there already"),
    "later line": (row() + "\n" + row(path="b.mp4", dynamics_score=9), r"line 2: 'dynamics_score' is 9; it must be"),
    "no object": (row() + "\n[1, 2]", r"line 2 is not a JSON object but \[1, 2\]\.$"),
    "no JSON": (row() + "\n{", r"line 2 is not JSON"),
    "nothing": ("\n", r"holds no numbers\.$"),
    "lists of two lengths": (
        json.dumps({**LISTS, "dynamics_score": [1.0]}),
        r"the lists must be as long as each other; .*dynamics_score has 1",
    ),
    "several numbers for one clip": (
        row(**{k: [1, 1] for k in ROWS[0] if k != "path"}),
        r"2 numbers for the one clip a",
    ),
    "a name that is none": (
        json.dumps({**LISTS, "path": ["a.mp4", None]}),
        r"number 2 of 2: the clip's name is None; it must be a text\.$",
    ),
    "a list of texts": (row(**{k: ["x"] for k in ROWS[0] if k != "path"}), r"number 1 of 1: .* is the text 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_with_its_line(tmp_path, case) -> None:
    text, message = BAD[case]
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_numbers(path, KANDINSKY)
    assert str(path) in str(caught.value)


def test_lines_of_an_array_and_of_a_table_are_counted(tmp_path) -> None:
    path = tmp_path / "array.json"
    path.write_text(json.dumps([*ROWS, {**ROWS[0], "path": "c.mp4", "dynamics_score": "high"}], indent=1))
    with pytest.raises(ValueError, match=r"array.json, line 14: 'dynamics_score' is the text 'high'"):
        read_numbers(path, KANDINSKY)
    path = tmp_path / "table.csv"
    path.write_text(TABLE + "c.mp4,,1,1\n")
    with pytest.raises(ValueError, match=r"table.csv, line 4: 'object_movement_score' is null"):
        read_numbers(path, KANDINSKY)
    path = tmp_path / "by_name.json"
    path.write_text('{"a.mp4": {"pas": 0.1},\n "a.mp4": {"pas": 0.2}}')
    with pytest.raises(ValueError, match=r"line 2: a.mp4 is there already, at .*, line 1"):
        read_numbers(path, PEERS["pas"])
    path.write_text("[1, 2")
    with pytest.raises(ValueError, match=r"by_name.json, line 1 is not JSON"):
        read_numbers(path, KANDINSKY)
    with pytest.raises(ValueError, match=r"a.txt ends in none of \.json"):
        read_numbers(tmp_path / "a.txt", KANDINSKY)


def test_other_names_of_a_number_and_what_else_a_row_says(tmp_path) -> None:
    path = tmp_path / "metas.json"
    meta = {"clip_location": "x", "motion_score": {"global_mean": 0.002}, "framerate_source": 24, "width_source": 1280}
    path.write_text(json.dumps({**meta, "height_source": 720}))
    (entry,) = read_numbers(path, PEERS["curator"])
    assert (entry.clip, dict(entry.numbers)) == ("x", {"number": 0.002})
    assert complete_shape(entry, PEERS["curator"], Shape(), path) == Shape(24, 1280, 720)
    path.write_text(json.dumps({**meta, "height_source": "720p"}))
    with pytest.raises(ValueError, match=r"line 1: 'height_source' is the text '720p'; it must be a number"):
        read_numbers(path, PEERS["curator"])
    path.write_text(json.dumps({**ROWS[0], "duration": "0:05"}))  # nothing that Kandinsky's numbers need
    assert read_numbers(path, KANDINSKY)[0].numbers["object"] == 2.5
    path = tmp_path / "mine.csv"
    path.write_text("file_name,length\n0012,3.5\n")
    (entry,) = read_numbers(path, PEERS["codec"], "length")
    assert (entry.clip, dict(entry.numbers)) == ("0012", {"number": 3.5})


def test_a_clip_says_what_its_row_does_not(tmp_path, film) -> None:
    film(tmp_path / "a.mp4", range(48), rate=24, size=(48, 64))
    path = tmp_path / "results.json"
    path.write_text('[{"filepath": "a.mp4", "perceptible_amplitude_score": 0.3},\n {"filepath": "b.mp4", "pas": 0.3}]')
    here, missing = read_numbers(path, PEERS["pas"])
    assert complete_shape(here, PEERS["pas"], Shape(), path).seconds == pytest.approx(2.0)
    assert complete_shape(missing, PEERS["pas"], Shape(seconds=5.0), path).seconds == 5.0
    with pytest.raises(
        ValueError,
        match=r"line 2: diagonals over the whole clip are no speed without seconds, and the clip b.mp4 is not there. "
        r"Give --seconds, or write them into the row.",
    ):
        complete_shape(missing, PEERS["pas"], Shape(), path)
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"line 2: .*b.mp4 cannot be read: not a video"):
        complete_shape(missing, PEERS["pas"], Shape(), path)
