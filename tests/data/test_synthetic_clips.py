import dataclasses
import time

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.registration import optical_flow_tvl1

from jaxmotion.data.synthetic_clips import GROUND_TRUTHS, SyntheticClips
from jaxmotion.video.synthetic.cutouts import SHAPES, draw_outline, spread_points
from jaxmotion.video.synthetic.photos import sample_photo

SMALL = SyntheticClips(frames=8, size=(48, 64), tint=0.0, ground_truth=tuple(GROUND_TRUTHS))


def test_clips_are_a_function_of_seed_split_index_and_generator():
    first, again = SMALL.open(), SMALL.open()
    one, same = first.example(5), again.example(5)
    assert (one["video"] == same["video"]).all()
    assert one["caption"] == same["caption"]
    assert not (one["video"] == first.example(6)["video"]).all()
    assert not (one["video"] == dataclasses.replace(SMALL, seed=1).open().example(5)["video"]).all()
    drawn = [first.example(5, np.random.default_rng(seed))["video"] for seed in (1, 1, 2)]
    assert (drawn[0] == drawn[1]).all()
    assert not (drawn[0] == drawn[2]).all()
    assert one["video"].shape == (8, 48, 64, 3)
    assert one["video"].dtype == np.uint8


def test_the_truth_that_is_asked_for_changes_no_pixel():
    bare = dataclasses.replace(SMALL, ground_truth=()).open()
    source = SMALL.open()
    for index in range(4):
        assert (bare.example(index)["video"] == source.example(index)["video"]).all()


def test_nothing_moves_when_nothing_does():
    example = dataclasses.replace(SMALL, camera=("static",), object_counts=(0,)).open().example(0)
    assert (example["video"] == example["video"][0]).all()
    assert example["caption"] == "nothing moves"
    assert example["camera_speed"] == example["object_speed"] == 0
    assert not example["flow"].any()


def test_the_picture_outside_a_moving_object_stands_still():
    source = dataclasses.replace(SMALL, camera=("static",), object_counts=(2,)).open()
    for index in range(5):
        example = source.example(index)
        far = ~_grown(example["masks"].any((0, 1)), 3)
        assert (example["video"][:, far] == example["video"][0, far]).all()


def test_cameras_have_speeds_all_over_the_range_that_was_asked_for():
    config = dataclasses.replace(
        SMALL,
        camera=("pan", "zoom", "roll"),
        camera_speed=(0.01, 0.64),
        object_counts=(0,),
        ground_truth=("camera_speed",),
    )
    speeds = np.array([config.open().example(index)["camera_speed"] for index in range(200)])
    assert speeds.min() >= 0.0099
    assert speeds.max() <= 0.641
    octaves = np.histogram(np.log2(speeds / 0.01), bins=6, range=(0, 6))[0]
    assert octaves.min() > 15  # of 33
    even = dataclasses.replace(config, speed_law="uniform").open()
    assert np.median([even.example(index)["camera_speed"] for index in range(100)]) == pytest.approx(0.32, abs=0.08)


@pytest.mark.parametrize("kind", ["translate", "rotate", "scale", "wobble"])
def test_objects_have_the_speed_that_was_asked_for_under_any_camera(kind):
    config = dataclasses.replace(
        SMALL, objects=(kind,), object_counts=(1,), object_speed=(0.02, 0.02), camera=("static", "pan+zoom", "roll")
    )
    source = config.open()
    speeds = [source.example(index)["object_speed"] for index in range(12)]
    np.testing.assert_allclose(speeds, 0.02, rtol=1e-4)


def test_two_objects_are_averaged_and_the_absent_one_is_zero():
    source = dataclasses.replace(SMALL, object_counts=(1, 2)).open()
    for index in range(8):
        example = source.example(index)
        count = len(example["labels"])
        assert example["object_speed"] == pytest.approx(example["object_speeds"][:count].mean())
        assert not example["object_speeds"][count:].any()
        assert not example["boxes"][count:].any()
        assert example["masks"].shape == (2, 8, 48, 64)


def test_tracks_stay_on_what_they_are_fixed_to():
    """The colour under a visible track stays the same, up to what resampling and a soft edge change."""
    moving = dataclasses.replace(SMALL, size=(96, 128), camera_speed=(0.05, 0.3), object_speed=(0.05, 0.3))
    source = moving.open()
    followed, stayed, seen = [], [], 0
    for index in range(40):
        example = source.example(index)
        at, visible, owner = example["tracks"] * [128, 96], example["track_visible"], example["track_owner"]
        both = visible & visible[:, :1] & (owner >= 0)[:, None]
        colour = np.stack([sample_photo(f, at[:, t, 0], at[:, t, 1]) for t, f in enumerate(example["video"])], 1)
        fixed = np.stack([sample_photo(f, at[:, 0, 0], at[:, 0, 1]) for f in example["video"]], 1)
        followed.append(np.abs(colour - colour[:, :1])[both][1:].mean(-1))
        stayed.append(np.abs(fixed - colour[:, :1])[both][1:].mean(-1))
        seen += both.sum()
    followed, stayed = np.concatenate(followed), np.concatenate(stayed)
    assert seen > 2000
    assert np.median(followed) < 2
    assert followed.mean() < 0.3 * stayed.mean()


def test_flow_takes_the_next_frame_back_to_this_one():
    source = dataclasses.replace(SMALL, size=(96, 128), camera_speed=(0.05, 0.3), object_speed=(0.05, 0.3)).open()
    for index in range(8):
        example = source.example(index)
        errors, changes = [], []
        for now, then, flow in zip(example["video"], example["video"][1:], example["flow"], strict=False):
            y, x = np.mgrid[:96, :128]
            to = np.stack([y + flow[..., 1], x + flow[..., 0]])
            inside = (to[0] >= 0) & (to[0] <= 95) & (to[1] >= 0) & (to[1] <= 127)
            back = np.stack([map_coordinates(then[..., c].astype(float), to, order=1) for c in range(3)], -1)
            errors.append(np.median(np.abs(back - now)[inside]))
            changes.append(np.abs(then.astype(float) - now).mean())
        assert np.mean(errors) < 3
        assert np.mean(errors) < 0.5 * np.mean(changes)


@pytest.mark.parametrize("camera", ["pan", "zoom", "roll"])
def test_optical_flow_measures_the_speed_that_is_stated(camera):
    config = dataclasses.replace(SMALL, camera=(camera,), object_counts=(0,), size=(96, 96), frames=2)
    source = dataclasses.replace(config, camera_speed=(0.1, 0.2)).open()
    errors, lengths = [], []
    for index in range(5):
        example = source.example(index)
        before, after = example["video"].mean(-1) / 255
        known = np.moveaxis(example["flow"][0], -1, 0)[::-1]
        strength = np.hypot(*np.gradient(before))
        textured = strength > np.quantile(strength, 0.7)  # where nothing is to be seen nothing can be measured
        textured[:8] = textured[-8:] = textured[:, :8] = textured[:, -8:] = False
        errors.append(np.linalg.norm(optical_flow_tvl1(before, after) - known, axis=0)[textured])
        lengths.append(np.linalg.norm(known, axis=0)[textured])
    assert np.median(np.concatenate(errors)) < 0.1 * np.median(np.concatenate(lengths))


def test_boxes_hold_the_visible_part_and_nothing_more():
    source = dataclasses.replace(SMALL, object_counts=(2,)).open()
    for index in range(6):
        example = source.example(index)
        for mask, box in zip(example["masks"].reshape(-1, 48, 64), example["boxes"].reshape(-1, 4), strict=True):
            x0, y0, x1, y1 = np.rint(box * [64, 48, 64, 48]).astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            if mask.any():
                inside = mask[y0:y1, x0:x1]
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()


def test_a_nearer_object_hides_the_one_behind_it():
    source = dataclasses.replace(SMALL, object_counts=(2,), object_size=(0.4, 0.45)).open()
    hidden = 0
    for index in range(10):
        example = source.example(index)
        assert not (example["masks"][0] & example["masks"][1]).any()
        first = example["track_owner"] == 1
        at = (example["tracks"][first] * [64, 48]).astype(int)
        seen = example["track_visible"][first]
        frames = np.broadcast_to(np.arange(8), seen.shape)
        inside = (at >= 0).all(-1) & (at < [64, 48]).all(-1)
        covered = inside & example["masks"][1][frames, at[..., 1].clip(0, 47), at[..., 0].clip(0, 63)]
        hidden += covered.sum()
        assert (seen & covered).sum() <= 0.1 * max(covered.sum(), 10)  # a pixel at the edge holds points of both
    assert hidden > 50


def test_the_first_frame_shows_every_object():
    source = dataclasses.replace(SMALL, object_counts=(1,), object_speed=(0.3, 0.5), objects=("translate",)).open()
    shown = [source.example(index)["masks"][0, 0].sum() for index in range(40)]
    assert min(shown) > 20


def test_objects_start_where_they_are_asked_to_however_fast_they_are():
    moving = dataclasses.replace(
        SMALL,
        object_counts=(1,),
        objects=("translate",),
        object_size=(0.1, 0.1),
        directions=("left",),
        shapes=("round",),
    )

    def middle(**values):
        masks = (dataclasses.replace(moving, **values).open().example(index)["masks"][0, 0] for index in range(20))
        rows, columns = np.array([[where.mean() for where in np.nonzero(mask)] for mask in masks]).T
        return rows / 48, columns / 64

    fast, slow = {"object_speed": (0.4, 0.5)}, {"object_speed": (0.005, 0.01)}
    for speed in (fast, slow):
        for places in middle(object_place=(0.4, 0.6), **speed):
            assert places.min() > 0.38
            assert places.max() < 0.62
            assert np.ptp(places) > 0.1
    assert middle(**fast)[1].mean() > middle(**slow)[1].mean() + 0.1  # otherwise, fast ones come from the right


def test_a_camera_within_reach_never_leaves_the_photo():
    config = dataclasses.replace(SMALL, camera=("pan", "zoom", "pan+zoom"), camera_speed=(0.1, 0.4), object_counts=(0,))
    source = config.open()
    for index in range(40):
        scene = source.draw(np.random.default_rng(index))
        back = np.linalg.inv(np.concatenate([scene.camera, np.broadcast_to([[[0, 0, 1]]], (8, 1, 3))], 1))
        frame = np.array([[0, 0, 1], [64, 0, 1], [0, 48, 1], [64, 48, 1]])
        at = frame @ back[:, :2].swapaxes(1, 2) @ scene.view[:, :2].T + scene.view[:, 2]
        height, width = scene.level.shape[:2]
        assert at.min() > -0.01 * width
        assert (at <= np.array([width, height]) * 1.01).all()


def test_captions_name_what_moves_and_where():
    def caption(**values):
        return dataclasses.replace(SMALL, **values).open().example(0)["caption"]

    assert caption(camera=("pan",), directions=("left",), object_counts=(0,)) == "the camera pans left"
    assert caption(camera=("zoom",), directions=("in",), object_counts=(0,)) == "the camera zooms in"
    assert caption(camera=("shake",), object_counts=(0,)) == "the camera shakes"
    mixed = caption(camera=("pan+zoom",), directions=("up", "out"), object_counts=(0,))
    assert mixed == "the camera pans up and zooms out"
    moves = caption(
        camera=("static",), objects=("translate",), directions=("up",), object_counts=(1,), shapes=("round",)
    )
    assert moves.startswith("a round patch of ")
    assert moves.endswith(" moves up")
    grows = caption(
        camera=("static",), objects=("scale+rotate",), directions=("grows", "clockwise"), object_counts=(1,)
    )
    assert grows.endswith(" grows and turns clockwise")
    assert caption(camera=("static",), objects=("still",), object_counts=(1,)) == "nothing moves"
    fast = caption(
        camera=("pan",),
        directions=("left",),
        object_counts=(0,),
        camera_speed=(0.4, 0.4),
        caption=("scene", "motion", "amount"),
    )
    assert fast.endswith(": the camera pans left fast")


def test_the_named_direction_is_the_one_taken():
    config = dataclasses.replace(
        SMALL, camera=("pan",), object_counts=(0,), direction_spread=0.0, camera_speed=(0.2, 0.2)
    )
    for way, sign in {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}.items():
        flow = dataclasses.replace(config, directions=(way,)).open().example(0)["flow"]
        np.testing.assert_allclose(flow.mean((0, 1, 2)), 0.2 / 8 * 80 * np.array(sign), atol=1e-4)


def test_objects_are_cut_from_photos_of_their_own_split():
    for split in ("train", "held_out"):
        source = dataclasses.replace(SMALL, split=split, object_counts=(2,)).open()
        nouns = {photo.noun for photo in source.photos}
        for index in range(20):
            for label in source.example(index)["labels"]:
                assert label.split(" patch of ")[1] in nouns


@pytest.mark.parametrize("shape", SHAPES)
def test_points_are_spread_evenly_over_any_outline(shape):
    outline = draw_outline(shape, np.random.default_rng(3))
    assert outline.max() == pytest.approx(1)
    assert outline.min() > 0.2
    points = spread_points(outline)
    theta = np.arange(720) * np.pi / 360
    area = outline**2
    centroid = (2 / 3 * outline**3 * [np.cos(theta), np.sin(theta)]).sum(1) / area.sum()
    np.testing.assert_allclose(points.mean(0), centroid, atol=0.04)
    reach = (2 / 3 * outline**3).sum() / area.sum()
    assert np.linalg.norm(points, axis=1).mean() == pytest.approx(reach, abs=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"camera": ("dolly",)}, r"camera has \['dolly'\]; known are static, pan"),
        ({"objects": ()}, "objects has nothing"),
        ({"directions": ("leftwards",)}, "leftwards"),
        ({"camera_speed": (0.0, 0.1)}, "above 0 under the speed law 'log'"),
        ({"object_speed": (0.5, 0.1)}, "from small to large"),
        ({"object_place": (0.6, 0.4)}, "range of shares"),
        ({"ground_truth": ("depth",)}, "depth"),
        ({"split": "test"}, "test"),
    ],
)
def test_what_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **values)


def test_small_clips_are_made_fast():
    source = SyntheticClips(frames=8, size=(32, 32)).open()
    start = time.process_time()
    for index in range(60):
        source.example(index)
    assert 60 / (time.process_time() - start) > 50  # some hundred on an idle core; see benchmarks/loader.py


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    grown = mask.copy()
    for dy in range(-pixels, pixels + 1):
        for dx in range(-pixels, pixels + 1):
            grown |= np.roll(mask, (dy, dx), (0, 1))
    return grown
