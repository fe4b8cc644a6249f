"""Ground-truth motion: maps of a camera and of objects that put every point of the scene, frame by frame.

The scene is a plane, and its coordinates are those of the first frame: x to the right and y down, in pixels, the frame
covering [0, W] x [0, H]. A *placement* is one affine map per frame, [T 2 3]. The camera's placement takes a point of
the scene to its place in frame t (and is the identity in frame 0). An object's placement takes a point of the object,
whose outline lies within radius 1, to the scene.

Units of speed, the same for everything: mean displacement per second, as a fraction of the image diagonal.

- **Camera speed**: the displacement from frame t to t+1 of the four image corners under the map from frame t to
  frame t+1 of the background, mean over corners and frame pairs, times the frame rate, over the diagonal.
- **Object speed**: the displacement from frame t to t+1 of the object's points *in the scene*, i.e. beside what the
  camera does and at the scale of the first frame; mean over points spread evenly over the object's area and over frame
  pairs, times the frame rate, over the diagonal. An object that lies still on the background has speed 0 under any
  camera.

Pan, zoom and roll move the corners by the same amount in every frame, so their speed is the one asked for. A shake is
asked for by the root mean square of that displacement instead, and its speed (a mean, as for all) is a little lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Placement = Float[np.ndarray, "T 2 3"]

COMPASS: Mapping[str, float] = {
    "right": 0.0,
    "down and to the right": 45.0,
    "down": 90.0,
    "down and to the left": 135.0,
    "left": 180.0,
    "up and to the left": 225.0,
    "up": 270.0,
    "up and to the right": 315.0,
}
"""Directions in the picture, in degrees from x to the right, turning towards y down (clockwise as seen)."""
TURNS: Mapping[str, float] = {"clockwise": 1.0, "counterclockwise": -1.0}
CAMERA_WAYS: Mapping[str, Sequence[str]] = {
    "static": ("",),
    "pan": tuple(COMPASS),
    "zoom": ("in", "out"),
    "roll": tuple(TURNS),
    "shake": ("",),
}
"""The kinds of camera motion, and the ways each can go. A pan goes where the camera turns; the picture goes the other.
"""
OBJECT_WAYS: Mapping[str, Sequence[str]] = {
    "still": ("",),
    "translate": tuple(COMPASS),
    "rotate": tuple(TURNS),
    "scale": ("grows", "shrinks"),
    "wobble": ("",),
}
"""The kinds of object motion, and the ways each can go."""
SIZE_RANGE = (0.45, 2.0)
"""An object that grows or shrinks stays within these multiples of its first size."""
LARGEST_TURN = np.pi / 4
LARGEST_WOBBLE = 0.45
WOBBLE_WAVES = 2.5
"""Radians of the wobbling wave per radius of the object."""
SHAKE_HERTZ = (0.7, 2.5)


def identity(frames: int) -> Placement:
    """Returns the placement of a still object or camera."""
    return np.broadcast_to(np.eye(2, 3), (frames, 2, 3)).copy()


def compose(outer: Placement, inner: Placement) -> Placement:
    """Composes placements frame by frame: first `inner`, then `outer`."""
    linear = outer[..., :2] @ inner[..., :2]
    offset = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return np.concatenate([linear, offset], -1)


def invert(placement: Placement) -> Placement:
    """Returns the inverse maps, frame by frame."""
    (a, b, x), (c, d, y) = np.moveaxis(placement, 0, -1)
    scale = 1.0 / (a * d - b * c)
    linear = np.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) * scale[:, None, None]
    return np.concatenate([linear, -linear @ np.stack([x, y], -1)[..., None]], -1)


def apply(placement: Placement, points: Float[np.ndarray, "*N 2"]) -> Float[np.ndarray, "T *N 2"]:
    """Maps points, the same in all frames ([N 2]) or others in each ([T N 2])."""
    points = points if points.ndim == 3 else points[None]
    return points @ placement[..., :2].swapaxes(-1, -2) + placement[:, None, :, 2]


def corners(height: int, width: int) -> Float[np.ndarray, "4 2"]:
    """Returns the four corners of the frame."""
    return np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)


def camera_step(kind: str, way: str, angle: float, speed: float, fps: float, height: int, width: int) -> np.ndarray:
    """Returns the map [2 3] from one frame to the next of a steady camera whose corners move at `speed`.

    A corner is half a diagonal from the middle. So a zoom by the factor 1 + 2 speed/fps moves it by speed/fps
    diagonals, and so does a roll by 2 arcsin(speed/fps); a pan does by definition.
    `angle` (radians) is where a pan goes; the other kinds go `way`.
    """
    per_frame = speed / fps
    middle = np.array([width, height]) / 2
    linear, offset = np.eye(2), np.zeros(2)
    if kind == "pan":
        offset = -per_frame * np.hypot(height, width) * np.array([np.cos(angle), np.sin(angle)])
    elif kind == "zoom":
        linear = np.eye(2) * (1 + 2 * per_frame * (1 if way == "in" else -1))
    elif kind == "roll":
        linear = rotation(-TURNS[way] * 2 * np.arcsin(min(per_frame, 0.5)))
    return np.concatenate([linear, (middle - linear @ middle + offset)[:, None]], -1)


def steady_camera(steps: Sequence[np.ndarray], frames: int) -> Placement:
    """Returns the placement of a camera that makes the same steps, one after the other, between any two frames."""
    step = identity(1)
    for part in steps:
        step = compose(part[None], step)
    placement = identity(frames)
    for t in range(1, frames):
        placement[t] = compose(step, placement[t - 1 : t])[0]
    return placement


def add_shake(
    placement: Placement, rms: float, fps: float, height: int, width: int, rng: np.random.Generator
) -> Placement:
    """Adds hand shake to a placement: sums of slow waves along x and y, whose step has the given rms.

    rms: root mean square over frame pairs of the step's length per second, as a fraction of the diagonal.
    """
    frames = len(placement)
    if frames < 2 or rms == 0:
        return placement
    hertz = rng.uniform(*SHAKE_HERTZ, (3, 2))
    phase = rng.uniform(0, 2 * np.pi, (3, 2))
    seconds = np.arange(frames)[:, None, None] / fps
    path = (np.sin(2 * np.pi * hertz * seconds + phase) / hertz).sum(1)
    path -= path[0]
    length = np.sqrt((np.diff(path, axis=0) ** 2).sum(-1).mean())
    path *= rms / fps * np.hypot(height, width) / max(length, 1e-9)
    return np.concatenate([placement[..., :2], placement[..., 2:] + path[..., None]], -1)


def camera_speeds(camera: Placement, fps: float, height: int, width: int) -> tuple[float, float]:
    """Returns the camera's speed (see the top) and the root mean square of the same displacements."""
    if len(camera) < 2:
        return 0.0, 0.0
    at = corners(height, width)
    between = compose(camera[1:], invert(camera[:-1]))
    lengths = np.linalg.norm(apply(between, at) - at, axis=-1) * fps / np.hypot(height, width)
    return float(lengths.mean()), float(np.sqrt((lengths**2).mean()))


def object_speed(scene: Float[np.ndarray, "T N 2"], fps: float, height: int, width: int) -> float:
    """Returns the speed (see the top) of points spread evenly over an object, given their places in the scene."""
    if len(scene) < 2:
        return 0.0
    return float(np.linalg.norm(np.diff(scene, axis=0), axis=-1).mean() * fps / np.hypot(height, width))


def rotation(angle: float | np.ndarray) -> np.ndarray:
    """Returns [.. 2 2]: rotation clockwise as seen (y points down) by the angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def object_moves(
    kind: str, way: str, angle: float, step: float, radius: float, reach: float, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns one kind of object motion: (offset [T 2] in pixels, turn [T] in radians, size [T] as a factor).

    Args:
        kind: `translate`, `rotate`, `scale` or `still`.
        way: where a turn or a change of size goes.
        angle: where a translation goes, in radians.
        step: the mean displacement of its points from frame to frame that is asked for, in pixels.
        radius: of the object, in pixels.
        reach: mean distance of its points from its middle, in radii.
        frames: T.
    """
    t = np.arange(frames)
    offset, turn, size = np.zeros((frames, 2)), np.zeros(frames), np.ones(frames)
    if kind == "translate":
        offset = step * t[:, None] * np.array([np.cos(angle), np.sin(angle)])
    elif kind == "rotate":
        turn = TURNS[way] * t * min(2 * np.arcsin(min(step / (2 * reach * radius), 1.0)), LARGEST_TURN)
    elif kind == "scale":
        room = SIZE_RANGE[1] - 1 if way == "grows" else 1 - SIZE_RANGE[0]
        change = min(step / (reach * radius), room / max(frames - 1, 1))
        size = 1 + t * change * (1 if way == "grows" else -1)
    return offset, turn, size


def wobble(points: Float[np.ndarray, "*P 2"], amplitude: float, phase: Float[np.ndarray, "*P"]) -> np.ndarray:
    """Bends an object's points by a wave that runs through it: x moves by a sine of y and `phase`; y stays.

    Its own inverse with the amplitude negated.
    """
    bent = points.copy()
    bent[..., 0] += amplitude * np.sin(WOBBLE_WAVES * points[..., 1] + phase)
    return bent


def wobble_amplitude(
    step: float, radius: float, points: Float[np.ndarray, "N 2"], phase: Float[np.ndarray, "T 1"]
) -> float:
    """Returns the amplitude with which these points move by `step` pixels a frame on average."""
    unit = np.sin(WOBBLE_WAVES * points[None, :, 1] + phase)
    mean = np.abs(np.diff(unit, axis=0)).mean() if len(phase) > 1 else 0.0
    return min(step / (radius * mean), LARGEST_WOBBLE) if mean > 0 else 0.0
