import json

import pytest

from jaxmotion import score as command


@pytest.fixture
def clips(film, tmp_path, monkeypatch, brightness):
    """Two films and a bad file in a folder `clips` of the working directory, and a meter that needs no network."""
    monkeypatch.setattr(command.meter, "packaged_meter", lambda: brightness)
    monkeypatch.setattr(command.meter, "canvas", lambda height, width: (32, 32))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    film(tmp_path / "clips" / "a.mp4", range(60), rate=25)
    film(tmp_path / "clips" / "b.mp4", range(20), rate=12)
    (tmp_path / "clips" / "c.mp4").touch()
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        command.body(list(arguments))
    return left.value.code


def test_scores_are_printed_and_bad_files_named(clips, capsys):
    assert run("clips") == 0
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [record["path"] for record in records] == ["clips/a.mp4", "clips/b.mp4"]
    assert all(1 <= record[axis] <= 10 for record in records for axis in ("object", "camera"))
    assert "bad: clips/c.mp4: the file is empty" in printed.err
    assert "2 clips scored" in printed.err
    assert "1 that cannot be scored" in printed.err


def test_a_file_is_written_with_pictures_and_bad_files_beside_it(clips, capsys, brightness):
    assert run("clips", "--out", "out/scores.jsonl", "--plot") == 0
    assert sorted(path.name for path in (clips / "out").iterdir()) == [
        "scores.bad.jsonl",
        "scores.extremes.png",
        "scores.jsonl",
        "scores.png",
    ]
    assert len((clips / "out" / "scores.jsonl").read_text().splitlines()) == 2
    assert brightness.batches
    assert json.loads((clips / "out" / "scores.bad.jsonl").read_text())["path"] == "clips/c.mp4"
    brightness.batches.clear()
    assert run("clips", "--out", "out/scores.jsonl") == 0
    assert brightness.batches == []
    assert "2 known from before" in capsys.readouterr().err


def test_metadata_names_the_clips_if_nothing_else_does(clips):
    path = clips / "clips" / "metadata.jsonl"
    path.write_text('{"file_name": "b.mp4", "motion": "object"}\n')
    assert run("--metadata", "clips/metadata.jsonl") == 0
    row = json.loads(path.read_text())
    assert row["motion"] == "object"
    assert row["motion_score"]["source"] == "brightness"


def test_the_code_says_whether_there_is_a_score(clips):
    assert run("clips/c.mp4") == 2
    assert run("clips/c.mp4", "clips/a.mp4") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a PATH is needed"),
        (("clips", "--out", "scores.csv"), "scores.csv ends in neither of .jsonl, .parquet"),
    ],
)
def test_a_wrong_command_line_says_what_would_do(clips, capsys, arguments, message):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_misspelt_command_is_known_and_usage_is_what_one_types(clips, capsys):
    assert run("convrt", "vmaf", "3") == 2
    assert "there is no file convrt; the command is called convert" in capsys.readouterr().err
    (clips / "convrt").mkdir()
    assert run("convrt", "clips/a.mp4") == 0  # what is there is a path
    capsys.readouterr()
    assert run() == 2
    assert "usage: python -m jaxmotion.score PATH ... [options]" in capsys.readouterr().err
    assert run("convert", "vmaf") == 2
    assert "usage: python -m jaxmotion.score convert PEER [NUMBER|FILE] [options]" in capsys.readouterr().err


def test_numbers_that_make_no_sense_are_refused(clips):
    with pytest.raises(ValueError, match="--windows -1"):
        command.body(["clips", "--windows", "-1"])


def test_help_shows_examples_and_what_is_written(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for word in ("--metadata", "label clips", "scores.parquet", "object_speed", "confidence", "note"):
        assert word in text
    assert run("label", "--help") == 0
    assert "ssh -L" in capsys.readouterr().out


def test_without_a_home_or_with_one_that_cannot_be_written_there_is_no_cache(clips, monkeypatch, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    kept = []
    monkeypatch.setattr(command.jax.config, "update", lambda *setting: kept.append(setting))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with monkeypatch.context() as inner:
        inner.setattr(command.Path, "home", homeless)
        assert run("clips") == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(clips / "clips" / "a.mp4"))  # a file: nothing can be made below
    assert run("clips") == 0
    assert not kept
    monkeypatch.setenv("XDG_CACHE_HOME", str(clips / "cache"))
    assert run("clips") == 0
    assert ("jax_compilation_cache_dir", str(clips / "cache" / "jaxmotion" / "compiled")) in kept
    assert "2 clips scored" in capsys.readouterr().err
