import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxmotion.meter.estimate import Clip, MotionEstimate, average_estimates
from jaxmotion.meter.sinks import ScoreFile, StdoutSink
from jaxmotion.meter.tool import map_ahead, measure_batches, score_videos
from jaxmotion.meter.windows import WindowSpec
from jaxmotion.video import motion_scale as unit

BAD = ("audio_only", "empty", "not_a_video", "one_frame", "truncated", "truncated_no_index")


def scored(videos, meter, sink=None, **settings):
    """The summary, with records by the names of their files."""
    sink = sink or StdoutSink(io.StringIO())
    summary = score_videos(videos, meter, sink, spec=WindowSpec(), progress=io.StringIO(), **settings)
    return summary, {os.path.basename(record["path"]): record for record in summary.records}


def ramp(seconds, change, size=(48, 64)):
    """Pictures whose grey rises by that share of the full scale a second, from 40 on."""
    grey = np.clip(40 + 255 * change * np.asarray(seconds), 0, 255).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (len(grey), *size, 3))


@pytest.fixture
def two(film, tmp_path):
    """A film that does nothing for 4 seconds and then becomes brighter for 4, and a small still one."""
    seconds = np.arange(200) / 25
    film(tmp_path / "late.mp4", seconds, rate=25, pictures=ramp(np.maximum(seconds - 4, 0), 0.15))
    film(tmp_path / "still.mp4", seconds[:40], rate=25, size=(32, 32), pictures=ramp(seconds[:40] * 0, 0, (32, 32)))
    return [str(tmp_path / "late.mp4"), str(tmp_path / "still.mp4")]


def test_a_clip_is_the_mean_of_its_windows(two, brightness):
    summary, records = scored(two, brightness)
    late, still = records["late.mp4"], records["still.mp4"]
    assert (len(summary.records), summary.known, summary.bad) == (2, 0, {})
    assert [(window["start"], window["end"]) for window in late["windows"]] == [
        (0.0, 1.56),
        (1.56, 3.12),
        (3.12, 4.8),
        (4.8, 6.36),
        (6.36, 7.92),
    ]
    speeds = unit.speed(np.array([window["object"] for window in late["windows"]]))
    assert speeds == pytest.approx([0, 0, 0.15 * 0.8 / 1.68, 0.15, 0.15], abs=0.004)
    assert late["object_speed"] == pytest.approx(0.15 * 3.92 / 7.92, rel=0.01)
    assert late["object"] == pytest.approx(unit.score(late["object_speed"]), abs=1e-3)
    assert late["camera_speed"] == pytest.approx(late["object_speed"] / 2, rel=1e-3)
    assert [window["move"] for window in late["windows"]] == ["static", "static", "pan", "pan", "pan"]
    assert late["move"] == "pan"
    assert (late["seconds"], late["fps"], late["width"], late["height"]) == (8.0, 25.0, 64, 48)
    assert still["object"] == still["camera"] == 1.0
    assert still["move"] == "static"
    assert "windows" not in still
    assert not {"note", "sampled"} & set(late)


def test_windows_weigh_what_they_last_and_moves_what_they_cover():
    still, zoom = MotionEstimate(0.1, 0.02, "static", 1.0), MotionEstimate(0.4, 0.20, "zoom", 0.0)
    clip = average_estimates([still, still, zoom], [2.0, 2.0, 1.0])
    assert clip == MotionEstimate(pytest.approx(0.16), pytest.approx(0.056), "zoom", pytest.approx(0.8))
    none = [MotionEstimate(0.1, 0.0, "roll", 1.0), MotionEstimate(0.1, 0.0, "static", 1.0)]
    assert average_estimates(none, [1.0, 3.0]).move == "static"
    assert average_estimates([zoom], [0.3]) == zoom


def test_batches_hold_one_shape_and_no_window_is_lost(brightness):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 300) * 8
    clips = [Clip.at(np.full((4, size, 8, 3), n % 251, np.uint8), 8) for n, size in enumerate(sizes)]
    estimates = dict(measure_batches(enumerate(clips), brightness, 7))
    assert sorted(estimates) == list(range(300))
    assert max(count for count, _ in brightness.batches) == 7
    assert len(brightness.batches) <= 300 / 7 + 4 + 1


def test_reading_ahead_keeps_the_order_and_its_depth():
    under_way, most = set(), []

    def work(item):
        under_way.add(item)
        most.append(len(under_way))
        time.sleep(0.002 * (item % 3))
        under_way.discard(item)
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, work, range(50), 4)) == list(range(50))
    assert 1 < max(most) <= 4


def test_bad_files_are_named_and_stop_nothing(shared_data, two, brightness, tmp_path):
    told = {}
    videos = [*(str(shared_data / "bad" / f"{name}.mp4") for name in BAD), *two, str(tmp_path / "gone.mp4")]
    summary, records = scored(videos, brightness, report_bad=told.__setitem__, threads=3)
    assert sorted(records) == ["late.mp4", "still.mp4"]
    assert summary.bad == told
    assert set(told) == {*videos} - {*two}
    assert all(len(reason) > 10 for reason in told.values())


def test_what_is_damaged_in_part_is_scored_in_part(film, tmp_path, brightness):
    noise = np.random.default_rng(0).integers(0, 256, (200, 48, 64, 3), np.uint8)
    path = tmp_path / "damaged.mp4"
    film(path, range(200), rate=25, pictures=noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) * 6 // 10] = bytes(len(data) * 6 // 10 - len(data) // 2)
    path.write_bytes(data)
    _, records = scored([str(path)], brightness)
    assert records["damaged.mp4"]["note"] == "2 of 5 windows cannot be decoded"
    assert len(records["damaged.mp4"]["windows"]) == 3


def test_a_meter_without_numbers_makes_no_record(two):
    class Broken:
        name = "broken"

        def __call__(self, clips):
            return [MotionEstimate(float("nan"), 0.1, "pan", 0.5) for _ in clips]

    summary, _ = scored(two, Broken())
    assert set(summary.bad.values()) == {"the meter gave no number for it"}


def test_what_is_known_is_not_measured_again(two, tmp_path, brightness):
    out = tmp_path / "scores.jsonl"

    def again(videos, meter=brightness, **settings):
        meter.batches.clear()
        sink = ScoreFile(out)
        summary, records = scored(videos, meter, sink, **settings)
        sink.close()
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert len({line["path"] for line in lines}) == len(lines)
        return summary.known, sum(count for count, _ in meter.batches), records, {line["path"]: line for line in lines}

    first = again(two)
    assert first[:2] == (0, 6)
    assert again(two)[:2] == (2, 0)
    assert again(two)[3] == first[3]

    moved = str(tmp_path / "moved.mp4")  # a copy has a record of its own
    shutil.copy(two[0], moved)
    known, windows, records, lines = again([*two, moved])
    assert (known, windows) == (3, 0)
    assert lines[moved] == {**lines[two[0]], "path": moved}
    assert again([*two, moved])[3] == lines

    shutil.copy(two[1], two[0])  # other content under the same path takes the place of what was said
    known, windows, records, lines = again(two)
    assert records["late.mp4"]["object"] == lines[two[0]]["object"] == 1.0
    assert len(lines) == 3

    other = type(brightness)(name="other")  # another meter says it anew
    assert again(two, other)[:2] == (0, 2)
    assert {line["meter"] for line in again(two, other)[3].values()} == {"other", "brightness"}


def test_another_number_of_windows_is_measured_again_where_it_matters(film, tmp_path, brightness):
    long = film(tmp_path / "long.mp4", range(1500), rate=25, size=(16, 16), preset="ultrafast")
    short = film(tmp_path / "short.mp4", range(60), rate=25)
    sink = ScoreFile(tmp_path / "scores.jsonl")
    _, records = scored([long, short], brightness, sink, max_windows=4)
    assert records["long.mp4"]["sampled"] == len(records["long.mp4"]["windows"]) == 4
    assert scored([long, short], brightness, sink, max_windows=4)[0].known == 2
    assert scored([long, short], brightness, sink, max_windows=5)[0].known == 1
    sink.close()


KILLED = """
import sys, time
from jaxmotion.meter.estimate import MotionEstimate
from jaxmotion.meter.tool import score_videos
from jaxmotion.meter.windows import WindowSpec
from jaxmotion.meter.sinks import ScoreFile
from pathlib import Path

class Slow:
    name = "slow"
    def __call__(self, clips):
        time.sleep(0.05)
        return [MotionEstimate(0.1, 0.1, "pan", 0.5) for _ in clips]

score_videos(sys.argv[2:], Slow(), ScoreFile(Path(sys.argv[1])), spec=WindowSpec(), batch=1, progress=sys.stderr)
"""


def test_a_killed_run_goes_on_where_it_was(film, tmp_path):
    videos = []
    for number in range(40):
        pictures = np.full((30, 32, 32, 3), 3 * number, np.uint8)
        videos.append(film(tmp_path / f"{number:02}.mp4", range(30), rate=15, size=(32, 32), pictures=pictures))
    out = tmp_path / "scores.jsonl"
    command = [sys.executable, "-c", KILLED, str(out), *videos]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (not out.exists() or out.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    whole = out.read_bytes()
    before = whole.count(b"\n")
    assert 3 <= before < 40
    with out.open("ab") as file:
        file.write('{"path": "torn é'.encode()[:-1])  # a power cut may leave half a line
    second = subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    assert second.returncode == 0
    assert out.read_bytes().startswith(whole)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == videos
