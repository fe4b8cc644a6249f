"""Speeds by points followed from the first frame, against clips whose motion is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("cv2")

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.video.tracked_speed import tracked_speeds

CLIPS = SyntheticClips(
    split="held_out",
    frames=8,
    size=(32, 32),
    object_counts=(1,),
    objects=("translate",),
    object_size=(0.22, 0.32),
    camera=("pan",),
    camera_speed=(0.008, 0.25),
    object_speed=(0.008, 0.25),
    ground_truth=("camera_speed", "object_speed", "masks"),
)


@pytest.mark.parametrize(("camera", "rho"), [(("pan",), 0.99), (("zoom", "roll"), 0.95)])
def test_small_clips_are_put_in_order(camera, rho) -> None:
    source = dataclasses.replace(CLIPS, camera=camera).open()
    rows = []
    for index in range(40):
        clip = source.example(index)
        found = tracked_speeds(clip["video"], clip["masks"].any(0)[0], 8.0)
        rows.append((clip["camera_speed"], found.camera, clip["object_speed"], found.object))
    known_camera, camera_speed, known_object, object_speed = np.array(rows).T
    assert np.asarray(spearmanr(known_camera, camera_speed))[0] > rho
    assert np.asarray(spearmanr(known_object, object_speed))[0] > 0.95
    # net motion is a little less than a path, and points near the border are lost
    assert np.median(camera_speed / known_camera) == pytest.approx(0.95, abs=0.08)
    assert np.median(object_speed / known_object) == pytest.approx(0.97, abs=0.08)


def test_a_still_clip_has_no_speed() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:25, 20:40] = True
    found = tracked_speeds(np.stack([picture] * 4), mask, 8.0)
    assert max(found) < 1e-3


def test_without_a_mask_there_is_a_camera_only() -> None:
    clip = CLIPS.open().example(0)
    assert tracked_speeds(clip["video"], None, 8.0).object == 0.0


def test_what_cannot_be_measured_is_said() -> None:
    picture = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="two frames or more; the clip has 1"):
        tracked_speeds(picture, None, 8.0)
    with pytest.raises(ValueError, match="mask is"):
        tracked_speeds(np.repeat(picture, 2, 0), np.zeros((8, 8), bool), 8.0)
