import json
import os

import pytest

from jaxmotion.foundation.text_files import escape, json_line, json_rows, read_utf8, utf8_lines, well_formed, whole_rows

ODD = "one\u2028two\u2029three\x85four\x0cfive\x0bsix\x1cseven"


def test_only_line_feeds_end_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(f"\ufeff{ODD}\r\nnext\n\nlast".encode())
    assert list(utf8_lines(path)) == [ODD, "next", "", "last"]
    assert read_utf8(path) == f"{ODD}\nnext\n\nlast"
    path.write_bytes(b"one\rtwo\rthree")  # of a Mac before 2001
    assert list(utf8_lines(path)) == ["one", "two", "three"]


def test_json_lines_keep_what_is_inside_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": ODD}, ensure_ascii=False), '{"text": "a raw\x0cfeed"}', "", '{"n": 3}']
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    assert list(json_rows(path)) == [(1, {"text": ODD}), (2, {"text": "a raw\x0cfeed"}), (4, {"n": 3})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": 2},\n', "line 2 is not JSON"),
        (b'{"a": 1,}\n', "line 1 is not JSON"),
        (b'{"a": 1}{"a": 2}\n', "line 1 is not JSON"),
        (b"[1]\n", r"line 1 is not a JSON object but \[1\]"),
        (b'{"a": "' + b"[" * 9 + b'\n{"a"}\n', "line 1 is not JSON"),
        (b'{"a":' * 100_000, "line 1 is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 1 is not JSON"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', r"line 2 is not in UTF-8 \(byte 0xe9\); save it as UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "is in UTF-16 or UTF-32; save it as UTF-8"),
        (b'{"a": 1}\n\0\0\0\0\n', "line 2 holds bytes that are zero"),
    ],
)
def test_json_lines_that_cannot_be_read_are_named_by_line(tmp_path, data, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.jsonl.* {message}" if "line" in message else message):
        list(json_rows(path))


def test_rows_of_our_own_files_survive_a_torn_line():
    assert whole_rows('{"a": 1}\n{"a": \n[1]\n\0\0\n\n{"a": 2}') == [{"a": 1}, {"a": 2}]


def test_a_name_that_is_not_utf8_is_the_same_after_json():
    name = os.fsdecode(b"\xff caf\xe9 \xe2\x82\xac.mp4")
    line = json_line({"path": name})
    assert line.encode("utf-8").decode("utf-8") == line
    assert json.loads(line)["path"] == name
    assert os.fsencode(json.loads(line)["path"]) == b"\xff caf\xe9 \xe2\x82\xac.mp4"
    assert escape(name) == "\\udcff caf\\udce9 €.mp4"


def test_halves_of_surrogate_pairs_are_joined_or_replaced():
    assert well_formed("a \ud83d\ude00 dog") == "a \U0001f600 dog"
    assert well_formed("a \ud83d dog") == "a � dog"
    assert well_formed("plain") == "plain"
