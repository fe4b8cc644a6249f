"""VMBench's amplitude of the subject, against sums by hand and a clip whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.meter.subject_amplitude import path_difference, subject_amplitude
from jaxmotion.meter.tracks import Tracks

SIZE = (30, 40)  # a diagonal of 50 pixels


def tracks(*steps):
    """Tracks of points that go so many pixels to the right in each step."""
    moved = np.array(steps, float)
    start = np.zeros((*moved.shape, 2))
    return Tracks(start, start + moved[..., None] * [1.0, 0.0], np.ones(moved.shape, bool), (1, moved.shape[1]))


SUBJECT = np.array([[True, True, False, False]] * 2)


def test_it_is_the_subjects_path_less_the_backgrounds() -> None:
    assert path_difference(tracks([10, 20, 1, 3], [5, 5, 0, 0]), SUBJECT, SIZE) == pytest.approx((15 + 5 - 2 - 0) / 50)


def test_lengths_are_taken_from_each_other_whatever_their_direction() -> None:
    assert path_difference(tracks([-10, -10, 4, 4], [10, 10, 4, 4]), SUBJECT, SIZE) == pytest.approx((20 - 8) / 50)


def test_of_a_subject_that_is_followed_it_is_the_subjects_path() -> None:
    assert path_difference(tracks([1, 1, 9, 9], [1, 1, 9, 9]), SUBJECT, SIZE) == pytest.approx(2 / 50)


def test_without_a_subject_it_is_the_backgrounds_path() -> None:
    assert path_difference(tracks([4, 4, 4, 4], [6, 6, 6, 6]), np.zeros((2, 4), bool), SIZE) == pytest.approx(10 / 50)


def test_points_that_are_lost_do_not_count() -> None:
    lost = tracks([10, 100, 2, 2], [10, 100, 2, 2])
    lost.valid[:, 1] = False
    assert path_difference(lost, SUBJECT, SIZE) == pytest.approx((20 - 4) / 50)


@pytest.fixture(scope="module")
def walk():
    """A thing that goes at 0.15 diagonals a second before a camera that stands still, with its masks."""
    pytest.importorskip("cv2")
    clips = SyntheticClips(
        frames=5,
        size=(192, 256),
        camera=("static",),
        object_counts=(1,),
        objects=("translate",),
        object_speed=(0.15, 0.15),
        object_size=(0.3, 0.3),
        ground_truth=("object_speed", "masks"),
        seed=5,
    )
    return clips.open().example(0)


def test_a_walk_is_measured_with_masks_and_without(walk) -> None:
    seconds = (len(walk["video"]) - 1) / float(walk["fps"])
    path = float(walk["object_speed"]) * seconds
    masks = np.asarray(walk["masks"]).reshape(-1, *walk["video"].shape[:3]).any(0)
    assert subject_amplitude(walk["video"], masks) == pytest.approx(
        path, rel=0.1
    )  # points at the edge follow what lies behind
    assert subject_amplitude(walk["video"]) == pytest.approx(path, rel=0.1)
