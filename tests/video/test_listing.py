import json

import pytest

from jaxmotion.video.listing import list_clips

CAPTIONS = {"a": "a dog, running", "b": "a cat"}


@pytest.fixture
def folder(tmp_path):
    """Two files that are listed by name only; nothing here opens them."""
    for name in CAPTIONS:
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"x")
    return tmp_path


def _found(listing):
    return {file.id: file.caption for file in listing.files}


def test_all_forms_of_a_list_name_the_same_clips(folder):
    clips, lists = folder / "clips", folder / "lists"
    lists.mkdir()
    rows = [{"file_name": f"{name}.mp4", "caption": caption} for name, caption in CAPTIONS.items()]
    (lists / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (lists / "metadata.csv").write_text('file_name,text\na.mp4,"a dog, running"\nb.mp4,a cat\n')
    (lists / "webvid.csv").write_text(
        'videoid,name,page_dir,duration\nb,a cat,clips,PT1S\na,"a dog, running",clips,PT2S\n', encoding="utf-8-sig"
    )
    jsonl, metadata, webvid = (list_clips(lists / name) for name in ("metadata.jsonl", "metadata.csv", "webvid.csv"))
    for name, caption in CAPTIONS.items():
        (clips / f"{name}.txt").write_text(caption + "\n")
    pairs = list_clips(clips)
    assert _found(jsonl) == CAPTIONS
    assert jsonl.files == metadata.files == webvid.files == pairs.files


def test_lists_inside_the_folder_come_before_bare_clips(folder):
    (folder / "clips" / "metadata.csv").write_text("file_name,caption\na.mp4,only this\n")
    assert _found(list_clips(folder / "clips")) == {"a": "only this"}
    assert _found(list_clips(folder)) == {"a": "only this"}  # as Hugging Face keeps the lists of its splits
    (folder / "clips" / "metadata.csv").rename(folder / "clips" / "results.csv")  # a name that means nothing
    assert _found(list_clips(folder)) == {"a": "only this"}  # and b is not in the folder's list
    (folder / "clips" / "results.csv").write_text("file_name,ssim\na.mp4,0.9\n")  # no list: it has no captions
    assert _found(list_clips(folder)) == {"a": "", "b": ""}
    (folder / "clips" / "results.csv").write_text("videoid,name,page_dir\na,webvid,clips\n")
    assert _found(list_clips(folder / "clips", root=folder)) == {"a": "webvid"}


def test_a_given_root_is_where_names_start(folder):
    (folder / "list.jsonl").write_text('{"file_name": "b.mp4", "caption": "a cat"}\n')
    assert list_clips(folder / "list.jsonl").files == list_clips(folder / "list.jsonl", folder / "clips").files
    elsewhere = list_clips(folder / "list.jsonl", folder / "none").files
    assert elsewhere[0].path == str(folder / "none" / "b.mp4")


def test_bare_clips_in_subfolders_keep_different_names(folder):
    (folder / "more").mkdir()
    (folder / "more" / "a.webm").write_bytes(b"x")
    (folder / "more" / "a.mov").write_bytes(b"x")
    assert set(_found(list_clips(folder))) == {"clips/a.mp4", "clips/b.mp4", "more/a.mov", "more/a.webm"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.jsonl", '{"file_name": "a.mp4"}\n{"file_name"', r"line 2 is not JSON"),
        ("metadata.jsonl", '["a.mp4"]\n', r"line 1 is not a JSON object"),
        ("metadata.csv", "file_name,fps\na.mp4,8\n", r"no caption column; its columns are \['file_name', 'fps'\]"),
        ("metadata.csv", "film,caption\na.mp4,x\n", "line 2 names no clip: .* has no 'file_name', nor another of"),
        ("metadata.csv", "file_name,caption\n,x\n", "has no 'file_name'"),
        ("metadata.csv", "file_name,caption\n", "lists no clip"),
    ],
)
def test_a_list_that_cannot_be_read_says_what_is_wrong(tmp_path, name, text, message):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        list_clips(tmp_path / "set" / name)


def test_a_folder_without_clips_says_what_was_looked_for(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"No clip in .*metadata.jsonl.*WebVid.*\.mp4"):
        list_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_clips(tmp_path / "none")
    (tmp_path / "clip.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"clip\.csv is in UTF-16 or UTF-32; save it as UTF-8"):
        list_clips(tmp_path / "clip.csv")
