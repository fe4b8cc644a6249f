"""What is written plays, shows the right colours for the right time, and appears whole or not at all."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jaxmotion.sampling import grid as write
from jaxmotion.systems.control import Scalar
from jaxmotion.video import encode


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """uint8 [6 32 48 3]: a bright disc that moves right over a coloured ramp."""
    y, x = np.mgrid[:32, :48]
    frames = []
    for t in range(6):
        frame = np.stack([x * 4 + 20, y * 6 + 20, 220 - x * 3], -1)
        frame[(x - 10 - 5 * t) ** 2 + (y - 16) ** 2 < 36] = (240, 230, 40)
        frames.append(frame.astype(np.uint8))
    return np.stack(frames)


def read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_mp4_is_what_browsers_play(tmp_path: Path, clip: np.ndarray) -> None:
    path = encode.write_mp4(tmp_path / "a.mp4", clip, 8.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (6, 8)
        assert stream.duration * stream.time_base == Fraction(6, 8)
        assert int(stream.codec_context.colorspace) == int(stream.codec_context.color_primaries) == 1  # BT.709
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(n, 8) for n in range(6)]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_mp4_keeps_colours_and_motion(tmp_path: Path, clip: np.ndarray) -> None:
    path = encode.write_mp4(tmp_path / "a.mp4", encode.enlarge(clip), 8.0)
    again = read(path)
    assert again.shape == (6, 256, 384, 3)
    assert np.abs(again.astype(float) - encode.enlarge(clip)).mean() < 2.5
    flat = np.full((3, 64, 64, 3), (200, 60, 30), np.uint8)
    again = read(encode.write_mp4(tmp_path / "flat.mp4", flat, 8.0))
    assert np.abs(again.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("fps", [7.5, 8.0, 23.976, 30])
def test_any_frame_rate(tmp_path: Path, clip: np.ndarray, fps: float) -> None:
    with av.open(str(encode.write_mp4(tmp_path / "a.mp4", clip, fps))) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        assert float(stream.duration * stream.time_base) == pytest.approx(6 / fps, abs=1e-3)  # mp4 counts ms


def test_odd_sizes_lose_nothing(tmp_path: Path, clip: np.ndarray) -> None:
    odd = clip[:, :31, :47]
    again = read(encode.write_mp4(tmp_path / "odd.mp4", odd, 8.0))
    assert again.shape == (6, 32, 48, 3)
    padded = np.pad(odd, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge").astype(float)
    plain = read(encode.write_mp4(tmp_path / "even.mp4", clip, 8.0)).astype(float)
    assert np.abs(again - padded).mean() < np.abs(plain - clip).mean() + 1


def test_a_clip_of_one_frame(tmp_path: Path, clip: np.ndarray) -> None:
    assert read(encode.write_mp4(tmp_path / "one.mp4", clip[:1], 8.0)).shape[0] == 1
    with Image.open(encode.write_gif(tmp_path / "one.gif", clip[:1], 8.0)) as picture:
        assert getattr(picture, "n_frames", 1) == 1


def test_gif_plays_for_ever_in_the_right_time(tmp_path: Path, clip: np.ndarray) -> None:
    with Image.open(encode.write_gif(tmp_path / "a.gif", clip, 8.0)) as picture:
        assert picture.n_frames == 6
        assert picture.info["loop"] == 0
        shown, total = [], 0
        for frame in range(6):
            picture.seek(frame)
            total += picture.info["duration"]
            shown.append(np.asarray(picture.convert("RGB"), float))
    assert total == 750
    blocks = (np.stack(shown) - clip).reshape(6, 8, 4, 12, 4, 3).mean((2, 4))  # dithering is right on average
    assert np.abs(blocks).mean() < 6


def test_small_clips_are_enlarged_by_whole_factors(clip: np.ndarray) -> None:
    large = encode.enlarge(clip)
    assert large.shape == (6, 256, 384, 3)
    means = large.reshape(6, 32, 8, 48, 8, 3).mean((2, 4))
    assert np.abs(means - clip).mean() < 3
    assert encode.enlarge(large) is large
    assert encode.enlarge(clip[0]).shape == (256, 384, 3)
    for side, factor in ((96, 3), (128, 2), (160, 2), (200, 1), (500, 1)):
        assert encode.enlarge(np.zeros((1, side, side, 3), np.uint8)).shape[1] == side * factor


def test_grid_holds_the_photo_and_every_clip(clip: np.ndarray) -> None:
    shown = encode.enlarge(clip)
    panels = {"level 1": clip[:1].repeat(6, 0), "level 5": clip, "level 10": clip[::-1]}
    video = write.grid(clip[0], panels, notes={"level 5": "3 % a second"}, title="the disc moves right")
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    found = {}
    for name, panel in {"photo": shown[:1].repeat(6, 0), **{k: encode.enlarge(v) for k, v in panels.items()}}.items():
        found[name] = [
            (y, x)
            for y in range(video.shape[1] - 255)
            for x in range(video.shape[2] - 383)
            if np.array_equal(video[:, y, x], panel[:, 0, 0])
            and np.array_equal(video[:, y : y + 256, x : x + 384], panel)
        ]
    lefts = [found["photo"][0][1], found["level 5"][0][1], found["level 10"][0][1]]
    assert lefts == sorted(lefts)
    assert found["level 1"][0] == found["photo"][0]  # the still clip equals the photo: seen twice
    assert len(found["level 1"]) == 2
    assert len({y for places in found.values() for y, _ in places}) == 1


def test_the_grid_writes_its_words(clip: np.ndarray) -> None:
    def strip(**words) -> np.ndarray:
        video = write.grid(clip[0], {"level 5": clip}, **words)
        return video[0, :-256].astype(int)

    plain, noted = strip(), strip(notes={"level 5": "3 % a second"})
    assert (plain < 100).all(-1).sum() > 50
    assert noted.shape[0] > plain.shape[0]
    titled = strip(title="a" * 5000)  # shortened to the width
    assert (titled[:, -10:] > 200).all()


def test_many_panels_go_into_rows(clip: np.ndarray) -> None:
    video = write.grid(clip[0], {f"level {n}": clip for n in range(1, 11)})
    assert video.shape[2] < 7 * 400
    assert video.shape[1] > 2 * 256


def test_several_levels_give_a_grid_and_each_clip(tmp_path: Path, clip: np.ndarray) -> None:
    controls = {"level": Scalar(integer=True)}
    values = [{"level": 1}, {"level": 10}]
    written = write.write_clips(tmp_path / "new" / "a.mp4", clip[0], [clip, clip], values, controls, 8.0, prompt="x")
    assert [path.name for path in written] == ["a.mp4", "a-level01.mp4", "a-level10.mp4"]
    assert read(written[0]).shape[2] > 3 * 384
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in written)
    alone = write.write_clips(tmp_path / "b.gif", clip[0], [clip], [{"level": 5}], controls, 8.0)
    assert alone == [tmp_path / "b.gif"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, clip: np.ndarray, name: str) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / name
    path.write_bytes(b"the clip from before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))  # no file may grow beyond 600 bytes
    try:
        with pytest.raises(OSError, match=r"File too large"):
            encode.write_clip(path, clip, 8.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the clip from before"


def test_what_cannot_be_written(tmp_path: Path, clip: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        encode.writer_of(tmp_path / "a.avi")
    with pytest.raises(ValueError, match=r"float64"):
        encode.write_mp4(tmp_path / "a.mp4", clip / 255.0, 8.0)
    with pytest.raises(ValueError, match="above 0"):
        encode.write_gif(tmp_path / "a.gif", clip, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        write.grid(clip[0], {"level 1": clip, "level 2": clip[:3]})
