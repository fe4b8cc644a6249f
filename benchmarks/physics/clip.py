"""A clip before it is drawn, and the true speeds in it, which follow from its paths alone.

The true camera speed is the mean displacement of the four corners of the frame from one frame to the next under the map
that takes the backdrop along; that of objects is the mean, over the area that is seen of them, of the displacement of
their points beside what that map does. Both are means over all steps between frames, in diagonals per second. Shots
count by their length, and a step over a cut counts for neither.

Where a frame is shown twice its step is nothing, and the next one is as long as both. Black bars, marks, letters and
light move nothing: the frame is the whole picture, bars included.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from benchmarks.physics.paths import Move, maps_at, put

GRID = 48
"""Points along the longer side of the frame at which areas are counted."""
SMALLEST = 0.0008
"""Share of the picture that must move by itself, mean over time, for objects to have a speed."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """A texture: a window of a photograph, or a wall with little on it.

    place: middle of the window, in shares of the photograph's sides. span: its width, in shares of the photograph's
    shorter side for a frame's diagonal. turn: radians. gain, lift: of the grey levels.
    kind: `photograph`; `wall`, a slow change of colour; `gallery`, a wall with a few pictures on it.
    """

    photograph: str
    place: tuple[float, float] = (0.5, 0.5)
    span: float = 0.8
    turn: float = 0.0
    mirrored: bool = False
    gain: float = 1.0
    lift: float = 0.0
    kind: Literal["photograph", "wall", "gallery"] = "photograph"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Thing:
    """Something before the backdrop, with an outline that is a circle bent by waves, or a box.

    radius: diagonals, of a circle of the same area. moves: in the scene, from `start` on; none for a thing at rest.
    """

    surface: Surface
    radius: float
    start: tuple[float, float]
    moves: tuple[Move, ...]
    bends: tuple[float, ...] = ()
    box: float = 0.0
    """Width over height of a box; 0 for none."""

    def maps(self, t: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3 3"]:
        """Returns the maps from its own coordinates, in which it has the radius 1, to the scene."""
        place = np.array([[1, 0, self.start[0]], [0, 1, self.start[1]], [0, 0, 1.0]])
        return place @ maps_at(self.moves, t) @ np.diag([self.radius, self.radius, 1.0])

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns how far inside its outline points of its own coordinates lie, in radii; below 0 outside."""
        if self.box:
            wide, tall = np.sqrt(np.pi * self.box) / 2, np.sqrt(np.pi / self.box) / 2
            return np.minimum(wide - np.abs(x), tall - np.abs(y))
        angle = np.arctan2(y, x)
        bent = sum(size * np.cos((k + 2) * angle + k) for k, size in enumerate(self.bends))
        return (1 + bent) / np.sqrt(1 + sum(size**2 for size in self.bends) / 2) - np.hypot(x, y)

    @property
    def reach(self) -> float:
        """Radius of a circle around all of it."""
        if self.box:
            return float(np.sqrt(np.pi * (self.box + 1 / self.box)) / 2)
        return 1 + sum(abs(size) for size in self.bends)


@dataclasses.dataclass(frozen=True)
class Shot:
    """A backdrop, what the camera does, and the things before it, from far to near."""

    backdrop: Surface
    camera: tuple[Move, ...] = ()
    things: tuple[Thing, ...] = ()


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip before it is drawn.

    times: when what a frame shows happens, seconds. shots: of what every frame shows, an index into `scenes`; a frame
    between two shots shows the next one by the share `mix`. effects: names and settings, in the order in which they
    happen. crf: of H.264; None for no loss. by: whether `estimate_motion` or the command measures it.
    """

    name: str
    condition: str
    width: int
    height: int
    fps: float
    times: tuple[float, ...]
    scenes: tuple[Shot, ...]
    shots: tuple[int, ...] = ()
    mix: tuple[float, ...] = ()
    effects: tuple[tuple[str, dict[str, float]], ...] = ()
    crf: int | None = None
    by: Literal["call", "command"] = "command"
    shutter: float = 0.0
    """Share of the time between frames in which the shutter is open."""
    seed: int = 0

    @property
    def diagonal(self) -> float:
        """Of the frame, pixels."""
        return float(np.hypot(self.width, self.height))

    @property
    def shot_of(self) -> np.ndarray:
        """Returns the index of the shot of every frame."""
        return np.array(self.shots or (0,) * len(self.times))


@dataclasses.dataclass(frozen=True)
class Truth:
    """True speeds, diagonals per second, and the mean share of the picture that moves by itself."""

    object_speed: float
    camera_speed: float
    area: float


def true_motion(clip: Clip) -> Truth:
    """Returns the true speeds of a clip."""
    times, shots = np.array(clip.times), clip.shot_of
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * [clip.width, clip.height] / (2 * clip.diagonal)
    lengths, own, seen, counted = [], 0.0, 0, 0
    grid = _grid(clip.width, clip.height)
    for index, shot in enumerate(clip.scenes):
        steps = np.nonzero((shots[:-1] == index) & (shots[1:] == index))[0]
        if not len(steps):
            continue
        now, then = times[steps], times[steps + 1]
        before, after = maps_at(shot.camera, now), maps_at(shot.camera, then)
        camera = after @ np.linalg.inv(before)
        lengths.append(np.linalg.norm(put(camera, corners) - corners, axis=-1).mean(-1))
        counted += len(steps) * len(grid)
        moved, shown = _own_motion(shot, (now, then), (before, after), grid)
        own += len(steps) * moved / max(shown, 1)
        seen += shown
    if not lengths:
        return Truth(0.0, 0.0, 0.0)
    every, area = np.concatenate(lengths), seen / counted
    return Truth(
        object_speed=own / len(every) * clip.fps if area > SMALLEST else 0.0,
        camera_speed=float(every.mean() * clip.fps),
        area=area,
    )


def _own_motion(
    shot: Shot, times: tuple[np.ndarray, np.ndarray], cameras: tuple[np.ndarray, np.ndarray], grid: np.ndarray
) -> tuple[float, int]:
    """Returns the sum of the own displacements of all points that move by themselves, over all steps, and their number.

    times, cameras: at the beginnings and the ends of the steps. grid [P 2]: points of the frame.
    """
    before, after = cameras
    free = np.ones((len(before), len(grid)), bool)
    total, count = 0.0, 0
    for thing in reversed(shot.things):
        here, there = (camera @ thing.maps(t) for camera, t in zip(cameras, times, strict=True))
        own = put(np.linalg.inv(here), grid)
        shown = free & (thing.depth(own[..., 0], own[..., 1]) > 0)
        free &= ~shown
        if thing.moves:
            step, place = np.nonzero(shown)
            points = own[step, place][:, None]
            beside = put(there[step], points) - put((after @ np.linalg.inv(before))[step], grid[place][:, None])
            total += float(np.linalg.norm(beside, axis=-1).sum())
            count += len(step)
    return total, count


def _grid(width: int, height: int) -> Float[np.ndarray, "P 2"]:
    """Returns evenly spread points of the frame, in diagonals from its middle."""
    spacing = max(width, height) / GRID
    x = (np.arange(round(width / spacing)) + 0.5) / round(width / spacing) - 0.5
    y = (np.arange(round(height / spacing)) + 0.5) / round(height / spacing) - 0.5
    return np.stack(np.meshgrid(x * width, y * height), -1).reshape(-1, 2) / np.hypot(width, height)
