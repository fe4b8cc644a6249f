"""Clips that are hard to read, with known motion: for training and judging what measures motion.

`Synthetic` shows one thing at a time, so that a small model can learn to make it. A world shows what real clips do to
those who measure them: parallax, subjects that the camera follows, subjects that fill the picture, small fast things,
water, still things close by, blur, noise, compression, changing light, marks that stand still on a moving picture. It
is grey, drawn from photographs, and every clip is a function of (seed, split, index).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.geometry import Placement, compose, invert, rotation
from jaxmotion.video.synthetic import layered_scene as stage
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.degradations import FILMS, develop
from jaxmotion.video.synthetic.layered_scene import CELL, MASK, Actor, Stage, Stream, draw_blob, draw_relief
from jaxmotion.video.synthetic.photos import WHEEL, Photo, PhotoSplit, read_photos
from jaxmotion.video.synthetic.speed_profiles import PACES, draw_pace

SPLITS = ("train", "held_out")
CAMERAS = ("static", "pan", "zoom", "roll", "pan+zoom", "pan+roll", "follow")
ACTORS = ("travel", "turn", "grow", "bend", "travel+turn", "travel+bend", "circle", "swing")
FOLLOWED = (("pan",), ("pan",), ("zoom",), ("pan", "zoom"))
"""How a camera goes that follows an actor, beside it or before it."""
CONTRAST = (14.0, 45.0)
"""Range of the least standard deviation of grey levels (of 255) in a view or on an actor: what shows nothing tells
nothing.
"""
TRUTH = ("object", "camera", "object_speed", "camera_speed", "moves", "own_area", "own_speed")
"""What comes with every clip.

object, camera: float, scores 1..10 (`jaxmotion.video.motion_scale`) of the speeds.
object_speed, camera_speed: float, diagonals per second.
moves [4]: what a pan, a tilt, a zoom and a roll alone do to the corners, diagonals per second, mean over time.
own_area, own_speed [T-1 H/8 W/8]: share of a cell that moves by itself, and its speed in diagonals per second.
"""


@register()
@dataclasses.dataclass(frozen=True)
class Worlds:
    """Worlds with known motion. A tuple of kinds is drawn from evenly; repeat a kind to see it more often."""

    photos: str = WHEEL
    """`skimage` for the photographs in the scikit-image wheel, or a folder of images."""
    split: Literal["train", "held_out"] = "train"
    """The two splits never show the same photo."""
    held_out: tuple[str, ...] = ()
    """Names, without suffix, of the photos of the second split; empty for the usual ones."""
    clips: int = 1_000_000
    """How many clips make one epoch."""
    frames: int = 9
    """Length of a clip."""
    size: tuple[int, int] = (144, 256)
    """(height, width); multiples of 8."""
    fps: float = 8.0
    """Frames per second, on the mean."""
    fps_spread: float = 1.5
    """The rate of a clip is drawn between `fps` divided and multiplied by this."""
    camera: tuple[str, ...] = (
        "static",
        "static",
        "pan",
        "pan",
        "pan+zoom",
        "zoom",
        "zoom",
        "roll",
        "pan+roll",
        "follow",
    )
    """What cameras do: static, pan, zoom, roll, two of them, or follow an actor."""
    camera_speed: tuple[float, float] = (0.003, 1.0)
    """Range of a camera's speed, in diagonals per second, drawn evenly by logarithm."""
    actors: tuple[str, ...] = ("travel", "travel", "travel+turn", "turn", "grow", "bend", "travel+bend")
    """What actors do."""
    actor_counts: tuple[int, ...] = (0, 0, 1, 1, 1, 2, 3)
    """How many actors a clip has."""
    actor_speed: tuple[float, float] = (0.004, 1.0)
    """Range of an actor's speed, in diagonals per second, drawn evenly by logarithm."""
    actor_size: tuple[float, float] = (0.05, 1.1)
    """Range of an actor's radius, as a share of the shorter side, drawn evenly by logarithm."""
    paces: tuple[str, ...] = ("even", "even", "ramp", "sway", "late", "tremble")
    """How speeds run over time."""
    streams: float = 0.15
    """Share of clips in which a region of the backdrop flows or ripples."""
    props: float = 0.35
    """Share of clips with still things before the backdrop."""
    plain: float = 0.2
    """Share of clips whose backdrop shows little, like a wall or a sky."""
    parallax: float = 0.6
    """Share of clips in which the camera travels, so that near things pass faster than far ones."""
    film: tuple[str, ...] = tuple(FILMS)
    """What may happen to the pictures on their way; each to about one clip in four."""
    seed: int = 0
    """Another seed, other clips."""

    def __post_init__(self) -> None:
        _check_words("camera", [part for kind in self.camera for part in kind.split("+")], CAMERAS)
        _check_words("actors", self.actors, ACTORS)
        _check_words("paces", self.paces, PACES)
        _check_words("film", self.film or tuple(FILMS), FILMS)
        _check_words("split", (self.split,), SPLITS)
        if self.frames < 2 or self.clips < 1 or min(self.size) < 32 or any(side % CELL for side in self.size):
            raise ValueError(
                f"frames={self.frames}, clips={self.clips}, size={self.size}: at least 2 frames and 1 clip, and sides"
                f" of 32 pixels or more that are multiples of {CELL}."
            )
        for name in ("camera_speed", "actor_speed", "actor_size"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); it must be a range from small to large, above 0.")
        if not self.fps > 0 or not self.fps_spread >= 1:
            raise ValueError(f"fps={self.fps}, fps_spread={self.fps_spread}: above 0, and at least 1.")
        if not self.actor_counts or min(self.actor_counts) < 0:
            raise ValueError(f"actor_counts is {self.actor_counts}; it must hold one number or more, none below 0.")

    def open(self, report: Path | None = None) -> WorldsSource:
        """Reads the photos. `report` is there because all data sources have it; nothing can be broken here."""
        del report
        return WorldsSource(self, read_photos(self.photos, self.held_out, self.split, 3 * max(self.size)))


class WorldsSource:
    """The clips of a `Worlds` config: `source[i]` names one, `load` makes it, `example(i)` does both."""

    def __init__(self, config: Worlds, split: PhotoSplit):
        self.config = config
        self.photos = split.photos

    labels = TRUTH

    def __len__(self) -> int:
        return self.config.clips

    def __getitem__(self, index: int) -> int:
        """The record of a clip: its index."""
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} is asked for; there are {len(self)}.")
        return int(index)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The clip of that index; see `load`."""
        return self.load(self[index], rng)

    def load(self, record: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Makes a clip: `video` uint8 [T H W 3] (grey), an empty `caption`, `fps`, `id`, and what `TRUTH` names.

        The same index always gives the same clip, or, with a generator, another one for every state of that.
        """
        config = self.config
        again = [] if rng is None else [int(rng.integers(2**32))]
        rng = np.random.default_rng([config.seed, SPLITS.index(config.split), record, *again])
        fps = config.fps * config.fps_spread ** rng.uniform(-1, 1)
        scene = self.draw(rng, fps)
        take = stage.render(scene)
        pictures = develop(take.pictures, config.film, rng)
        video = np.repeat(pictures[..., None], 3, -1)
        known = known_motion(scene, take, fps)
        return {VIDEO: video, FPS: np.float32(fps), CAPTION: "", "id": f"worlds/{record}", **known}

    def draw(self, rng: np.random.Generator, fps: float) -> Stage:
        """The stage of a clip at that frame rate, before anything is rendered."""
        config = self.config
        height, width = config.size
        diagonal = float(np.hypot(height, width))
        kind = config.camera[rng.integers(len(config.camera))]
        ways = FOLLOWED[rng.integers(len(FOLLOWED))] if kind == "follow" else tuple(kind.split("+"))
        steps = self._camera_steps(ways, fps, rng)
        camera = _products(steps)
        photo = self.photos[rng.integers(len(self.photos))]
        count = config.actor_counts[rng.integers(len(config.actor_counts))]
        followed = int(kind == "follow")
        actors = [
            self._actor(photo, camera, fps, rng, followed=index < followed) for index in range(max(count, followed))
        ]
        if rng.random() < config.props:
            actors += [self._prop(photo, camera, rng) for _ in range(rng.integers(1, 5))]
        actors = [actors[index] for index in rng.permutation(len(actors))]
        streams = (self._stream(fps, diagonal, rng),) if rng.random() < config.streams else ()
        backdrop, view = _draw_view(photo, camera, height, width, rng)
        if rng.random() < config.plain:
            backdrop = _plain(backdrop, rng)
        return Stage(
            height=height,
            width=width,
            backdrop=backdrop,
            view=view,
            relief=draw_relief(rng),
            parallax=rng.uniform(0.15, 0.9) if rng.random() < config.parallax else 0.0,
            steps=steps,
            streams=streams,
            actors=tuple(actors),
        )

    def _speed(self, limits: tuple[float, float], rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(*np.log(limits))))

    def _pace(self, fps: float, rng: np.random.Generator) -> np.ndarray:
        kind = self.config.paces[rng.integers(len(self.config.paces))]
        return draw_pace(kind, self.config.frames - 1, 1 / fps, rng)

    def _camera_steps(self, kinds: Sequence[str], fps: float, rng: np.random.Generator) -> np.ndarray:
        """The steps [T-1 2 3] of a camera; a hand's tremble lies over some, also over one that stands still."""
        config = self.config
        diagonal = np.hypot(*config.size)
        count = config.frames - 1
        shift, growth, turn = np.zeros((count, 2)), np.zeros(count), np.zeros(count)
        for kind in kinds:
            along = self._speed(config.camera_speed, rng) / fps * self._pace(fps, rng)
            if kind == "pan":
                angle = rng.uniform(0, 6.2832) if rng.random() < 0.5 else rng.choice([0, 3.1416, 1.5708, 4.7124])
                angle = angle + rng.normal(0, 0.1)
                shift += diagonal * along[:, None] * np.array([np.cos(angle), np.sin(angle)])
            elif kind == "zoom":
                growth += 2 * along * rng.choice([-1, 1])
            elif kind == "roll":
                turn += 2 * along * rng.choice([-1, 1])
        if rng.random() < 0.3:
            hand = np.exp(rng.uniform(*np.log((0.002, 0.05)))) / fps
            for axis in range(2):
                shift[:, axis] += diagonal * hand * draw_pace("tremble", count, 1 / fps, rng)
            turn += 0.5 * hand * draw_pace("tremble", count, 1 / fps, rng)
        linear = rotation(turn) * np.exp(growth)[:, None, None]
        return np.concatenate([linear, shift[..., None]], -1)

    def _actor(
        self, backdrop: Photo, camera: Placement, fps: float, rng: np.random.Generator, *, followed: bool
    ) -> Actor:
        config = self.config
        height, width = config.size
        diagonal = float(np.hypot(height, width))
        radius = np.exp(rng.uniform(*np.log(config.actor_size))) * min(height, width)
        kinds = config.actors[rng.integers(len(config.actors))].split("+")
        own, bend, phase, waves = _draw_own_motion(
            kinds,
            lambda: self._speed(config.actor_speed, rng),
            lambda: self._pace(fps, rng),
            radius,
            diagonal,
            fps,
            rng,
        )
        if followed:  # it stays about where it is in the picture, and what it does there is little
            own[..., 2] *= rng.uniform(0, 0.15)
            placement = own
        else:
            placement = compose(camera, own)
        travel = placement[-1, :, 2] - placement[0, :, 2]
        frame = np.array([width, height])
        start = rng.uniform(-0.42, 0.42, 2) * frame - np.where(followed, 0, travel / 2)
        start = start if rng.random() < 0.8 else rng.uniform(-0.42, 0.42, 2) * frame
        own[..., 2] += start
        placement = own if followed else compose(camera, own)
        return self._patch(backdrop, placement, radius, bend, phase, waves, 0.0, rng, prop=False)

    def _prop(self, backdrop: Photo, camera: Placement, rng: np.random.Generator) -> Actor:
        config = self.config
        height, width = config.size
        radius = np.exp(rng.uniform(*np.log((0.08, 0.9)))) * min(height, width)
        aspect = np.exp(rng.uniform(-1.2, 1.2))
        linear = rotation(rng.uniform(-0.2, 0.2)) @ np.diag([radius / max(aspect, 1), radius * min(aspect, 1)])
        place = np.concatenate([linear, (rng.uniform(-0.7, 0.7, 2) * [width, height])[:, None]], -1)
        placement = compose(camera, np.broadcast_to(place, camera.shape))
        still = np.zeros(config.frames)
        return self._patch(
            backdrop, placement, radius, 0.0, still, np.zeros((2, 2)), rng.uniform(-0.3, 2.0), rng, prop=True
        )

    def _patch(
        self,
        backdrop: Photo,
        placement: Placement,
        radius: float,
        bend: float,
        phase: np.ndarray,
        waves: np.ndarray,
        depth: float,
        rng: np.random.Generator,
        *,
        prop: bool,
    ) -> Actor:
        photo = backdrop if rng.random() < 0.2 else self.photos[rng.integers(len(self.photos))]
        return Actor(
            outline=draw_blob(rng, rng.uniform(0, 0.35)),
            texture=_draw_texture(photo, radius, rng),
            placement=placement,
            depth=depth,
            bend=bend,
            bend_phase=phase,
            bend_waves=waves,
            gain=rng.uniform(0.5, 1.3),
            lift=rng.uniform(-40, 60),
            prop=prop,
        )

    def _stream(self, fps: float, diagonal: float, rng: np.random.Generator) -> Stream:
        """Water or leaves: carried along, rippling, or both."""
        speed = self._speed(self.config.actor_speed, rng) * 0.5
        steps = self.config.frames - 1
        angle = rng.uniform(0, 6.2832)
        drift, ripple, phase = np.zeros((steps + 1, 2)), 0.0, np.zeros(steps + 1)
        if rng.random() < 0.5:
            along = np.concatenate([[0], (speed / fps * diagonal * self._pace(fps, rng)).cumsum()])
            drift = along[:, None] * np.array([np.cos(angle), np.sin(angle)])
        else:
            turn = 6.2832 * rng.uniform(0.5, 2.0) / fps
            phase = rng.uniform(0, 6.2832) + turn * np.arange(steps + 1)
            ripple = min(speed / fps * diagonal / (turn * 0.8), 0.05 * diagonal)
        waves = 6.2832 / (rng.uniform(0.05, 0.3, (2, 1)) * diagonal) * _directions(rng)
        region = draw_blob(rng, 0.3)
        if rng.random() < 0.5:  # the lower part of the picture, where water is
            rows = (np.arange(MASK) + 0.5) / MASK
            shore = rng.uniform(0.4, 0.65) + 0.03 * np.sin(rng.uniform(3, 12) * rows[None, :])
            region = np.clip((rows[:, None] - shore) * 20, 0, 1).astype(np.float32)
        return Stream(region, drift, ripple, waves, phase)


def known_motion(scene: Stage, take: stage.Take, fps: float) -> dict[str, Any]:
    """The numbers of `TRUTH`."""
    diagonal = np.hypot(scene.height, scene.width)
    camera = float(stage.camera_speed(scene.steps, scene.height, scene.width).mean() * fps)
    own_speed = take.own_speed * (fps / diagonal)
    area = take.own_area
    enough = area.sum() > SMALLEST * area.size
    own = float((area * own_speed).sum() / area.sum()) if enough else 0.0
    shift = scene.steps[:, :, 2] / diagonal
    growth = np.sqrt(np.abs(np.linalg.det(scene.steps[:, :, :2]))) - 1
    turn = np.arctan2(scene.steps[:, 1, 0], scene.steps[:, 0, 0])
    moves = np.stack([np.abs(shift[:, 0]), np.abs(shift[:, 1]), np.abs(growth) / 2, np.abs(turn) / 2], -1)
    return {
        "object": np.float32(unit.score(own)),
        "camera": np.float32(unit.score(camera)),
        "object_speed": np.float32(own),
        "camera_speed": np.float32(camera),
        "moves": (moves.mean(0) * fps).astype(np.float32),
        "own_area": area.astype(np.float32),
        "own_speed": own_speed.astype(np.float32),
    }


SMALLEST = 0.0008
"""Share of the picture that must move by itself, on the mean over time, for the objects to have a speed at all."""


def _draw_own_motion(
    kinds: Sequence[str], speed: Any, pace: Any, radius: float, diagonal: float, fps: float, rng: np.random.Generator
) -> tuple[Placement, float, np.ndarray, np.ndarray]:
    """An actor's placement about the origin, and its wave: amplitude, phases [T], waves [2 2]."""
    steps = len(pace())
    offset, turn, growth = np.zeros((steps, 2)), np.zeros(steps), np.zeros(steps)
    bend, phase, waves = 0.0, np.zeros(steps + 1), _directions(rng) * rng.uniform(1.5, 5)
    for kind in kinds:
        along = speed() / fps * diagonal * pace()
        angle = rng.uniform(0, 6.2832) if rng.random() < 0.6 else rng.choice([0, 3.1416])
        if kind == "travel":
            offset += along[:, None] * np.array([np.cos(angle), np.sin(angle)])
        elif kind == "circle":
            angles = angle + np.arange(steps) * rng.uniform(0.2, 0.9)
            offset += along[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
        elif kind == "swing":
            turn += np.clip(along / (0.6 * radius), -0.5, 0.5) * np.cos(np.arange(steps) * 0.8)
            offset += along[:, None] * np.array([0.7, 0.0])
        elif kind == "turn":
            turn += np.clip(along / (0.6 * radius), -0.6, 0.6)
        elif kind == "grow":
            growth += np.clip(along / (0.6 * radius), -0.12, 0.12)
        elif kind == "bend":
            hertz = rng.uniform(0.5, 2.0)
            phase = rng.uniform(0, 6.2832) + 6.2832 * hertz / fps * np.arange(steps + 1)
            bend = min(np.abs(along).mean() / (0.8 * radius * 6.2832 * hertz / fps), 0.35)
    size = radius * np.exp(np.concatenate([[0], growth.cumsum()]))
    size = np.clip(size, 0.4 * radius, 2.2 * radius)
    angles = rng.uniform(-0.4, 0.4) + np.concatenate([[0], turn.cumsum()])
    linear = rotation(angles) * size[:, None, None]
    centre = np.concatenate([np.zeros((1, 2)), offset.cumsum(0)])
    return np.concatenate([linear, centre[..., None]], -1), float(bend), phase, waves


def _products(steps: np.ndarray) -> Placement:
    placement = np.broadcast_to(np.eye(2, 3), (len(steps) + 1, 2, 3)).copy()
    for t, step in enumerate(steps):
        placement[t + 1] = compose(step[None], placement[t : t + 1])[0]
    return placement


def _directions(rng: np.random.Generator) -> Float[np.ndarray, "2 2"]:
    angles = rng.uniform(0, 6.2832, 2)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _draw_view(
    photo: Photo, camera: Placement, height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A size of the photo in grey, sometimes out of focus, and the map to its pixels from the first frame."""
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * np.array([width, height]) / 2
    back = invert(camera)
    swept = (corners @ back[..., :2].swapaxes(-1, -2) + back[:, None, :, 2]).reshape(-1, 2)
    turn = rotation(rng.uniform(-0.15, 0.15)) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    swept = swept @ turn.T
    extent = np.maximum(np.ptp(swept, axis=0), 1)
    room = np.array([photo.width, photo.height], np.float64)
    largest = (room / [width, height]).min()
    scale = max(min(largest * rng.uniform(0.3, 1.0), (room / extent).min()), largest * 0.25)
    place = rng.random(2) * (room - scale * extent)
    level = photo.level_for(scale)
    shrink = np.array([level.shape[1] / photo.width, level.shape[0] / photo.height])
    view = np.concatenate([scale * turn, (place - scale * swept.min(0))[:, None]], -1) * shrink[:, None]
    grey = _grey(level, rng)
    if rng.random() < 0.2:
        grey = gaussian_filter(grey, np.exp(rng.uniform(0, 1.8)))
    return grey, view


def _plain(backdrop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Little of the picture is left, here and there; the rest is an even grey that changes slowly."""
    rows, columns = backdrop.shape
    left = rng.uniform(0.02, 0.15)
    spots = map_coordinates(
        draw_blob(rng, 0.4),
        np.meshgrid(np.linspace(0, MASK - 1, rows), np.linspace(0, MASK - 1, columns), indexing="ij"),
        np.float32,
        order=1,
    )
    share = left + (1 - left) * spots * (rng.random() < 0.6)
    slope = np.linspace(-1, 1, columns)[None, :] * rng.uniform(-50, 50) + rng.uniform(60, 200)
    return (backdrop * share + slope * (1 - share)).astype(np.float32)


def _draw_texture(photo: Photo, radius: float, rng: np.random.Generator) -> np.ndarray:
    """A square of the photo in grey, with about as many pixels as the actor has."""
    half = min(photo.width, photo.height) / 2
    reach = min(max(half * rng.uniform(0.15, 0.9), min(0.5 * radius, half)), half)
    level = photo.level_for(reach / radius)
    shrink = level.shape[1] / photo.width
    side = max(4, int(2 * reach * shrink))
    rows, columns = level.shape[:2]
    top, left = rng.integers(0, max(rows - side, 0) + 1), rng.integers(0, max(columns - side, 0) + 1)
    return _grey(level[top : top + side, left : left + side], rng)


def _grey(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the colours, or their mean, turned at random: another texture each time."""
    weights = rng.dirichlet(np.ones(3))
    grey = picture.astype(np.float32) @ weights.astype(np.float32)
    if rng.random() < 0.5:
        grey = grey[:, ::-1]
    mean, least = grey.mean(), rng.uniform(*CONTRAST)
    grey = np.clip((grey - mean) * max(1.0, least / (grey.std() + 1.0)) + mean, 0, 255)
    return np.ascontiguousarray(grey, np.float32)


def _check_words(field: str, given: Sequence[str], known: Collection[str]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown or not given:
        raise ValueError(f"{field} has {unknown or 'nothing'}; known are {', '.join(known)}.")
