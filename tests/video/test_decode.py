import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from jaxmotion.video.decode import BadClipError, latest_time, read_clip, read_timeline


def numbers(clip):
    """Which source frames these are, by their grey."""
    return np.rint((clip.mean((1, 2, 3)) - 20) / 3).astype(int).tolist()


@pytest.fixture(scope="module")
def film(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("film") / "film.mp4")


def test_greys_keep_their_value(film):
    """Within the step of limited-range luma, and on average: the fast conversion of FFmpeg darkens by 2."""
    clip = read_clip(film, 24, 8.0, (32, 32), 0.0).astype(float)
    error = clip.mean((1, 2, 3)) - (3 * np.arange(0, 72, 3) + 20)
    assert np.abs(error).max() < 1.5
    assert abs(error.mean()) < 0.7


def test_frames_are_taken_by_time(film):
    assert numbers(read_clip(film, 9, 8.0, (32, 32), 0.0)) == list(range(0, 27, 3))
    assert numbers(read_clip(film, 4, 12.0, (32, 32), 1.0)) == [65, 67, 69, 71]
    assert numbers(read_clip(film, 4, 48.0, (32, 32), 0.0)) == [0, 0, 1, 1]


@pytest.mark.parametrize("where", [0.0, 0.33, 0.71, 1.0])
def test_seeking_and_skipping_give_the_pixels_of_decoding_everything(film, where):
    timeline = read_timeline(film)
    start = where * latest_time(timeline, 8, 8.0)
    chosen = [int(np.abs(timeline.seconds - start - k / 8).argmin()) for k in range(8)]
    with av.open(film) as container:
        everything = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = read_clip(film, 8, 8.0, (64, 96), where)
    assert numbers(clip) == chosen
    assert (
        np.abs(clip.astype(int) - np.stack([everything[index] for index in chosen])).max() <= 2
    )  # rounding of colours


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mov", "libx264"), ("ts", "libx264")],
)
def test_other_containers(write, tmp_path, suffix, codec):
    path = write(tmp_path / f"clip.{suffix}", codec)
    assert numbers(read_clip(path, 5, 8.0, (32, 32), 0.0)) == [0, 3, 6, 9, 12]
    assert numbers(read_clip(path, 2, 8.0, (32, 32), 1.0)) == [68, 71]


def test_the_middle_is_kept_and_the_aspect_too(write, tmp_path):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = np.linspace(0, 255, 64).astype(np.uint8)[:, None]  # the middle square, a ramp over its width
    clip = read_clip(write(tmp_path / "wide.mp4", pixels=picture, size=(64, 128), frames=4), 1, 8.0, (32, 32), 0.0)
    np.testing.assert_allclose(clip[0, 16, 2:-2, 1], np.linspace(4, 251, 32)[2:-2], atol=6)


def test_square_pixels_and_upright_pictures(write, tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    squeezed = write(tmp_path / "squeezed.mp4", pixels=picture, size=(64, 64), frames=4, aspect=Fraction(2, 1))
    clip = read_clip(squeezed, 1, 8.0, (32, 64), 0.0)  # shown 128 wide and 64 high
    assert clip[0, 0, :30].max() < 20
    assert clip[0, 0, 34:].min() > 235

    path = tmp_path / "turned.mp4"
    write(path, pixels=picture, size=(64, 64), frames=4)
    straight = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(straight, data.index(b"tkhd"))
    clockwise = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)  # phones held upright write this
    path.write_bytes(data[:at] + clockwise + data[at + len(clockwise) :])
    turned = read_clip(str(path), 1, 8.0, (32, 32), 0.0)
    assert turned[0, :14].max() < 20  # left became top
    assert turned[0, 18:].min() > 235


def test_shrinking_does_not_alias(write, tmp_path):
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    clip = read_clip(write(tmp_path / "stripes.mp4", pixels=stripes, size=(128, 128), frames=2), 1, 8.0, (16, 16), 0.0)
    assert np.ptp(clip[0, 2:-2, 2:-2].astype(int)) < 12


def test_a_clip_that_is_too_short_says_how_long_it_is(write, tmp_path):
    path = write(tmp_path / "short.mp4", frames=12)
    with pytest.raises(BadClipError, match=r"too short: 16 frames at 8 fps .* It can give"):
        read_clip(path, 16, 8.0, (32, 32), 0.0)


def test_damage_is_an_error_only_where_it_is_needed(write, tmp_path):
    path = tmp_path / "damaged.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    write(path, pixels=noise)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4 : len(data) * 9 // 10] = bytes(len(data) * 9 // 10 - len(data) * 3 // 4)
    path.write_bytes(data)
    assert read_clip(str(path), 8, 8.0, (32, 32), 0.0).shape == (8, 32, 32, 3)
    with pytest.raises(BadClipError, match=r"damaged|cannot be decoded"):
        read_clip(str(path), 8, 8.0, (32, 32), 1.0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "the file is empty"),
        ("not_a_video", "not a video"),
        ("truncated", "cut off: 34 of the 89 frames"),
        ("truncated_no_index", "not a video, damaged, or cut off before its index"),
        ("audio_only", "no video in it, only audio"),
        ("none", "cannot be read: No such file"),
    ],
)
def test_broken_files_say_why(shared_data, name, reason):
    with pytest.raises(BadClipError, match=reason):
        read_timeline(str(shared_data / "bad" / f"{name}.mp4"))
