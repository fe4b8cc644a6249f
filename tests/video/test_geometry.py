import numpy as np
import pytest

from jaxmotion.video.geometry import (
    add_shake,
    apply,
    camera_speeds,
    camera_step,
    compose,
    corners,
    identity,
    invert,
    object_moves,
    object_speed,
    rotation,
    steady_camera,
    wobble,
    wobble_amplitude,
)

HEIGHT, WIDTH, FPS = 48, 64, 8.0
STEADY = [("pan", ""), ("zoom", "in"), ("zoom", "out"), ("roll", "clockwise"), ("roll", "counterclockwise")]


@pytest.mark.parametrize(("kind", "way"), STEADY)
@pytest.mark.parametrize("speed", [0.004, 0.1, 0.7])
def test_a_steady_camera_has_the_speed_that_was_asked_for(kind, way, speed):
    camera = steady_camera([camera_step(kind, way, 0.4, speed, FPS, HEIGHT, WIDTH)], 9)
    mean, rms = camera_speeds(camera, FPS, HEIGHT, WIDTH)
    assert mean == pytest.approx(speed, rel=1e-9)
    assert rms == pytest.approx(speed, rel=1e-9)
    assert (camera[0] == identity(1)[0]).all()


def test_what_the_picture_does_under_each_camera():
    def after(kind, way, angle=0.0):
        return apply(camera_step(kind, way, angle, 0.2, FPS, HEIGHT, WIDTH)[None], corners(HEIGHT, WIDTH))[0]

    right, down = after("pan", "", 0.0), after("pan", "", np.pi / 2)
    assert (right[:, 0] < corners(HEIGHT, WIDTH)[:, 0]).all()  # the camera goes right, the picture left
    assert (down[:, 1] < corners(HEIGHT, WIDTH)[:, 1]).all()
    assert after("zoom", "in")[0].max() < 0
    assert after("zoom", "out")[0].min() > 0
    top_left = after("roll", "clockwise")[0]  # the camera turns clockwise, the picture counterclockwise: left goes down
    assert top_left[1] > 0


def test_a_pan_by_hand():
    step = camera_step("pan", "", np.pi, 0.5, 4.0, 3, 4)  # to the left; a 3 by 4 frame has the diagonal 5
    np.testing.assert_allclose(step, [[1, 0, 0.5 / 4 * 5], [0, 1, 0]], atol=1e-12)


def test_a_shake_has_the_rms_that_was_asked_for_and_returns_nothing_to_the_first_frame():
    camera = add_shake(identity(12), 0.3, FPS, HEIGHT, WIDTH, np.random.default_rng(1))
    mean, rms = camera_speeds(camera, FPS, HEIGHT, WIDTH)
    assert rms == pytest.approx(0.3)
    assert 0 < mean < rms
    np.testing.assert_allclose(camera[0], identity(1)[0], atol=1e-12)


def test_inverting_and_composing():
    rng = np.random.default_rng(0)
    placement = np.concatenate(
        [rotation(rng.uniform(0, 6, 5)) * rng.uniform(0.5, 2, (5, 1, 1)), rng.normal(size=(5, 2, 1))], -1
    )
    points = rng.normal(size=(7, 2))
    back = apply(invert(placement), apply(placement, points))
    np.testing.assert_allclose(back, np.broadcast_to(points, back.shape), atol=1e-12)
    np.testing.assert_allclose(compose(placement, invert(placement)), identity(5), atol=1e-12)


def test_two_steps_of_a_mixed_camera_are_the_step_twice():
    steps = [camera_step(kind, way, 1.0, 0.2, FPS, HEIGHT, WIDTH) for kind, way in (("pan", ""), ("zoom", "in"))]
    camera = steady_camera(steps, 3)
    np.testing.assert_allclose(compose(camera[1:2], camera[1:2])[0], camera[2])


def test_wobbling_back_is_the_inverse():
    points = np.random.default_rng(0).uniform(-1, 1, (4, 9, 2))
    phase = np.linspace(0, 3, 4)[:, None]
    np.testing.assert_allclose(wobble(wobble(points, 0.3, phase), -0.3, phase), points, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "way"), [("translate", ""), ("rotate", "clockwise"), ("scale", "grows"), ("scale", "shrinks")]
)
def test_an_object_moves_its_points_by_the_step_that_was_asked_for(kind, way):
    points = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    reach = np.linalg.norm(points, axis=1).mean()
    offset, turn, size = object_moves(kind, way, 0.3, 0.5, 10.0, reach, 6)
    scene = points @ (rotation(turn) * 10 * size[:, None, None]).swapaxes(1, 2) + offset[:, None]
    steps = np.linalg.norm(np.diff(scene, axis=0), axis=-1).mean(1)
    np.testing.assert_allclose(steps, 0.5, rtol=1e-6)
    assert object_speed(scene, FPS, HEIGHT, WIDTH) == pytest.approx(0.5 * FPS / 80)


def test_a_wobble_moves_its_points_by_the_step_that_was_asked_for():
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (500, 2))
    phase = (2 * np.pi * np.arange(9) / FPS)[:, None]
    amplitude = wobble_amplitude(0.4, 10.0, points, phase)
    bent = 10 * wobble(np.broadcast_to(points, (9, 500, 2)), amplitude, phase)
    assert np.abs(np.diff(bent[..., 0], axis=0)).mean() == pytest.approx(0.4)
