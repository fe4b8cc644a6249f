"""Names of files that are not UTF-8: they are scored, reported and read again, and end no run."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxmotion.meter import label, plot
from jaxmotion.meter.score_files import find_videos
from jaxmotion.meter.sinks import add_to_metadata, open_sink, write_parquet
from jaxmotion.meter.tool import score_videos
from jaxmotion.meter.windows import WindowSpec, stills

ODD, BAD = os.fsdecode(b"caf\xe9 \xff.mp4"), os.fsdecode(b"br\xf6ken.mp4")


@pytest.fixture
def folder(film, tmp_path):
    film(tmp_path / "plain.mp4", np.arange(50) / 25, rate=25)
    film(tmp_path / "other.mp4", np.arange(60) / 25, rate=25)
    os.rename(tmp_path / "other.mp4", tmp_path / ODD)
    (tmp_path / BAD).write_text("not a video")
    return tmp_path


def score(videos, out, meter, metadata=None):
    with open_sink(out, metadata, videos) as (sink, report_bad):
        progress = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
        return score_videos(videos, meter, sink, spec=WindowSpec(), progress=progress, report_bad=report_bad)


def test_they_are_scored_into_files_that_know_them_again(folder, brightness, caplog):
    out, videos = folder / "scores.jsonl", find_videos([str(folder)])
    assert "The names of 2 files are not UTF-8; they are written like" in caplog.text
    assert (len(score(videos, out, brightness).records), score(videos, out, brightness).known) == (2, 2)
    out.read_text(encoding="utf-8")
    assert sorted(find_videos([str(out)])) == sorted(str(folder / name) for name in (ODD, "plain.mp4"))
    (bad,) = (json.loads(line) for line in (folder / "scores.bad.jsonl").read_text().splitlines())
    assert bad["path"] == str(folder / BAD)
    table = folder / "metadata.jsonl"
    table.write_text(json.dumps({"file_name": ODD, "text": "é"}) + "\n" + '{"file_name": "plain.mp4", "text": "é"}\n')
    assert add_to_metadata(table, score(videos, out, brightness).records) == 2
    assert [json.loads(line)["file_name"] for line in table.read_text().splitlines()] == [ODD, "plain.mp4"]


def test_they_are_in_tables_and_pictures(folder, brightness):
    pytest.importorskip("pyarrow")
    videos = find_videos([str(folder)])
    out = folder / "scores.parquet"
    for _ in range(2):
        records = score(videos, out, brightness).records
        from pyarrow import parquet

        paths = parquet.read_table(out).column("path").to_pylist()
        assert sorted(map(os.path.basename, paths)) == ["caf\\udce9 \\udcff.mp4", "plain.mp4"]
    sheet = plot.draw_contact_sheet(records, folder / "sheet.png", lambda path: stills(path, WindowSpec()))
    assert sheet.stat().st_size > 1000
    write_parquet(records, folder / "again.parquet")


def test_lists_of_pairs_leave_them_out_and_say_so(folder, caplog):
    clips = label._writable(find_videos([str(folder)]))
    assert [os.path.basename(clip) for clip in clips] == ["plain.mp4"]
    assert "2 clips are left out: their names are not UTF-8" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_commands_print_them_whatever_the_terminal_takes(folder, root, encoding):
    script = "from jaxmotion.foundation import command_line as c; c.command(lambda a: print(a[0], 'é', '→'))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", script, ODD], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\udcff" in done.stdout


def test_a_list_of_names_in_txt_must_be_utf8(folder):
    (folder / "list.txt").write_bytes(b"plain.mp4\n" + os.fsencode(ODD) + b"\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 2 is not in UTF-8"):
        find_videos([str(folder / "list.txt")])
    shutil.copy(folder / "plain.mp4", folder / "é.mp4")
    (folder / "list.txt").write_text("plain.mp4\né.mp4\n", encoding="utf-8")
    assert len(find_videos([str(folder / "list.txt")])) == 2
