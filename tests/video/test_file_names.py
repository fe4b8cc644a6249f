"""A name is a name of a file, whatever it looks like, and reading a file opens nothing else."""

import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from jaxmotion.video.decode import BadClipError, read_clip, read_timeline
from jaxmotion.video.encode import write_mp4

NAMES = (
    "2024-05-01T12:30:05.mp4",
    "http:x.mp4",
    "file:x.mp4",
    "concat:a|b.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "shot%03d.mp4",
    "[a]*?{b}.mp4",
    "-i.mp4",
    "two\nlines.mp4",
    os.fsdecode(b"\xff\xe9.mp4"),
)


@pytest.fixture(scope="module")
def film(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("film") / "film.mp4", frames=24)


@pytest.fixture
def listener():
    """A port at which nobody may knock."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_that_of_a_file(film, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(film, name)
    expected = read_clip(str(film), 4, 8.0, (16, 16), 0.0)
    np.testing.assert_array_equal(read_clip(name, 4, 8.0, (16, 16), 0.0), expected)
    written = write_mp4(f"out {name}", expected, 8.0)
    assert len(read_timeline(str(written)).pts) == 4


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
        "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n{film}\n",
        "ffconcat version 1.0\nfile '{film}'\n",
        "ffconcat version 1.0\nfile {url}/a.mp4\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{url}/</BaseURL></MPD>',
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 96\r\n",
        "[playlist]\nFile1={film}\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".m3u8"])
def test_a_playlist_that_pretends_to_be_a_video_opens_nothing(film, listener, tmp_path, text, suffix):
    port = listener.getsockname()[1]
    path = tmp_path / f"clip{suffix}"
    path.write_text(text.format(film=film, url=f"http://127.0.0.1:{port}", port=port), newline="")
    with pytest.raises(BadClipError, match="a playlist, which names videos and is none"):
        read_clip(str(path), 4, 8.0, (16, 16), 0.0)


def test_pictures_are_no_video_and_a_pattern_opens_none(tmp_path):
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / f"shot{number:03d}.png")
    shutil.copy(tmp_path / "shot000.png", tmp_path / "shot%03d.png")
    with pytest.raises(BadClipError, match="not a video but another kind of file"):
        read_timeline(str(tmp_path / "shot%03d.png"))
    frames = [Image.new("RGB", (16, 16), (60 * number, 0, 0)) for number in range(4)]
    frames[0].save(tmp_path / "a%03d*.gif", save_all=True, append_images=frames[1:], duration=100)
    assert len(read_timeline(str(tmp_path / "a%03d*.gif")).pts) == 4


def test_folders_and_pipes_are_no_video(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadClipError, match="it is a folder"):
        read_timeline(str(tmp_path / "folder.mp4"))
    with pytest.raises(BadClipError, match="the file is empty"):
        read_timeline(str(tmp_path / "pipe.mp4"))
