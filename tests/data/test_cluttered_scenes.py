"""Cluttered scenes: their ground truth is what is drawn."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.video.geometry import rotation
from jaxmotion.video.synthetic import layered_scene
from jaxmotion.video.synthetic.cluttered_scenes import GROUND_TRUTH
from jaxmotion.video.synthetic.layered_scene import MASK, FlowRegion, LayeredScene, Sprite, render
from jaxmotion.video.synthetic.speed_profiles import SPEED_PROFILES, draw_speed_profile

HEIGHT, WIDTH, STEPS = 72, 128, 4
PLAIN = ClutteredScenes(
    size=(HEIGHT, WIDTH),
    frames=STEPS + 1,
    degradations=(),
    flow_regions=0.0,
    static_sprites=0.0,
    parallax=0.0,
    plain=0.0,
)


def smooth_picture(seed=0, rows=300, columns=500):
    y, x = np.mgrid[:rows, :columns]
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-0.15, 0.15, (6, 3)) * [1, 1, 40])
    return (128 + 20 * waves).astype(np.float32)


def step(shift=(0.0, 0.0), growth=1.0, turn=0.0):
    return np.concatenate([rotation(turn) * growth, np.array(shift)[:, None]], -1)


def still_scene(steps=None, **more):
    steps = np.stack([step()] * STEPS) if steps is None else steps
    view = np.array([[1.0, 0, 250], [0, 1.0, 150]])
    flat = np.zeros((MASK, MASK), np.float32)
    return LayeredScene(
        HEIGHT, WIDTH, smooth_picture(), view, flat, 0.0, steps, **{"flow_regions": (), "sprites": (), **more}
    )


def box_sprite(placement, *, static=False, bend=0.0):
    outline = np.zeros((MASK, MASK), np.float32)
    outline[4:-4, 4:-4] = 1
    return Sprite(
        outline,
        smooth_picture(1, 40, 40),
        placement,
        depth=0.0,
        bend=bend,
        bend_phase=np.arange(STEPS + 1) * 0.5,
        bend_waves=np.eye(2) * 2,
        gain=1.0,
        lift=0.0,
        static=static,
    )


def placed(radius, centres):
    linear = np.broadcast_to(np.eye(2) * radius, (len(centres), 2, 2))
    return np.concatenate([linear, np.asarray(centres, float)[..., None]], -1)


def test_a_pan_moves_the_picture_by_its_steps() -> None:
    pictures = render(still_scene(np.stack([step((4, -2))] * STEPS))).pictures
    for before, after in itertools.pairwise(pictures):
        # a step of whole pixels; OpenCV interpolates at 1/32 px, on slopes of up to 10 grey levels a pixel
        np.testing.assert_allclose(after[:-2, 4:], before[2:, :-4], atol=0.5)


def test_a_zoom_moves_points_away_from_the_middle_by_its_factor() -> None:
    first, second = render(still_scene(np.stack([step(growth=2.0)] * STEPS))).pictures[:2]
    # the pixel in column c and row r shows what was half as far away: column c / 2 + 31.75, row r / 2 + 17.75
    rows = 0.25 * first[HEIGHT // 2 - 1] + 0.75 * first[HEIGHT // 2]
    wanted = 0.25 * rows[31:95] + 0.75 * rows[32:96]
    np.testing.assert_allclose(second[HEIGHT // 2, ::2], wanted, atol=0.5)


def test_without_motion_nothing_moves() -> None:
    rendering = render(still_scene())
    assert np.ptp(rendering.pictures, axis=0).max() == 0
    assert rendering.own_area.max() == 0


def test_a_sprites_own_motion_is_beside_the_cameras() -> None:
    centres = np.array([[3.0 * t, 0] for t in range(STEPS + 1)])
    camera = np.stack([step((5, 0))] * STEPS)
    carried = render(
        still_scene(camera, sprites=(box_sprite(placed(20, centres + 5 * np.arange(STEPS + 1)[:, None] * [1, 0])),))
    )
    alone = render(still_scene(sprites=(box_sprite(placed(20, centres)),)))
    for rendering in (alone, carried):
        moving = rendering.own_area > 0.5
        assert moving.any()
        np.testing.assert_allclose(rendering.own_speed[moving], 3.0, rtol=1e-3)


def test_a_followed_sprite_moves_as_fast_as_the_camera() -> None:
    rendering = render(
        still_scene(np.stack([step((-6, 0))] * STEPS), sprites=(box_sprite(placed(20, np.zeros((STEPS + 1, 2)))),))
    )
    np.testing.assert_allclose(rendering.own_speed[rendering.own_area > 0.5], 6.0, rtol=1e-3)


def test_static_sprites_have_no_motion_of_their_own_and_hide_what_has() -> None:
    centres = np.array([[3.0 * t, 0] for t in range(STEPS + 1)])
    static = box_sprite(placed(30, np.zeros((STEPS + 1, 2))), static=True)
    seen = render(still_scene(sprites=(static, box_sprite(placed(15, centres)))))
    hidden = render(still_scene(sprites=(box_sprite(placed(15, centres)), static)))
    assert seen.own_area.sum() > 0
    assert hidden.own_area.sum() < 0.02 * seen.own_area.sum()


def test_near_things_pass_faster_when_the_camera_travels() -> None:
    camera = np.stack([step((4, 0))] * STEPS)
    relief = np.zeros((MASK, MASK), np.float32)
    relief[MASK // 2 :] = 1.0  # the lower half is near
    near = render(dataclasses.replace(still_scene(camera), relief=relief, parallax=1.0)).pictures
    flat = render(still_scene(camera)).pictures
    np.testing.assert_allclose(near[1, :24], flat[1, :24], atol=0.5)
    np.testing.assert_allclose(near[1, 56:, 8:], near[0, 56:, :-8], atol=1.0)  # twice the step


def test_flow_regions_carry_the_surface_along() -> None:
    whole = np.ones((MASK, MASK), np.float32)
    drift = np.arange(STEPS + 1)[:, None] * np.array([[3.0, 0]])
    rendering = render(still_scene(flow_regions=(FlowRegion(whole, drift, 0.0, np.eye(2) * 0.1, np.zeros(STEPS + 1)),)))
    np.testing.assert_allclose(rendering.pictures[1][:, 3:], rendering.pictures[0][:, :-3], atol=0.5)
    np.testing.assert_allclose(rendering.own_speed, 3.0, rtol=1e-4)


def test_speeds_are_those_asked_for() -> None:
    source = dataclasses.replace(
        PLAIN, camera=("pan", "zoom", "roll"), camera_speed=(0.2, 0.2), sprite_counts=(0,), speed_profiles=("even",)
    ).open()
    speeds = np.array([source.example(index)["camera_speed"] for index in range(20)])
    assert np.median(np.abs(speeds - 0.2)) < 1e-3  # a trembling hand lies over three in ten
    source = dataclasses.replace(
        PLAIN,
        camera=("static",),
        sprites=("travel",),
        sprite_speed=(0.2, 0.2),
        sprite_counts=(1,),
        speed_profiles=("even",),
    ).open()
    speeds = np.array([source.example(index)["object_speed"] for index in range(20)])
    assert np.median(np.abs(speeds[speeds > 0] - 0.2)) < 5e-3


def test_only_the_axis_that_is_changed_changes() -> None:
    slow = dataclasses.replace(
        PLAIN, camera=("pan",), camera_speed=(0.02, 0.02), sprite_counts=(1,), speed_profiles=("even",)
    )
    fast = dataclasses.replace(slow, camera_speed=(0.1, 0.1))
    for index in range(6):
        before, after = slow.open().example(index), fast.open().example(index)
        assert after["camera_speed"] > before["camera_speed"]
        if min(before["object_speed"], after["object_speed"]) > 0:
            assert after["object_speed"] == pytest.approx(before["object_speed"], rel=0.35)  # it may leave the picture


def test_an_index_is_a_clip_and_everything_known_comes_with_it() -> None:
    source = ClutteredScenes(size=(48, 64), frames=3).open()
    first, again = source.example(5), source.example(5)
    np.testing.assert_array_equal(first["video"], again["video"])
    assert all(name in first for name in GROUND_TRUTH)
    assert not np.array_equal(first["video"], source.example(6)["video"])
    drawn = [source.load(5, np.random.default_rng(seed))["video"] for seed in (0, 1)]
    assert not np.array_equal(*drawn)


def test_the_splits_share_no_photo() -> None:
    names = [{photo.name for photo in ClutteredScenes(split=split).sampler().photos} for split in ("train", "held_out")]
    assert all(names)
    assert not names[0] & names[1]


@pytest.mark.parametrize("kind", sorted(SPEED_PROFILES))
def test_the_mean_of_a_speed_profile_is_1(kind) -> None:
    for seed in range(5):
        assert np.abs(draw_speed_profile(kind, 12, 0.125, np.random.default_rng(seed))).mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"camera": ("fly",)}, "camera has .'fly'.; known are static"),
        ({"size": (50, 64)}, "multiples of 8"),
        ({"sprite_speed": (0.0, 1.0)}, "sprite_speed"),
        ({"fps_spread": 0.5}, "fps_spread"),
        ({"sprite_counts": ()}, "sprite_counts"),
    ],
)
def test_wrong_settings_are_named(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        ClutteredScenes(**wrong)


def test_camera_speed_is_that_of_the_corners() -> None:
    diagonal = np.hypot(HEIGHT, WIDTH)
    steps = np.stack([step((0.1 * diagonal, 0)), step(growth=1.2), step(turn=2 * np.arcsin(0.1))])
    np.testing.assert_allclose(layered_scene.camera_speed(steps, HEIGHT, WIDTH), 0.1, rtol=1e-9)
