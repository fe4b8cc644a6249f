import dataclasses

import pytest

from jaxmotion.video.pairs import Pair, locate_pairs, read_pairs, write_pairs

PAIRS = [
    Pair("a, b.mp4", "deep/é.mp4", "a", "tie", who="anna", seconds=4.5),
    Pair('"c".mp4', "d.mp4", "", "b"),
]


@pytest.mark.parametrize("name", ["pairs.csv", "new/pairs.jsonl"])
def test_what_is_written_is_read(tmp_path, name):
    path = tmp_path / name
    write_pairs(PAIRS, path)
    assert read_pairs(path) == PAIRS
    write_pairs([], path)
    assert read_pairs(path) == []


def test_files_by_others_are_read(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("\ufeffb,a,stronger_camera,stronger_object,note\nx.mp4,y.mp4,A, tie ,quick\n")
    assert read_pairs(table) == [Pair("y.mp4", "x.mp4", "tie", "a")]
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('\n{"a": "x", "b": "y", "stronger_object": null, "stronger_camera": "b"}\n')
    assert read_pairs(lines) == [Pair("x", "y", "", "b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "a,b,stronger_object\nx,y,a\n", "line 2 has no stronger_camera; a pair has a, b"),
        ("p.csv", "a,b,stronger_object,stronger_camera\nx,y,left,a\n", "line 2: stronger_object is 'left'; it must be"),
        ("p.csv", "a,b,stronger_object,stronger_camera\nx,,a,a\n", "needs two clips; got a='x' and b=''"),
        ("p.csv", "a,b,stronger_object,stronger_camera\nx,x,a,a\n", "needs two clips"),
        ("p.csv", "a,b,stronger_object,stronger_camera,seconds\nx,y,a,a,long\n", "seconds is 'long'"),
        ("p.csv", 'a,b,stronger_object,stronger_camera\n"x,y,a,a\n', "is not csv"),
        ("p.jsonl", '{"a": 1}\n{', "line 1 has no b, stronger_object"),
        ("p.jsonl", "[]\n", "line 1 is not a JSON object"),
        ("p.jsonl", "{\n", "line 1 is not JSON"),
        ("p.txt", "", r"ends in \.csv or \.jsonl"),
    ],
)
def test_errors_say_where_and_what(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name)


def test_clips_are_found_from_the_file_on(tmp_path):
    pairs = [dataclasses.replace(pair, a="a.mp4", b="b.mp4") for pair in PAIRS]
    (tmp_path / "a.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"1 clips of these pairs are not in .*: b\.mp4\."):
        locate_pairs(pairs, tmp_path)
    (tmp_path / "b.mp4").touch()
    assert locate_pairs(pairs, tmp_path)[1].b == str(tmp_path / "b.mp4")
