"""Speeds by points followed from the first frame, against clips whose motion is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("cv2")

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.video.motion_scale import score
from jaxmotion.video.tracked_speed import find_object, tracked_speeds
from tests.support.obedient import obedient_clip

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


@pytest.mark.parametrize("camera", [("pan",), ("zoom", "roll")])
def test_small_clips_are_measured_to_a_tenth_of_a_score(camera) -> None:
    """Of 32 pixels, though the slowest move by a tenth of a pixel a frame."""
    source = dataclasses.replace(CLIPS, camera=camera).open()
    rows = []
    for index in range(5):
        clip = source.example(index)
        found = tracked_speeds(clip["video"], clip["masks"].any(0)[0], 8.0)
        rows.append(((clip["camera_speed"], clip["object_speed"]), (found.camera, found.object)))
    known, measured = np.moveaxis(score(np.array(rows)), 1, 0)
    assert np.abs(measured - known).max() < 0.2
    assert np.abs((measured - known).mean(0)).max() < 0.05


@pytest.mark.parametrize(("camera", "own"), [(1.0, 9.9), (9.0, 1.0), (9.5, 9.5)])
@pytest.mark.parametrize("side", [24, 96])
def test_fast_clips_are_followed(side, camera, own) -> None:
    """An object that covers a smooth background and moves by a half of itself; a camera that leaves most behind."""
    for clip, mask in (obedient_clip(side, index, own, camera) for index in range(2)):
        found = tracked_speeds(clip, mask, 12.0)
        assert score(np.array(found)) == pytest.approx([own, camera], abs=0.25)


def test_the_object_is_found_where_nobody_says_where_it_is() -> None:
    """From the clips of a scene together: it moves in most of them, and its place in the first frame is one."""
    asked = (1.0, 3.0, 6.0, 9.0)
    clips = np.stack([obedient_clip(96, 0, own, 1.0)[0] for own in asked])
    mask = obedient_clip(96, 0, 1.0, 1.0)[1]
    found = find_object(clips)
    assert found[mask].mean() > 0.7
    assert found.mean() < 2.5 * mask.mean()
    measured = score(np.array([tracked_speeds(clip, found, 12.0).object for clip in clips]))
    assert measured == pytest.approx(asked, abs=0.3)
    assert not find_object(clips[:1]).any()  # nothing moves


def test_a_still_clip_has_no_speed() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:25, 20:40] = True
    for where in (mask, np.zeros((40, 60), bool), None):
        assert tracked_speeds(np.stack([picture] * 4), where, 8.0) == (0.0, 0.0)


@pytest.mark.parametrize("side", [24, 96])
def test_clips_that_show_nothing_have_a_speed_all_the_same(side: int) -> None:
    """Grain and flat frames, as models make them before they have learnt anything."""
    rng, mask = np.random.default_rng(0), np.zeros((side, side), bool)
    mask[side // 3 : side // 2, side // 3 : side // 2] = True
    grain = rng.integers(0, 256, (4, side, side, 3), np.uint8)
    flat = np.full((4, side, side, 3), 90, np.uint8)
    for clip in (grain, flat):
        for where in (mask, None):
            assert np.isfinite(tracked_speeds(clip, where, 8.0)).all()
    assert max(tracked_speeds(flat, mask, 8.0)) < 1e-3


def test_what_cannot_be_measured_is_said() -> None:
    picture = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="two frames or more; the clip has 1"):
        tracked_speeds(picture, None, 8.0)
    with pytest.raises(ValueError, match="mask is"):
        tracked_speeds(np.repeat(picture, 2, 0), np.zeros((8, 8), bool), 8.0)
