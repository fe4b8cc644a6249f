"""Objects to put before a background: a patch of a photograph with an outline, a soft edge and a motion of its own.

An outline is the distance from the object's middle to its edge by direction, at most 1. So an object's own coordinates
lie within radius 1, whether a point is inside needs one look-up, and all shapes are drawn by the same few lines.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jaxmotion.video.geometry import (
    COMPASS,
    OBJECT_WAYS,
    Placement,
    apply,
    invert,
    object_moves,
    rotation,
    wobble,
    wobble_amplitude,
)
from jaxmotion.video.synthetic.photos import Photo, sample_photo

DIRECTIONS = 720
"""An outline is kept at so many directions, half a degree apart."""
SHAPES = ("round", "square", "three-cornered", "six-cornered", "star-shaped", "rugged")
POINTS = 64
"""Points spread evenly over an object's area; its speed is their mean."""
WOBBLE_HERTZ = 1.0


@dataclasses.dataclass(frozen=True)
class Motion:
    """One kind of motion an object is asked to make."""

    kind: str
    way: str
    angle: float
    speed: float


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A patch of a photo and how it moves.

    Its point u (radius at most 1) lies in the scene at placement_t(wobble_t(u)), and on the photo at texture(u).
    """

    name: str
    radius: float
    outline: Float[np.ndarray, " D"]
    softness: float
    texture: Float[np.ndarray, "2 3"]
    level: np.ndarray
    placement: Placement
    amplitude: float
    phase: Float[np.ndarray, "T 1"]
    motions: tuple[Motion, ...]

    def during(self, frames: slice) -> Cutout:
        """Returns the object in some of the frames only."""
        return dataclasses.replace(self, placement=self.placement[frames], phase=self.phase[frames])

    def to_scene(self, points: Float[np.ndarray, "*T N 2"]) -> Float[np.ndarray, "T N 2"]:
        """Maps the object's points, the same in all frames or others in each, to the scene, frame by frame."""
        if self.amplitude == 0:
            return apply(self.placement, points)
        bent = np.broadcast_to(points, (len(self.phase), *points.shape[-2:]))
        return apply(self.placement, wobble(bent, self.amplitude, self.phase))

    def from_scene(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The object's own coordinates of scene positions given as x and y of any shape [T ...]."""
        a = invert(self.placement).astype(np.float32).reshape(-1, 2, 3, *(1,) * (x.ndim - 1))
        u = a[:, 0, 0] * x + a[:, 0, 1] * y + a[:, 0, 2]
        v = a[:, 1, 0] * x + a[:, 1, 1] * y + a[:, 1, 2]
        if self.amplitude == 0:
            return u, v
        phase = self.phase.reshape(-1, *(1,) * (x.ndim - 1))
        bent = wobble(np.stack([u, v], -1), -self.amplitude, phase)
        return bent[..., 0], bent[..., 1]

    def alpha(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Returns the opacity at the object's own coordinates, 0..1; 1/2 on its outline."""
        direction = (np.arctan2(v, u) * np.float32(DIRECTIONS / (2 * np.pi))).astype(np.int32)
        edge = self.outline.astype(np.float32).take(direction, mode="wrap")
        return np.clip((edge - np.hypot(u, v)) * np.float32(self.radius / self.softness) + np.float32(0.5), 0, 1)

    def colour(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The photo's colour (0..255) at the object's own coordinates."""
        a = self.texture.astype(np.float32)
        return sample_photo(self.level, a[0, 0] * u + a[0, 1] * v + a[0, 2], a[1, 0] * u + a[1, 1] * v + a[1, 2])

    def inside(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, "N 2"]:
        """Points spread evenly at random over the object's area."""
        return _spread(self.outline, rng.random(count), rng.random(count))


def draw_outline(shape: str, rng: np.random.Generator) -> Float[np.ndarray, " D"]:
    """The outline of a named shape, at most 1 and reaching 1: round, cornered, star-shaped or rugged."""
    theta = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    turn = rng.uniform(0, 2 * np.pi)
    if shape == "round":
        aspect = rng.uniform(0.65, 1.0)
        radius = 1 / np.hypot(np.cos(theta - turn), np.sin(theta - turn) / aspect)
    elif shape == "star-shaped":
        rays = rng.integers(4, 7)
        saw = np.abs((theta * rays / (2 * np.pi) + turn) % 1.0 - 0.5) * 2
        radius = rng.uniform(0.5, 0.65) + 0.4 * saw
    elif shape == "rugged":
        waves = np.arange(2, 7)[:, None]
        strength = rng.normal(0, 0.35, (5, 1)) / waves
        radius = np.maximum(1 + (strength * np.cos(waves * theta + rng.uniform(0, 6.3, (5, 1)))).sum(0), 0.4)
    else:
        sides = {"three-cornered": 3, "square": 4, "six-cornered": 6}[shape]
        middle = (theta - turn) % (2 * np.pi / sides) - np.pi / sides
        radius = 1 / np.cos(middle)
    return radius / radius.max()


def draw_cutout(
    photo: Photo,
    shape: str,
    radius: float,
    motions: tuple[Motion, ...],
    frames: int,
    fps: float,
    diagonal: float,
    rng: np.random.Generator,
) -> Cutout:
    """A cut-out of that shape and radius (pixels) around the scene's origin; `moved_to` puts it where it starts."""
    outline = draw_outline(shape, rng)
    seconds = np.arange(frames) / fps
    phase = (rng.uniform(0, 2 * np.pi) + 2 * np.pi * WOBBLE_HERTZ * seconds)[:, None]
    points = spread_points(outline)
    reach = float(np.linalg.norm(points, axis=1).mean())
    offset, turn, size, amplitude = np.zeros((frames, 2)), np.zeros(frames), np.ones(frames), 0.0
    for motion in motions:
        step = motion.speed / fps * diagonal
        if motion.kind == "wobble":
            amplitude = wobble_amplitude(step, radius, points, phase)
        else:
            moved = object_moves(motion.kind, motion.way, motion.angle, step, radius, reach, frames)
            offset, turn, size = offset + moved[0], turn + moved[1], size * moved[2]
    linear = rotation(turn) * (radius * size)[:, None, None]
    texture, level = _draw_patch(photo, radius, rng)
    return Cutout(
        name=f"{shape} patch of {photo.noun}",
        radius=radius,
        outline=outline,
        softness=rng.uniform(1.0, 1.8),
        texture=texture,
        level=level,
        placement=np.concatenate([linear, offset[..., None]], -1),
        amplitude=amplitude,
        phase=phase,
        motions=motions,
    )


def move_to(cutout: Cutout, start: Float[np.ndarray, 2]) -> Cutout:
    """The cut-out with its middle at that place of the scene in the first frame."""
    placement = cutout.placement.copy()
    placement[..., 2] += start - placement[0, :, 2]
    return dataclasses.replace(cutout, placement=placement)


def draw_motion(
    kind: str, directions: tuple[str, ...], speed: float, spread: float, rng: np.random.Generator
) -> Motion:
    """One motion of that kind, going one of the directions the kind knows (any of them, if none is listed)."""
    ways = [way for way in OBJECT_WAYS[kind] if way in directions] or list(OBJECT_WAYS[kind])
    way = ways[rng.integers(len(ways))]
    angle = np.radians(COMPASS.get(way, 0.0) + rng.uniform(-spread, spread))
    return Motion(kind, way, float(angle), 0.0 if kind == "still" else speed)


def spread_points(outline: Float[np.ndarray, " D"]) -> Float[np.ndarray, "N 2"]:
    """Points spread evenly over the area within an outline, always the same ones (Fibonacci's spiral, stretched)."""
    golden = (np.arange(POINTS) * 0.6180339887498949) % 1.0
    return _spread(outline, golden, (np.arange(POINTS) + 0.5) / POINTS)


def hides(cutout: Cutout, scene: Float[np.ndarray, "T N 2"]) -> Bool[np.ndarray, "T N"]:
    """Returns whether places of the scene lie behind the cut-out."""
    u, v = cutout.from_scene(scene[..., 0].astype(np.float32), scene[..., 1].astype(np.float32))
    return cutout.alpha(u, v) > 0.5


def _spread(outline: np.ndarray, turns: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Points from two numbers in [0, 1) each: even in them means even over the area."""
    swept = np.concatenate([[0.0], np.cumsum(outline**2)])
    theta = np.interp(turns, swept / swept[-1], np.arange(DIRECTIONS + 1) * (2 * np.pi / DIRECTIONS))
    edge = outline[np.minimum((theta * DIRECTIONS / (2 * np.pi)).astype(int), DIRECTIONS - 1)]
    radius = edge * np.sqrt(areas)
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], -1)


def _draw_patch(photo: Photo, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A map [2 3] from the object's coordinates to pixels of a level of the photo, and that level."""
    half = min(photo.width, photo.height) / 2
    reach = half * rng.uniform(0.25, 0.8)
    reach = max(reach, min(0.5 * radius, half))
    centre = np.array([rng.uniform(reach, photo.width - reach), rng.uniform(reach, photo.height - reach)])
    level = photo.level_for(reach / radius)
    shrink = np.array([level.shape[1] / photo.width, level.shape[0] / photo.height])
    linear = np.diag([reach * (1 if rng.random() < 0.5 else -1), reach])
    return np.concatenate([linear, centre[:, None]], -1) * shrink[:, None], level
