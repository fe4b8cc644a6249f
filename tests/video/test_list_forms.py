"""Lists of clips as data sets and other trainers have them: each gives the right caption to the right clip."""

import json
import os

import pytest

from jaxmotion.meter.score_files import find_videos
from jaxmotion.video.listing import describe_missing_captions, list_clips

ODD = "a\u2028dog\x85runs\x0cfar"


def write(folder, files):
    """Writes files by their names; clips are files of any content, since nothing here opens them."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def found(path, root=None):
    return {file.id: file.captions for file in list_clips(path, root).files}


def rows(*values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


TWO = {"a": ("a dog",), "b": ("a cat, asleep",)}
CLIPS = {"a.mp4": b"x", "b.mp4": b"x"}
IN_VIDEOS = {"videos/a.mp4": b"x", "videos/b.mp4": b"x"}
CSV = 'a.mp4,a dog\nb.mp4,"a cat, asleep"\n'
FORMS = {
    "metadata.jsonl": CLIPS
    | {
        "metadata.jsonl": rows({"file_name": "a.mp4", "text": "a dog"}, {"file_name": "b.mp4", "text": "a cat, asleep"})
    },
    "every row by its own keys": CLIPS
    | {
        "metadata.jsonl": rows(
            {"file_name": "a.mp4", "caption": "", "Prompt": "a dog"},
            {"Video Path": "b.mp4", "text": "a cat, asleep", "prompt": ""},
        )
    },
    "METADATA.JSONL in capitals": CLIPS | {"METADATA.CSV": f"File_Name,Caption\n{CSV}"},
    "metadata.json, an array": CLIPS
    | {
        "metadata.json": json.dumps(
            [{"video": "a.mp4", "caption": "a dog"}, {"video": "b.mp4", "caption": "a cat, asleep"}], indent=1
        )
    },
    "metadata.json by name": CLIPS
    | {"metadata.json": json.dumps({"a.mp4": "a dog", "b": {"caption": "a cat, asleep", "tags": "x"}})},
    "any jsonl alone": CLIPS
    | {"train.jsonl": rows({"video_path": "a.mp4", "caption": "a dog"}, {"path": "b.mp4", "prompt": "a cat, asleep"})},
    "any csv alone": CLIPS | {"OpenVid.csv": f"video,caption\n{CSV}", "results.csv": "psnr,ssim\n1,2\n"},
    "OpenVid": CLIPS
    | {
        "OpenVid-1M.csv": "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,"
        'fps,seconds\na.mp4,a dog,5.1,3,0.9,static,49,24,2\nb.mp4,"a cat, asleep",5,3,0.9,pan_left,49,24,2\n'
    },
    "semicolons": CLIPS | {"list.csv": 'file_name;text\na.mp4;a dog\nb.mp4;"a cat, asleep"\n'},
    "tabs": CLIPS | {"list.tsv": "file_name\ttext\na.mp4\ta dog\nb.mp4\ta cat, asleep\n"},
    "BOM and CRLF": CLIPS | {"list.csv": ("\ufeff" + f"file_name,text\n{CSV}".replace("\n", "\r\n"))},
    "spaces after commas": CLIPS | {"list.csv": 'file_name, text\na.mp4, a dog\nb.mp4, "a cat, asleep"\n'},
    "WebVid": {"p1/a.mp4": b"x", "p1/b.mp4": b"x"}
    | {"results.csv": 'videoid,contentUrl,duration,page_dir,name\na,u,PT1S,p1,a dog\nb,u,P,p1,"a cat, asleep"\n'},
    "WebVid, flat": CLIPS | {"results.csv": 'videoid,name,page_dir\na,a dog,p1\nb,"a cat, asleep",p2\n'},
    "names without endings": {"a.webm": b"x", "b.MOV": b"x"}
    | {"data.csv": 'video_id,caption\na,a dog\nb,"a cat, asleep"\n'},
    "prompts.txt and videos.txt": IN_VIDEOS
    | {"prompts.txt": "a dog\na cat, asleep\n", "videos.txt": "videos/a.mp4\nvideos/b.mp4\n"},
    "prompt.txt and video.txt, CRLF": IN_VIDEOS
    | {"prompt.txt": "a dog\r\na cat, asleep", "video.txt": "videos/a.mp4\r\nvideos/b.mp4\r\n\r\n"},
    "captions.txt and Videos.txt": IN_VIDEOS
    | {"captions.txt": "a dog\na cat, asleep\n\n", "Videos.txt": "videos/a.mp4\nvideos/b.mp4\n"},
    "texts beside": CLIPS | {"a.txt": "a dog\n", "b.TXT": " a cat,\n asleep\n"},
    "a.caption and b.mp4.txt": CLIPS | {"a.caption": "a dog", "b.mp4.txt": "a cat, asleep"},
    "json beside": CLIPS | {"a.json": '{"caption": "a dog", "key": "0"}', "b.mp4.JSON": '{"text": "a cat, asleep"}'},
    "a clip called video": {"video.mp4": b"x", "caption.mp4": b"x"}
    | {"video.txt": "a dog", "caption.txt": "a cat, asleep"},
    "an empty text beside another": CLIPS | {"a.txt": "", "a.caption": "a dog", "b.caption": "a cat, asleep"},
    "labels beside videos": IN_VIDEOS | {"labels/a.txt": "a dog", "labels/b.txt": "a cat, asleep"},
    "a row without a caption and a text beside": CLIPS
    | {"metadata.csv": "file_name,text\na.mp4,a dog\nb.mp4,\n", "b.txt": "a cat, asleep"},
    "absolute, dotted and Windows names": {"x/a.mp4": b"x", "x/y/b.mp4": b"x"}
    | {"x/z/metadata.csv": 'file_name,text\n../a.mp4,a dog\n..\\y\\b.mp4,"a cat, asleep"\n'},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_right_captions(tmp_path, form):
    folder = write(tmp_path / "set", FORMS[form])
    names = {"absolute, dotted and Windows names": ("a", "y/b"), "a clip called video": ("video", "caption")}
    first, second = names.get(form, ("a", "b"))
    assert found(folder) == {first: TWO["a"], second: TWO["b"]}
    listing = list_clips(folder)
    assert all(os.path.isfile(file.path) for file in listing.files)
    assert not listing.left_out
    assert len(find_videos([str(folder)])) == 2


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "txt", "parquet"])
def test_a_list_that_is_given_itself_is_read_for_training_and_for_scores(tmp_path, ending):
    folder = write(tmp_path, IN_VIDEOS)
    path = tmp_path / f"list.{ending}"
    table = [{"Path": f"videos/{name}.mp4", "Text": captions[0]} for name, captions in TWO.items()]
    if ending == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([{**row, "bytes": b"0"} for row in table]), path)
    elif ending == "txt":
        path.write_text("videos/a.mp4\n\n videos/b.mp4 \n")
        write(folder, {"videos/a.txt": "a dog", "videos/b.txt": "a cat, asleep"})
    elif ending == "csv":
        path.write_text("Path,Text\n" + "".join(f'{row["Path"]},"{row["Text"]}"\n' for row in table))
    else:
        path.write_text(json.dumps(table) if ending == "json" else rows(*table))
    assert found(path) == TWO
    assert find_videos([str(path)]) == [str(folder / "videos" / name) for name in ("a.mp4", "b.mp4")]


def test_lists_in_subfolders_at_any_depth_stand_beside_folders_without_one(tmp_path):
    write(
        tmp_path,
        {
            "one/metadata.jsonl": rows({"file_name": "a.mp4", "text": "of one"}),
            **{"one/a.mp4": b"x", "one/unlisted.mp4": b"x", "one/deep/bare.mp4": b"x"},
            "two/x/y/list.csv": "video,caption\na.mp4,of two\n",
            **{"two/x/y/a.mp4": b"x", "two/b.mp4": b"x", "two/b.txt": "beside"},
            "three/p.txt": "no list",
            **{"three/prompts.txt": "of three\n", "three/videos.txt": "v/a.mp4\n", "three/v/a.mp4": b"x"},
            "three/raw/long.mp4": b"x",
        },
    )
    listing = list_clips(tmp_path)
    assert {file.id: file.caption for file in listing.files} == {
        "one/a": "of one",
        "one/deep/bare": "",
        "two/x/y/a": "of two",
        "two/b": "beside",
        "three/v/a": "of three",
    }
    said = " ".join(listing.left_out)
    assert "1 clips are not in " in said
    assert "unlisted.mp4" in said
    assert "raw/long.mp4" in said  # the list of `three` names clips in subfolders, so it speaks for all of them
    assert "1 of 5 clips have no caption: 1 such as one/deep/bare" in describe_missing_captions(listing.files)


def test_several_rows_and_lists_of_captions_are_several_captions(tmp_path):
    write(tmp_path, CLIPS | {"c.mp4": b"x", "d.mp4": b"x"})
    write(
        tmp_path,
        {
            "metadata.jsonl": rows(
                {"file_name": "a.mp4", "captions": ["a dog", None, "a hound", "a dog"]},
                {"file_name": "b.mp4", "text": ""},
                {"file_name": "b.mp4", "text": "a cat"},
                {"file_name": "./b.mp4", "text": "a kitten"},
                {"file_name": "b.mp4", "text": None},
                {"file_name": "c.mp4", "text": [float("nan"), ""]},
                {"file_name": "d.mp4", "text": 7},
            )
        },
    )
    write(tmp_path, {"b.txt": "not asked for"})
    assert found(tmp_path) == {"a": ("a dog", "a hound"), "b": ("a cat", "a kitten"), "c": ("",), "d": ("7",)}
    (tmp_path / "metadata.jsonl").unlink()
    write(
        tmp_path,
        {"list.csv": 'file_name,caption\na.mp4,"[\'a dog\', \'a hound\']"\nb.mp4,"[""x"", null]"\nc.mp4,[x]\n'},
    )
    assert found(tmp_path) == {"a": ("a dog", "a hound"), "b": ("x",), "c": ("[x]",)}


def test_captions_that_are_missing_are_counted_with_the_reason(tmp_path):
    clips = {f"{name}.mp4": b"x" for name in "abcdefgh"}
    table = "file_name,caption\na.mp4,a dog\nb.mp4,\nc.mp4,nan\nd.mp4\ne.mp4,  \n"
    listing = list_clips(write(tmp_path, clips | {"metadata.csv": table}))
    said = describe_missing_captions(listing.files)
    assert said.startswith("4 of 5 clips have no caption: ")
    assert "2 such as b, because its caption is empty" in said
    assert "1 such as c, because its caption is 'nan'" in said
    assert "1 such as d, because its caption is null" in said
    (tmp_path / "metadata.csv").rename(tmp_path / "one.csv")
    (tmp_path / "two.csv").write_text(table)
    said = describe_missing_captions(list_clips(tmp_path).files)
    assert said.startswith("8 of 8 clips have no caption: 8 such as a, because 2 lists are in ")
    assert "give one as data.path" in said
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).unlink()
    write(tmp_path, {"captions.txt": "a\n", "a.txt": "a dog", "b.txt": " \n"})
    said = describe_missing_captions(list_clips(tmp_path).files)
    assert said.startswith("7 of 8 clips have no caption: ")
    assert "6 such as c, because " in said
    assert "captions.txt has no videos.txt beside it" in said
    assert "1 such as b, because the text beside it is no caption: its caption is empty" in said
    (tmp_path / "captions.txt").unlink()
    write(tmp_path, {f"{name}.txt": "text" for name in "bcdefg"})
    said = describe_missing_captions(list_clips(tmp_path).files)
    assert said == "1 of 8 clips have no caption: 1 such as h, because no list names it and no text stands beside it."


def test_files_of_other_programs_are_no_lists(tmp_path):
    write(tmp_path, CLIPS | {"config.json": '{"a": 1, "name": "x", "data": [1]}', "a.json": '{"text": {"x": 1}}'})
    write(tmp_path, {"b.json": "{torn", "b.caption": "a cat"})
    files = list_clips(tmp_path).files
    assert {file.id: file.captions for file in files} == {"a": ("",), "b": ("a cat",)}
    assert "the text beside it is no caption: its JSON has no caption that can be read" in describe_missing_captions(
        files
    )
    rows_of_us = rows({"path": "a.mp4", "object": 1, "camera": 2, "hash": "0", "meter": "x"})
    write(tmp_path, {"scores.jsonl": rows_of_us, "bad_clips.jsonl": rows({"id": "a", "path": "a.mp4", "reason": "?"})})
    write(tmp_path, {"a.json": "{}", "captions.jsonl": rows({"path": "a.mp4", "caption": "a dog"})})
    assert found(tmp_path) == {"a": ("a dog",)}


def test_odd_characters_inside_captions_break_no_list(tmp_path):
    write(tmp_path, CLIPS)
    first, second = {"file_name": "a.mp4", "text": ODD}, {"file_name": "b.mp4", "text": "a cat"}
    expected = {"a": (ODD,), "b": ("a cat",)}
    for name, text in {
        "metadata.jsonl": rows(first, second),
        "metadata.json": json.dumps([first, second], ensure_ascii=False),
        "metadata.csv": f"file_name,text\na.mp4,{ODD}\nb.mp4,a cat\n",
    }.items():
        write(tmp_path, {name: text})
        assert found(tmp_path) == expected, name
        assert len(find_videos([str(tmp_path / name)])) == 2, name
        (tmp_path / name).unlink()
    write(tmp_path, {"prompts.txt": f"{ODD}\na cat\n", "videos.txt": "a.mp4\nb.mp4\n"})
    assert found(tmp_path) == expected
    write(
        tmp_path, {"metadata.csv": 'file_name,text\na.mp4,"two\nlines"\nb.mp4,half \ud83d'.encode("utf-8", "replace")}
    )
    assert found(tmp_path)["a"] == ("two\nlines",)
    write(tmp_path, {"metadata.jsonl": '{"file_name": "a.mp4", "text": "half \\ud83d"}\n'})
    assert found(tmp_path)["a"] == ("half �",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"file_name,text\na.mp4,caf\xe9\n", r"metadata\.csv, line 2 is not in UTF-8 .* as UTF-8"),
        ("any.csv", b"file_name,text\na.mp4,caf\xe9\n", r"any\.csv, line 2 is not in UTF-8"),
        ("any.csv", "file_name,text\na.mp4,x\n".encode("utf-16"), r"any\.csv is in UTF-16 or UTF-32; save it as UTF-8"),
        ("metadata.jsonl", b'{"file_name": "a.mp4", "text": "caf\xe9"}\n', r"metadata\.jsonl, line 1 is not in UTF-8"),
        ("metadata.json", b'[\n{"file_name": "a.mp4", "text": "caf\xe9"}]', r"metadata\.json, line 2 is not in UTF-8"),
        ("a.txt", "café".encode("latin-1"), r"a\.txt, line 1 is not in UTF-8"),
        ("metadata.csv", b"file_name,text\na.mp4,a dog, asleep\n", "line 2 has 3 fields and the header 2; put quotes"),
        ("metadata.csv", b'file_name,text\na.mp4,"a dog\nb.mp4,x\n', "line 2 is not csv"),
        ("metadata.csv", b"file_name,text,text\na.mp4,x,y\n", "the column 'text' twice"),
        ("metadata.csv", b"file_name,fps\na.mp4,8\n", r"no caption column; its columns are \['file_name', 'fps'\]"),
        ("metadata.json", b'[{"file_name": "a.mp4"},\n]', "line 2 is not JSON"),
        ("metadata.json", b'["a.mp4"]', "entry 1 is not a JSON object"),
        ("metadata.jsonl", b'{"file_name": "a.mp4", "text": {"en": "x"}}\n', "line 1: the caption is {'en': 'x'}"),
        ("metadata.jsonl", b'{"file_name": "a.mp4", "text": [["x"]]}\n', "line 1: the caption is a list of lists"),
        ("metadata.jsonl", b'{"file_name": NaN, "text": "x"}\n', "line 1 names no clip"),
        ("metadata.parquet", b"PAR1", "is no Parquet table"),
    ],
)
def test_lists_that_cannot_be_read_name_the_file_and_the_line(tmp_path, name, content, message):
    write(tmp_path, CLIPS | {name: content})
    with pytest.raises(ValueError, match=message):
        list_clips(tmp_path)


def test_texts_side_by_side_must_have_as_many_lines(tmp_path):
    write(tmp_path, CLIPS | {"prompts.txt": "a dog\n", "videos.txt": "a.mp4\nb.mp4\n"})
    with pytest.raises(ValueError, match=r"videos\.txt has 2 lines and .*prompts\.txt has 1"):
        list_clips(tmp_path)
    write(tmp_path, {"prompts.txt": "a dog\n\n"})
    assert found(tmp_path) == {"a": ("a dog",), "b": ("",)}
    write(tmp_path, {"prompts.txt": "\na cat\n"})
    assert found(tmp_path / "videos.txt") == found(tmp_path / "prompts.txt") == {"a": ("",), "b": ("a cat",)}
    write(tmp_path, {"videos.txt": "\nb.mp4\n"})
    with pytest.raises(ValueError, match=r"videos\.txt, line 1 names no clip"):
        list_clips(tmp_path)


def test_a_clip_that_is_given_itself_is_one_clip(tmp_path):
    write(tmp_path, CLIPS | {"c.unknown": b"x", "a.txt": "a dog"})
    assert found(tmp_path / "a.mp4") == {"a": ("a dog",)}
    assert found(tmp_path / "c.unknown") == {"c": ("",)}
    write(tmp_path, {"metadata.csv": "file_name,text\nb.mp4,a cat\nb.mp4,a kitten\n"})
    assert found(tmp_path / "b.mp4") == {"b": ("a cat", "a kitten")}
    assert found(tmp_path / "a.mp4") == {"a": ("a dog",)}


def test_lines_that_begin_with_a_hash_are_names_or_said(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(write(tmp_path, CLIPS | {"#1.mp4": b"x"}))
    write(tmp_path, {"list.txt": "# two clips\n#1.mp4\na.mp4\n#gone.mp4\n"})
    assert find_videos(["list.txt"]) == ["#1.mp4", "a.mp4"]
    assert "2 lines that begin with # name no file and are taken for comments, such as line 1" in caplog.text
    assert set(found(tmp_path / "list.txt")) == {"#1", "a"}


def test_a_list_belongs_to_its_own_folder_before_others(tmp_path, caplog):
    """Many sets number their clips alike; one that is missing must not be taken from a neighbour."""
    names = [f"{number:04d}.mp4" for number in range(30)]
    write(tmp_path, {f"one/{name}": b"x" for name in names[25:]} | {f"two/{name}": b"x" for name in names})
    write(tmp_path, {"one/metadata.jsonl": rows(*({"file_name": name, "text": name} for name in names))})
    assert {os.path.basename(os.path.dirname(file.path)) for file in list_clips(tmp_path / "one").files} == {"one"}
    assert not caplog.messages
    for name in names[25:]:
        (tmp_path / "one" / name).unlink()
    assert {os.path.basename(os.path.dirname(file.path)) for file in list_clips(tmp_path / "one").files} == {"two"}
    assert "metadata.jsonl: none of its names is in its folder; they start at " in caplog.text


def test_names_are_found_in_either_form_of_unicode(tmp_path):
    write(tmp_path, {"cafe\u0301.mp4": b"x", "metadata.csv": "file_name,text\ncaf\u00e9.mp4,coffee\n"})
    listing = list_clips(tmp_path)
    assert [os.path.exists(file.path) for file in listing.files] == [True]
    assert not listing.left_out
