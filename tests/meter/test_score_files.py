import os

import pytest

from jaxmotion.meter.score_files import BLOCK, BLOCKS, content_hash, find_videos


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clips/b.mp4", "clips/a.MOV", "clips/deep/c.webm", "clips/.hidden.mp4", "clips/.git/d.mp4", "e.mkv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "clips" / "notes.txt").write_text("no list: it is inside a folder that is searched")
    return tmp_path


def test_folders_patterns_files_and_lists_can_be_mixed(folder):
    inside = ["clips/a.MOV", "clips/b.mp4", "clips/deep/c.webm"]
    assert find_videos(["clips"]) == inside
    assert find_videos([str(folder / "clips")]) == [str(folder / name) for name in inside]
    assert find_videos(["clips/**/*.webm", "e.mkv", "./clips/deep"]) == ["clips/deep/c.webm", "e.mkv"]
    assert find_videos(["clips/d*"]) == ["clips/deep/c.webm"]
    (folder / "any.name").write_bytes(b"a file that is named is meant")
    assert find_videos(["any.name", "missing.mp4"]) == ["any.name", "missing.mp4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clips/list.txt", "# two\nb.mp4\n\ndeep/c.webm\n"),
        ("list.txt", "b.mp4\ndeep/c.webm\n"),
        ("lists/list.txt", "clips/b.mp4\nclips/deep/c.webm\n"),
        ("clips/metadata.csv", "file_name,caption\nb.mp4,one\ndeep/c.webm,\n"),
        ("metadata.jsonl", '{"file_name": "b.mp4", "n": 1}\n{"file_name": "deep/c.webm"}\n'),
        ("scores.jsonl", '{"path": "clips/b.mp4", "object": 1}\n{"path": "clips/deep/c.webm"}\n'),
        ("webvid.csv", "videoid,name,page_dir\nb,a cat,.\nc,,deep\n"),
    ],
)
def test_lists_are_read_from_where_their_names_start(folder, name, text):
    (folder / "clips" / "deep" / "c.mp4").write_bytes(b"for WebVid, where all end in .mp4")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    found = [os.path.relpath(path) for path in find_videos([name])]
    assert found == ["clips/b.mp4", "clips/deep/c.mp4" if "webvid" in name else "clips/deep/c.webm"]


def test_links_in_circles_end(folder):
    (folder / "clips" / "deep" / "up").symlink_to(folder / "clips")
    assert find_videos(["clips"]) == ["clips/a.MOV", "clips/b.mp4", "clips/deep/c.webm"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "", "lists no clip"),
        ("list.csv", "caption\na cat\n", "line 2 names no clip: .* has no 'file_name', nor another of filename, path"),
        ("list.jsonl", '{"path": "a.mp4"}\n{oops\n', "line 2 is not JSON"),
        ("list.jsonl", "[1]\n", "line 1 is not a JSON object"),
    ],
)
def test_lists_that_cannot_be_read_say_why(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        find_videos([name])


def test_nothing_to_score_says_what_was_looked_for(folder):
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"No video in nothing: looked for files ending in \.mp4"):
        find_videos(["nothing"])


def test_the_hash_is_that_of_the_content(tmp_path):
    one, other, large = (tmp_path / name for name in ("one", "other", "large"))
    one.write_bytes(bytes(1000))
    other.write_bytes(bytes(1000))
    assert content_hash(str(one)) == content_hash(str(other))
    other.write_bytes(bytes(999) + b"\1")
    assert content_hash(str(one)) != content_hash(str(other))
    size = 3 * BLOCK * BLOCKS
    large.write_bytes(bytes(size))
    before = content_hash(str(large))
    for at in (
        0,
        (size - BLOCK) * 8 // 15 + 9,
        size - 1,
    ):  # in three of the blocks that are read
        with large.open("r+b") as file:
            file.seek(at)
            file.write(b"\1")
        assert content_hash(str(large)) != before, at
        before = content_hash(str(large))
    with large.open("ab") as file:
        file.write(b"\0")
    assert content_hash(str(large)) != before
