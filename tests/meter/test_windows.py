import time

import av
import numpy as np
import pytest

from jaxmotion.meter.windows import WindowSpec, decode_windows, plan_windows, stills
from jaxmotion.video.decode import BadClipError
from jaxmotion.video.frames import space_frames

SPEC = WindowSpec()


def clips_of(path, spec=SPEC, most=32):
    return [clip for group in plan_windows(path, spec, most).groups for clip in decode_windows(path, group, spec).clips]


@pytest.mark.parametrize(
    ("fps", "stride"), [(5, 1), (8, 1), (10, 1), (12, 2), (15, 2), (23.976, 3), (24, 3), (25, 3), (30, 4), (60, 8)]
)
def test_constant_rates_take_every_kth_frame(fps, stride):
    """The k whose k / fps is nearest to 1/8 s as a ratio, in exact times and in those of a clock of milliseconds."""
    seconds = np.arange(400) / fps
    assert np.diff(space_frames(seconds, 0.125)).tolist() == [stride] * (-(-400 // stride) - 1)
    assert (space_frames(np.round(seconds, 3), 0.125) == space_frames(seconds, 0.125)).all()


def test_variable_rates_are_sampled_by_time():
    rng = np.random.default_rng(0)
    seconds = np.cumsum(rng.choice([1 / 60, 1 / 30, 1 / 24, 1 / 12], 600))
    chosen = seconds[space_frames(seconds, 0.125)] - seconds[0]
    assert (np.diff(chosen) > 0).all()
    off = np.abs(chosen - np.rint(chosen / 0.125) * 0.125)
    assert off.max() <= 1 / 24 + 1e-9  # half of the longest gap
    assert len(chosen) == pytest.approx(chosen[-1] / 0.125 + 1, abs=1)


def test_a_dropped_frame_moves_one_choice_only():
    seconds = np.delete(np.arange(120), 41) / 24
    chosen = seconds[space_frames(seconds, 0.125)] * 24
    assert chosen[:40] == pytest.approx(np.arange(0, 120, 3))  # frame 41 is none of them
    without = np.delete(np.arange(120), 42) / 24
    moved = np.abs(without[space_frames(without, 0.125)][:40] * 24 - np.arange(0, 120, 3))
    assert (moved > 0.01).nonzero()[0].tolist() == [14]
    assert moved.max() == pytest.approx(1)


def test_what_stands_still_for_days_costs_nothing():
    seconds = np.concatenate([np.arange(10) / 8, 5 + np.arange(4) / 16, [1e6]])
    assert space_frames(seconds, 0.125).tolist() == [*range(11), 12, 13, 14]


def test_windows_tile_the_clip_and_share_their_edges(film, numbers, tmp_path):
    path = film(tmp_path / "film.mp4", range(107), rate=24)  # 36 chosen frames, 35 steps: three windows
    found = plan_windows(path, SPEC, 32)
    clips = clips_of(path)
    assert [numbers(clip) for clip in clips] == [
        list(range(0, 37, 3)),
        list(range(36, 70, 3)),
        list(range(69, 106, 3)),
    ]
    assert clips[2].seconds == pytest.approx(np.arange(69, 106, 3) / 24)
    weights = [window.weight for part in found.groups for window in part]
    assert weights == pytest.approx([36 / 24, 33 / 24, 36 / 24])
    assert (found.seconds, found.fps, found.sampled) == (pytest.approx(107 / 24), pytest.approx(24), False)


def test_a_clip_shorter_than_a_window_is_one_shorter_window(film, numbers, tmp_path):
    assert numbers(*clips_of(film(tmp_path / "a.mp4", range(20), rate=24))) == [0, 3, 6, 9, 12, 15, 18]
    (clip,) = clips_of(film(tmp_path / "b.mp4", range(3), rate=24))  # shorter than the step
    assert numbers(clip) == [0, 2]
    assert clip.seconds == pytest.approx([0, 2 / 24])


def test_the_pictures_are_those_of_the_file(film, tmp_path):
    """Seeking and skipping frames changes nothing, in the middle of a film too."""
    rng = np.random.default_rng(0)
    pictures = np.repeat(np.repeat(rng.integers(0, 256, (150, 6, 8, 1), np.uint8).repeat(3, 3), 8, 1), 8, 2)
    path = film(tmp_path / "film.mp4", range(150), rate=25, pictures=pictures)
    with av.open(path) as container:
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for most in (0, 2):  # all in one go, and two apart
        for clip in clips_of(path, most=most):
            expected = everything[np.rint(clip.seconds * 25).astype(int)]
            assert np.abs(clip.video.astype(int) - expected).max() <= 4  # rounding of colours


def test_variable_frame_rate_keeps_its_times(film, numbers, tmp_path):
    seconds = np.cumsum([0, *np.tile([0.02, 0.05, 0.11, 0.04], 15)])
    path = film(tmp_path / "vfr.mkv", seconds)
    for clip in clips_of(path):
        assert clip.seconds == pytest.approx(seconds[numbers(clip)], abs=1e-3)
        assert np.diff(clip.seconds).mean() == pytest.approx(0.125, abs=0.02)


def test_portrait_videos_are_upright_and_squeezed_onto_the_canvas(film, tmp_path):
    pictures = np.zeros((30, 48, 64, 3), np.uint8)
    pictures[:, :, 32:] = 255
    path = film(tmp_path / "turned.mp4", range(30), rate=15, pictures=pictures, turned=True)
    asked = []

    def canvas(height, width):
        asked.append((height, width))
        return 32, 16

    spec = WindowSpec(canvas=canvas)
    part = decode_windows(path, plan_windows(path, spec, 32).groups[0], spec)
    assert part.size == (64, 48)
    assert set(asked) == {(64, 48)}
    assert part.clips[0].video.shape == (15, 32, 16, 3)
    assert part.clips[0].video[:, :14].max() < 20  # what was left is above
    assert part.clips[0].video[:, 18:].min() > 235
    assert [picture.shape for picture in stills(path, spec)] == [(32, 16, 3)] * 3


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("ts", "libx264")])
def test_other_containers(film, numbers, tmp_path, suffix, codec):
    path = film(tmp_path / f"film.{suffix}", range(101), rate=24, codec=codec)
    everything = [list(range(0, 34, 3)), list(range(33, 67, 3)), list(range(66, 100, 3))]
    for most, expected in ((0, everything), (1, everything[1:2])):
        found = [numbers(clip) for clip in clips_of(path, most=most)]
        assert found == expected if suffix != "avi" or most == 0 else len(found) == 1


def test_gifs(film, tmp_path):
    with av.open(str(tmp_path / "film.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "gray"
        for index in range(400):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), 20 + index % 200, np.uint8), "gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clips = clips_of(str(tmp_path / "film.gif"), most=0)
    assert len(clips) == 27  # more than one part; this format cannot be searched
    first = [clip.video[0].mean() for clip in clips]
    assert first == pytest.approx([20 + round(399 * n / 27) % 200 for n in range(27)], abs=1.5)


def test_windows_of_a_long_video_are_spread_over_it(film, tmp_path):
    path = film(tmp_path / "long.mp4", range(3000), rate=25, size=(16, 16), preset="ultrafast")  # two minutes
    found = plan_windows(path, SPEC, 5)
    windows = [window for part in found.groups for window in part]
    assert found.sampled
    assert [window.seconds[0] for window in windows] == pytest.approx(np.linspace(0, 120 - 3, 5), abs=0.05)
    numbers = np.arange(3000)
    greys = 20 + 5 * (numbers % 22 + numbers // 22 % 22)
    for clip, window in zip(clips_of(path, most=5), windows, strict=True):
        assert len(clip.video) == 16
        assert np.diff(clip.seconds) == pytest.approx(0.12)
        assert clip.video.mean((1, 2, 3)) == pytest.approx(greys[np.rint(window.seconds * 25).astype(int)], abs=2)
    assert sum(len(part) for part in plan_windows(path, SPEC, 0).groups) == 67
    assert max(len(part) for part in plan_windows(path, SPEC, 0).groups) == 16  # a part is decoded in one go


def test_three_hours_take_seconds(film, tmp_path):
    """One picture a second, so that the film is quickly written; what counts is that it is not read from end to end."""
    path = film(tmp_path / "hours.mkv", range(3 * 3600), size=(16, 16), preset="ultrafast")
    started = time.perf_counter()
    found = plan_windows(path, SPEC, 8)
    clips = [clip for part in found.groups for clip in decode_windows(path, part, SPEC).clips]
    assert time.perf_counter() - started < 10
    assert found.seconds == pytest.approx(3 * 3600, abs=2)
    assert [len(clip.video) for clip in clips] == [16] * 8
    assert [clip.seconds[0] for clip in clips] == pytest.approx(np.linspace(0, 3 * 3600, 8), abs=50)


def test_damage_costs_the_windows_that_it_hits(film, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 48, 64, 3), np.uint8)
    path = tmp_path / "damaged.mp4"
    film(path, range(200), rate=25, pictures=noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) * 6 // 10] = bytes(len(data) * 6 // 10 - len(data) // 2)
    path.write_bytes(data)
    clips = clips_of(str(path))
    assert [clip is None for clip in clips] == [False, False, True, True, False]
    assert clips[4].seconds[0] == pytest.approx(53 * 3 / 25)


def test_a_file_cut_off_is_scored_as_far_as_it_goes(film, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 48, 64, 3), np.uint8)
    cut = tmp_path / "cut.mkv"
    film(cut, range(200), rate=25, pictures=noise)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found = plan_windows(str(cut), SPEC, 32)
    assert all(clip is not None for clip in clips_of(str(cut)))
    assert 3 < found.seconds < 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "the file is empty"),
        ("not_a_video", "not a video"),
        ("truncated", "cut off: 34 of the 89 frames it states are there, less than a window of 2 s"),
        ("truncated_no_index", "not a video, damaged, or cut off before its index"),
        ("audio_only", "no video in it, only audio"),
        ("one_frame", "a single frame; motion needs at least 2"),
        ("none", "cannot be read: No such file"),
    ],
)
def test_bad_files_say_why(shared_data, name, reason):
    with pytest.raises(BadClipError, match=reason):
        plan_windows(str(shared_data / "bad" / f"{name}.mp4"), SPEC, 32)


def test_reading_never_fails(shared_data, film, tmp_path):
    path = tmp_path / "film.mp4"
    film(path, range(50), rate=25)
    (part,) = plan_windows(str(path), SPEC, 32).groups
    path.unlink()
    found = decode_windows(str(path), part, SPEC)
    assert found.clips == (None, None)
    assert "No such file" in found.reason
