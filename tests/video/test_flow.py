"""Measured motion against clips of photographs whose motion is known."""

import functools

import numpy as np
import pytest
import skimage.data
import skimage.transform
from scipy.ndimage import gaussian_filter, map_coordinates

from jaxmotion.video.flow import motion_speed, optical_flow

FRAMES = 3
PHOTOS = ("astronaut", "coffee", "chelsea")
SPEEDS = (0.1, 0.3, 1.0, 2.0, 4.0)


@functools.cache
def scaled_photo(name, side):
    """A photograph whose middle 55 % is `side` pixels high, free of aliasing, 0..255."""
    photo = getattr(skimage.data, name)().astype(np.float64)
    scale = side / (0.55 * min(photo.shape[:2]))
    size = [round(s * scale) for s in photo.shape[:2]]
    return skimage.transform.resize(photo, size, anti_aliasing=True)


def pixels(side):
    """Rows and columns from the middle of a frame."""
    return np.mgrid[:side, :side] - (side - 1) / 2


def motion(kind, side, amount):
    """A matrix and a shift that take the pixels of a frame to where they look in the photo, from its middle."""
    turn = amount / np.hypot(*pixels(side)).mean()
    if kind == "pan":
        return np.eye(2), amount * np.array([np.sin(0.3), np.cos(0.3)])
    if kind == "zoom":
        return np.exp(turn) * np.eye(2), np.zeros(2)
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]), np.zeros(2)


def true_speed(kind, side, amount):
    """Mean displacement, in pixels, of what a frame shows until the next; about `amount`."""
    matrix, shift = motion(kind, side, amount)
    back = np.linalg.inv(matrix)
    return np.hypot(*(np.tensordot(back, pixels(side) - shift[:, None, None], 1) - pixels(side))).mean()


def clip(name, side, kind, speed, noise=0.0, blur=0.0, frames=FRAMES):
    """uint8 [T side side 3] that moves by about `speed` pixels a frame, on the mean."""
    photo = scaled_photo(name, side)
    middle = (np.array(photo.shape[:2]) - 1)[:, None, None] / 2
    rng = np.random.default_rng(0)
    shown = []
    for index in range(frames):
        matrix, shift = motion(kind, side, speed * (index - (frames - 1) / 2))
        at = np.tensordot(matrix, pixels(side), 1) + shift[:, None, None] + middle
        frame = np.stack([map_coordinates(photo[..., c], at, order=3, mode="mirror") for c in range(3)], -1)
        frame = gaussian_filter(frame, (blur, blur, 0)) + rng.normal(0, noise, frame.shape)
        shown.append(np.clip(np.round(frame), 0, 255).astype(np.uint8))
    return np.stack(shown)


def pixels_a_frame(clips):
    return motion_speed(clips, 1.0) * np.hypot(*clips.shape[-3:-1])


@pytest.mark.parametrize("kind", ["pan", "zoom", "roll"])
@pytest.mark.parametrize("side", [32, 64])
def test_known_camera_motion_is_read(side, kind):
    clips = np.stack([[clip(name, side, kind, speed) for speed in SPEEDS] for name in PHOTOS])
    measured = pixels_a_frame(clips) / np.array([true_speed(kind, side, speed) for speed in SPEEDS])
    # Rounding to uint8 alone reads as some 0.01 px, hence the wider bound for a tenth of a pixel.
    np.testing.assert_allclose(measured[:, :2], 1.0, atol=0.13)
    np.testing.assert_allclose(measured[:, 2:], 1.0, atol=0.08)


def test_large_frames_and_large_motion():
    kinds = ("pan", "zoom", "roll")
    clips = np.stack([clip(name, 256, kind, 16.0, frames=2) for name, kind in zip(PHOTOS, kinds, strict=True)])
    np.testing.assert_allclose(pixels_a_frame(clips), [true_speed(kind, 256, 16.0) for kind in kinds], rtol=0.08)


@pytest.mark.parametrize("side", [32])
def test_more_motion_reads_as_more(side):
    speeds = np.geomspace(0.05, side / 4, 12)
    for name in PHOTOS:
        measured = pixels_a_frame(np.stack([clip(name, side, "pan", speed, frames=2) for speed in speeds]))
        assert np.all(np.diff(measured) > 0)


def test_still_clips_read_as_still():
    still = np.stack([clip(name, 32, "pan", 0.0) for name in PHOTOS])
    assert pixels_a_frame(still).max() < 1e-3
    assert pixels_a_frame(np.stack([clip(name, 32, "pan", 0.0, noise=2.0) for name in PHOTOS])).max() < 0.08


@pytest.mark.parametrize("speed", [0.3, 1.0, 4.0])
def test_noise_and_blur_are_borne(speed):
    for change in ({"noise": 2.0}, {"blur": 1.0}):
        clips = np.stack([clip(name, 32, "pan", speed, **change) for name in PHOTOS])
        np.testing.assert_allclose(pixels_a_frame(clips), speed, rtol=0.12)


def test_a_moving_object_on_a_still_ground():
    """The mean over all pixels; the motion spreads a little around the object (see the module)."""
    ground, thing = scaled_photo("coffee", 64), scaled_photo("chelsea", 64)
    for speed in (0.5, 2.0):
        shown = []
        for index in range(FRAMES):
            frame = ground[20:84, 20:84].copy()
            y, x = np.mgrid[16:48, 16:48]
            y, x = y + 10.0, x + 10.0 - speed * index
            pasted = np.stack([map_coordinates(thing[..., c], [y, x], order=3) for c in range(3)], -1)
            frame[16:48, 16:48] = pasted  # a window through which the thing is seen to move
            shown.append(np.clip(np.round(frame), 0, 255).astype(np.uint8))
        measured = pixels_a_frame(np.stack(shown)) / (speed * 0.25)
        assert 0.9 < measured < 1.4


def test_direction_and_place_of_the_flow():
    frames = clip("astronaut", 48, "pan", 1.5, frames=2).astype(np.float32).mean(-1) / 255
    flow = np.asarray(optical_flow(frames[:1], frames[1:]))[0]
    # The camera looks 1.5 px further right and down, so the picture moves left and up.
    np.testing.assert_allclose(np.median(flow, (0, 1)), [-1.5 * np.cos(0.3), -1.5 * np.sin(0.3)], atol=0.05)
    frames = clip("astronaut", 48, "zoom", 1.0, frames=2).astype(np.float32).mean(-1) / 255
    flow = np.asarray(optical_flow(frames[:1], frames[1:]))[0]
    y, x = np.mgrid[:48, :48] - 23.5
    slope = np.sum(flow * np.stack([x, y], -1)) / np.sum(x**2 + y**2)
    assert slope == pytest.approx(-1.0 / np.hypot(y, x).mean(), rel=0.1)


def test_speed_is_in_diagonals_a_second():
    moving = clip("coffee", 32, "pan", 1.0)
    assert float(motion_speed(moving, 8.0)) == pytest.approx(8 / np.hypot(32, 32), rel=0.05)
    wide = np.tile(moving, (1, 1, 2, 1))
    assert float(motion_speed(wide, 8.0)) == pytest.approx(8 / np.hypot(32, 64), rel=0.1)


def test_a_batch_reads_as_its_clips_do():
    clips = np.stack([clip("coffee", 32, "pan", speed) for speed in SPEEDS])
    rates = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    alone = [float(motion_speed(one, rate)) for one, rate in zip(clips, rates, strict=True)]
    np.testing.assert_allclose(motion_speed(clips, rates), alone, rtol=1e-4)
    assert motion_speed(clips[None], 8.0).shape == (1, 5)


def test_batches_beyond_what_fits_at_once(monkeypatch):
    clips = np.stack([clip("coffee", 32, "pan", speed) for speed in SPEEDS])
    whole = motion_speed(clips, 8.0)
    monkeypatch.setattr("jaxmotion.video.flow._PIXELS_AT_ONCE", 3 * 32 * 32)
    np.testing.assert_allclose(motion_speed(clips, 8.0), whole, rtol=1e-4)


@pytest.mark.parametrize("size", [(33, 47), (8, 40)])
def test_odd_sizes(size):
    height, width = size
    moving = np.stack([scaled_photo("coffee", 64)[20 : 20 + height, 20 + i : 20 + i + width] for i in range(3)])
    assert float(pixels_a_frame(np.round(moving).astype(np.uint8))) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((4, 32, 32, 4), np.uint8), r"\[..., T, H, W, 3\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), "at least 2 frames"),
        (np.zeros((4, 32, 7, 3), np.uint8), "got 4 of 7 x 32 px"),
    ],
)
def test_what_cannot_be_measured_is_refused(video, message):
    with pytest.raises(ValueError, match=message):
        motion_speed(video, 8.0)
