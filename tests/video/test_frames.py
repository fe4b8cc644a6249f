import itertools
import subprocess
import sys

import numpy as np
import pytest

from jaxmotion.video.frames import fill_window, frame_indices, latest_start, motion_windows, tile_frames

FILM = np.arange(48) / 24  # 2 s at 24 fps


def test_every_third_frame_of_film_is_8_fps():
    assert frame_indices(FILM, 8, 8, 0.0).tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert frame_indices(FILM, 4, 8, 0.5).tolist() == [12, 15, 18, 21]


def test_the_same_time_passes_whatever_the_source_rate_is():
    for rate in (10.0, 24.0, 29.97, 60.0):
        timestamps = np.arange(int(rate * 4)) / rate
        times = timestamps[frame_indices(timestamps, 16, 8, 0.3)]
        late = 0.3 + np.arange(16) / 8 - times
        assert -1e-5 < late.min() <= late.max() < 1 / rate


def test_a_frame_is_shown_until_the_next_one_comes():
    timestamps = np.array([0.0, 0.04, 0.09, 0.30, 0.32, 0.50])
    assert frame_indices(timestamps, 5, 10, 0.0).tolist() == [0, 2, 2, 3, 4]
    assert frame_indices(timestamps, 3, 10, 0.05).tolist() == [1, 2, 2]
    held = np.array([0.0, 2.0, 2.04, 2.08])
    assert frame_indices(held, 17, 8, 0.0).tolist() == [0] * 16 + [1]


def test_rounded_times_do_not_double_frames():
    milliseconds = np.ceil(np.arange(48) / 24 * 1000) / 1000
    assert frame_indices(milliseconds, 40, 24, 0.0, tick=0.001).tolist() == list(range(40))
    eighths = np.arange(16) / 8
    assert frame_indices(eighths, 6, 16, 0.0).tolist() == [0, 0, 1, 1, 2, 2]
    wobbly = eighths + np.random.default_rng(0).uniform(-1e-7, 1e-7, 16)  # as time bases leave them
    assert frame_indices(wobbly, 6, 16, 0.0).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_last_frame_is_shown_until_the_end():
    timestamps = np.arange(10) / 10
    assert frame_indices(timestamps, 31, 8, 0.0, end=3.9).tolist()[8:] == [9] * 23
    assert latest_start(timestamps, 16, 8, end=3.9) == pytest.approx(3.9 - 2)
    assert latest_start(timestamps, 5, 8, end=1.0) == pytest.approx(0.9 - 0.5)
    with pytest.raises(ValueError, match=r"the source has 0.00 s to 3.77 s.* It can give 32 frame"):
        latest_start(timestamps, 33, 8, end=3.9)


def test_timelines_need_not_begin_at_zero():
    assert frame_indices(FILM + 100, 4, 8, 100.5).tolist() == frame_indices(FILM, 4, 8, 0.5).tolist()


def test_one_frame_of_a_picture():
    assert frame_indices(np.array([0.0]), 1, 8, 0.0).tolist() == [0]


@pytest.mark.parametrize("fps", [5.0, 8.0, 23.976, 30.0])
def test_every_start_up_to_the_latest_fits_and_later_ones_do_not(fps):
    latest = latest_start(FILM, 9, fps)
    for start in np.linspace(FILM[0], latest, 7):
        assert frame_indices(FILM, 9, fps, start)[-1] <= 47
    assert frame_indices(FILM, 9, fps, latest)[-1] == 47
    with pytest.raises(ValueError, match="need times up to"):
        frame_indices(FILM, 9, fps, latest + 0.05)


def test_a_source_that_is_exactly_long_enough():
    """16 frames at 8 fps of a clip of 16 frames at 8 fps, with the rounding that time bases bring."""
    timestamps = np.round(np.arange(16) / 8, 3) - 4e-4
    assert frame_indices(timestamps, 16, 8, 0.0).tolist() == list(range(16))
    assert latest_start(timestamps, 16, 8) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FILM, 16, 8, 0.5), r"up to 2.38 s; the source has 0.00 s to 1.96 s. Start between 0.00 s and 0.08 s"),
        ((FILM, 32, 8, 0.0), r"It can give 16 frame\(s\) at this rate, or 32 frames at 15.83 fps or more"),
        ((FILM, 16, 8, -1.0), r"Start between"),
        ((FILM[:1], 2, 8, 0.0), r"It can give 1 frame"),
        ((FILM[:0], 2, 8, 0.0), r"no frames"),
        ((FILM[::-1], 2, 8, 0.0), r"rising"),
        ((FILM * np.nan, 2, 8, 0.0), r"finite"),
        ((FILM, 2, 0.0, 0.0), r"rate above 0"),
        ((FILM, 0, 8.0, 0.0), r"at least 1 frame"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(arguments, message):
    with pytest.raises(ValueError, match=message):
        frame_indices(*arguments)


def test_what_the_message_offers_works():
    assert len(frame_indices(FILM, 16, 8, 0.08)) == 16
    assert len(frame_indices(FILM, 32, 15.83, 0.0)) == 32


@pytest.mark.parametrize("frames", [2, 4, 16])
def test_every_step_between_frames_is_in_one_window_and_in_no_other(frames):
    for count in range(2, 100):
        windows = tile_frames(np.arange(count), frames)
        steps = [(int(a), int(b)) for window in windows for a, b in itertools.pairwise(window)]
        assert steps == [(at, at + 1) for at in range(count - 1)]
        lengths = {len(window) for window in windows}
        assert max(lengths) <= frames
        assert max(lengths) - min(lengths) <= 1
        assert len(windows) == -(-(count - 1) // (frames - 1))


def test_windows_of_a_video_are_of_frames_a_step_apart():
    first, second = motion_windows(np.arange(75) / 24)
    assert (first[-1], second[0], second[-1]) == (36, 36, 72)
    assert set(np.diff(first)) == set(np.diff(second)) == {3}


@pytest.mark.parametrize("count", range(2, 17))
def test_a_window_is_filled_and_each_of_its_steps_counts_once(count):
    order, shares = fill_window(count, 16)
    assert len(order) == 16
    assert (np.abs(np.diff(order)) == 1).all()
    counted = np.zeros(count - 1)
    np.add.at(counted, np.minimum(order[:-1], order[1:]), shares)
    assert counted == pytest.approx(1)


def test_jax_is_not_imported():
    code = "import sys, jaxmotion.video.frames; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
