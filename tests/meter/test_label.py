import http.client
import importlib.resources
import itertools
import json
import re
import threading
from collections import Counter

import numpy as np
import pytest

from jaxmotion.meter.label import LabelingSession, draw_pairs
from jaxmotion.meter.serve import byte_range, make_server
from jaxmotion.meter.windows import WindowSpec, decode_windows, plan_windows
from jaxmotion.video.pairs import Pair, read_pairs

PAGE = importlib.resources.files("jaxmotion.meter").joinpath("label.html")


@pytest.mark.parametrize("clips", [2, 3, 8, 11])
def test_everyone_meets_everyone_once(clips):
    pairs = draw_pairs(clips, 1000, seed=0)
    assert sorted(tuple(sorted(pair)) for pair in pairs) == list(itertools.combinations(range(clips), 2))


@pytest.mark.parametrize(("clips", "count"), [(46, 138), (47, 60), (1000, 2500)])
def test_clips_are_shown_equally_often_and_on_both_sides(clips, count):
    pairs = draw_pairs(clips, count, seed=1)
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == count
    times = Counter(itertools.chain(*pairs))
    assert max(times.values()) - min(times[clip] for clip in range(clips)) <= 2 - (clips % 2 == 0)
    left = sum(a < b for a, b in pairs) / count
    assert 0.3 < left < 0.7
    assert pairs == draw_pairs(clips, count, seed=1) != draw_pairs(clips, count, seed=2)
    assert pairs == draw_pairs(clips, count + 500, seed=1)[:count]  # more pairs begin with the same ones


def test_fewer_than_two_clips_make_no_pair():
    with pytest.raises(ValueError, match="3 pairs of 1 clips"):
        draw_pairs(1, 3, 0)


@pytest.fixture
def sheet(tmp_path):
    clips = [str(tmp_path / "clips" / f"{name}.mp4") for name in "abcd"]
    return lambda **settings: LabelingSession(clips, tmp_path / "pairs.csv", **settings)


def say(sheet, stronger_object="a", stronger_camera="b"):
    number = sheet.state()["pair"]["number"]
    says = {"stronger_object": stronger_object, "stronger_camera": stronger_camera}
    return sheet.answer({"number": number, **says, "seconds": 1.26})


def test_answers_are_saved_one_by_one_and_continued(sheet, tmp_path):
    first = sheet()
    assert (first.state()["done"], first.state()["total"]) == (0, 6)
    shown = [first.state()["pair"]]
    say(first)
    shown.append(first.state()["pair"])
    say(first, "tie", "")
    names = [f"clips/{'abcd'[shown[n][side]]}.mp4" for n in (0, 1) for side in "ab"]
    assert read_pairs(tmp_path / "pairs.csv") == [
        Pair(names[0], names[1], "a", "b", seconds=1.3),
        Pair(names[2], names[3], "tie", "", seconds=1.3),
    ]
    third = first.state()["pair"]
    second = sheet()
    assert second.state()["pair"] == third
    assert second.state()["done"] == 2
    while second.state()["pair"]:
        say(second)
    assert second.state()["done"] == len(read_pairs(tmp_path / "pairs.csv")) == 6
    assert sheet(seed=5).state()["pair"] is None  # whatever the order, all are judged


def test_undo_takes_back_ones_own_last_answer(sheet, tmp_path):
    anna, bert = sheet(who="anna"), sheet(who="bert")
    assert not anna.state()["undoable"]
    first = anna.state()["pair"]
    say(anna)
    second = anna.state()["pair"]
    say(anna)
    assert anna.undo({})["pair"] == second
    assert anna.undo({})["pair"] == first
    assert anna.undo({})["done"] == 0
    say(anna)
    bert = sheet(who="bert")
    assert bert.state()["pair"] == first  # everyone judges the same pairs
    say(bert, "b", "b")
    bert.undo({})
    bert.undo({})
    assert [pair.who for pair in read_pairs(tmp_path / "pairs.csv")] == ["anna"]


def test_an_answer_to_another_pair_is_not_taken(sheet, tmp_path):
    page = sheet()
    stale = page.state()["pair"]["number"]
    say(page)
    page.answer({"number": stale, "stronger_object": "b", "stronger_camera": "b"})
    assert len(read_pairs(tmp_path / "pairs.csv")) == 1
    with pytest.raises(ValueError, match="stronger_object is 'left'"):
        say(page, "left")
    assert len(read_pairs(tmp_path / "pairs.csv")) == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (0, 99)),
        ("bytes=0-", (0, 99)),
        ("bytes=10-19", (10, 19)),
        ("bytes=90-200", (90, 99)),
        ("bytes=-5", (95, 99)),
        ("bytes=-500", (0, 99)),
        ("bytes=100-", None),
        ("bytes=20-10", None),
        ("bytes=-0", None),
        ("bytes=0-1,5-6", (0, 99)),
        ("lines=1-2", (0, 99)),
    ],
)
def test_ranges_of_bytes(header, expected):
    assert byte_range(header, 100) == expected


@pytest.fixture
def ask(tmp_path):
    """Asks a running server: `ask(method, path, body, **headers)` gives (status, headers, body)."""
    clips = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    clips[0].write_bytes(bytes(range(200)) * 5)
    (tmp_path / "secret").write_text("secret")
    answers = {"double": lambda said: {"twice": 2 * said["n"]}}
    with make_server(b"the page", [str(clip) for clip in clips], answers, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()

        def ask(method, path, body=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            result = reply.status, reply.headers, reply.read()
            connection.close()
            return result

        yield ask
        server.shutdown()
        thread.join()


def test_clips_are_served_in_ranges(ask, tmp_path):
    whole = (tmp_path / "a.mp4").read_bytes()
    assert ask("GET", "/")[2] == b"the page"
    status, headers, body = ask("GET", "/clip/0")
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", whole)
    status, headers, body = ask("GET", "/clip/0", Range="bytes=100-299")
    assert (status, headers["Content-Range"], body) == (206, "bytes 100-299/1000", whole[100:300])
    assert ask("GET", "/clip/0", Range="bytes=5000-")[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        "/clip/2",
        "/clip/-1",
        "/clip/../secret",
        "/secret",
        "/../secret",
        "/clip/0/../../secret",
        "/clip/%2e%2e",
        "/clip",
    ],
)
def test_nothing_else_is_served(ask, path):
    status, _, body = ask("GET", path)
    assert status == 404
    assert b"secret" not in body


def test_a_clip_that_is_gone_is_an_answer(ask):
    assert ask("GET", "/clip/1")[0] == 415
    status, _, body = ask("GET", "/converted/0")  # no video
    assert status == 415
    assert "not a video" in json.loads(body)["error"]


def test_pages_of_others_are_refused(ask):
    assert ask("GET", "/", Host="evil.example:80")[0] == 403
    assert ask("GET", "/clip/0", Host="127.0.0.1.evil.example")[0] == 403
    said = json.dumps({"n": 4})
    assert ask("POST", "/double", said, Content_Type="text/plain")[0] == 403
    status, _, body = ask("POST", "/double", said, Content_Type="application/json", Host="localhost:1234")
    assert (status, json.loads(body)) == (200, {"twice": 8})
    assert ask("POST", "/triple", said, Content_Type="application/json")[0] == 404
    assert ask("POST", "/double", "{", Content_Type="application/json")[0] == 400


def test_a_taken_port_says_what_to_do(ask):
    with make_server(b"", [], {}, 0) as server, pytest.raises(OSError, match=r"cannot be used .*--port"):
        make_server(b"", [], {}, server.server_address[1])


def test_what_browsers_cannot_play_is_converted(film, numbers, tmp_path):
    path = film(tmp_path / "film.avi", range(48), rate=25, codec="mpeg4")
    with make_server(b"", [path], {}, 0) as server:
        made = server.webm_of(0, path)
        (part,) = plan_windows(str(made), WindowSpec(), 32).groups
        (clip,) = decode_windows(str(made), part, WindowSpec()).clips
        folder = made.parent
    assert numbers(clip) == list(range(0, 48, 3))
    assert np.diff(clip.seconds) == pytest.approx(0.12, abs=2e-3)
    assert not folder.exists()


def test_the_page_needs_nothing_from_elsewhere():
    text = PAGE.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|<script src|<link rel=\"style", text)
    assert set(re.findall(r'ask\("(\w+)"', text)) == {"state", "answer", "undo"}
