"""Cluttered scenes with known motion: hard to read, for training and testing motion estimators.

A cluttered scene shows what misleads estimators on real clips: parallax, subjects that the camera follows, subjects
that fill the picture, small fast things, water, still things close by, blur, noise, compression, changing light,
logos. Clips are grey, drawn from photographs, and a function of (seed, split, index).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, VIDEO
from jaxmotion.foundation.example import Example, Value
from jaxmotion.video import motion_scale
from jaxmotion.video.geometry import Placement, compose, rotation
from jaxmotion.video.synthetic import layered_scene
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.degradations import DEGRADATIONS, degrade
from jaxmotion.video.synthetic.layered_scene import (
    CELL,
    MASK,
    FlowRegion,
    LayeredScene,
    Rendering,
    Sprite,
    accumulate,
    draw_blob,
    draw_relief,
)
from jaxmotion.video.synthetic.photos import SKIMAGE_PHOTOS, Photo, read_photos
from jaxmotion.video.synthetic.speed_profiles import SPEED_PROFILES, draw_speed_profile
from jaxmotion.video.synthetic.textures import draw_texture, draw_view, flatten_backdrop

SPLITS = ("train", "held_out")
CAMERA_MOTIONS = ("static", "pan", "zoom", "roll", "pan+zoom", "pan+roll", "follow")
SPRITE_MOTIONS = ("travel", "turn", "grow", "bend", "travel+turn", "travel+bend", "circle", "swing")
FOLLOWED = (("pan",), ("pan",), ("zoom",), ("pan", "zoom"))
"""How a camera moves that follows a sprite, beside it or before it."""
GROUND_TRUTH = (OBJECT, CAMERA, "object_speed", "camera_speed", "moves", "own_area", "own_speed")
"""The labels of every clip.

object, camera: float, scores 1..10 (`jaxmotion.video.motion_scale`) of the speeds.
object_speed, camera_speed: float, diagonals per second.
moves [4]: what a pan, a tilt, a zoom and a roll alone do to the corners, diagonals per second, mean over time.
own_area, own_speed [T-1 H/8 W/8]: share of a cell that moves by itself, and its speed in diagonals per second.
"""


@dataclasses.dataclass(frozen=True)
class SceneDistribution:
    """Distribution that scenes are drawn from. A tuple of kinds is drawn from evenly; repeat a kind to weight it."""

    photos: str = SKIMAGE_PHOTOS
    """`skimage` for the photographs in the scikit-image wheel, or a folder of images."""
    split: Literal["train", "held_out"] = "train"
    """The two splits never show the same photo."""
    held_out: tuple[str, ...] = ()
    """Names, without suffix, of the photos of the second split; empty for the usual ones."""
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
    """What cameras do: static, pan, zoom, roll, two of them, or follow a sprite."""
    camera_speed: tuple[float, float] = (0.003, 1.0)
    """Range of a camera's speed, in diagonals per second, drawn evenly by logarithm."""
    sprites: tuple[str, ...] = ("travel", "travel", "travel+turn", "turn", "grow", "bend", "travel+bend")
    """What sprites do."""
    sprite_counts: tuple[int, ...] = (0, 0, 1, 1, 1, 2, 3)
    """How many sprites a clip has."""
    sprite_speed: tuple[float, float] = (0.004, 1.0)
    """Range of a sprite's speed, in diagonals per second, drawn evenly by logarithm."""
    sprite_size: tuple[float, float] = (0.05, 1.1)
    """Range of a sprite's radius, as a share of the shorter side, drawn evenly by logarithm."""
    speed_profiles: tuple[str, ...] = ("even", "even", "ramp", "sway", "late", "tremble")
    """How speeds run over time."""
    flow_regions: float = 0.15
    """Share of clips in which a region of the backdrop flows or ripples."""
    static_sprites: float = 0.35
    """Share of clips with still things before the backdrop."""
    plain: float = 0.2
    """Share of clips whose backdrop shows little, like a wall or a sky."""
    parallax: float = 0.6
    """Share of clips in which the camera travels, so that near things pass faster than far ones."""
    degradations: tuple[str, ...] = tuple(DEGRADATIONS)
    """What may happen to the pictures on their way; each to about one clip in four."""
    seed: int = 0
    """Another seed, other clips."""

    def __post_init__(self) -> None:
        _check_words("camera", [part for kind in self.camera for part in kind.split("+")], CAMERA_MOTIONS)
        _check_words("sprites", self.sprites, SPRITE_MOTIONS)
        _check_words("speed_profiles", self.speed_profiles, SPEED_PROFILES)
        _check_words("degradations", self.degradations or tuple(DEGRADATIONS), DEGRADATIONS)
        _check_words("split", (self.split,), SPLITS)
        if self.frames < 2 or min(self.size) < 32 or any(side % CELL for side in self.size):
            raise ValueError(
                f"frames={self.frames}, size={self.size}: at least 2 frames, and sides"
                f" of 32 pixels or more that are multiples of {CELL}."
            )
        for name in ("camera_speed", "sprite_speed", "sprite_size"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); it must be a range from small to large, above 0.")
        if not self.fps > 0 or not self.fps_spread >= 1:
            raise ValueError(f"fps={self.fps}, fps_spread={self.fps_spread}: above 0, and at least 1.")
        if not self.sprite_counts or min(self.sprite_counts) < 0:
            raise ValueError(f"sprite_counts is {self.sprite_counts}; it must hold one number or more, none below 0.")

    def sampler(self) -> SceneSampler:
        """Reads the photos of this split.

        Raises:
            ValueError: there are none, or they cannot be read.
        """
        return SceneSampler(self, read_photos(self.photos, self.held_out, self.split, 3 * max(self.size)).photos)


class SceneSampler:
    """Draws and renders the clips of a distribution."""

    def __init__(self, distribution: SceneDistribution, photos: Sequence[Photo]):
        self.distribution = distribution
        self.photos = photos

    def clips(self, count: int) -> Iterator[Example]:
        """Renders the first clips."""
        return (self.clip(index) for index in range(count))

    def clip(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Renders a clip: `video` uint8 [T H W 3] (grey), an empty `caption`, `fps`, `id`, and `GROUND_TRUTH`.

        The same index always gives the same clip, or, with a generator, another one for every state of that.
        """
        config = self.distribution
        again = [] if rng is None else [int(rng.integers(2**32))]
        rng = np.random.default_rng([config.seed, SPLITS.index(config.split), index, *again])
        fps = config.fps * config.fps_spread ** rng.uniform(-1, 1)
        scene = self.scene(fps, rng)
        rendering = layered_scene.render(scene)
        pictures = degrade(rendering.pictures, config.degradations, rng)
        video = np.repeat(pictures[..., None], 3, -1)
        truth = ground_truth(scene, rendering, fps)
        return {VIDEO: video, FPS: np.float32(fps), CAPTION: "", "id": f"cluttered/{index}", **truth}

    def scene(self, fps: float, rng: np.random.Generator) -> LayeredScene:
        """Draws the scene of a clip at that frame rate; nothing is rendered yet."""
        config = self.distribution
        height, width = config.size
        diagonal = float(np.hypot(height, width))
        kind = config.camera[rng.integers(len(config.camera))]
        ways = FOLLOWED[rng.integers(len(FOLLOWED))] if kind == "follow" else tuple(kind.split("+"))
        steps = self._camera_steps(ways, fps, rng)
        camera = accumulate(steps)
        photo = self.photos[int(rng.integers(len(self.photos)))]
        count = config.sprite_counts[rng.integers(len(config.sprite_counts))]
        followed = int(kind == "follow")
        sprites = [
            self._sprite(photo, camera, fps, rng, followed=index < followed) for index in range(max(count, followed))
        ]
        if rng.random() < config.static_sprites:
            sprites += [self._static_sprite(photo, camera, rng) for _ in range(rng.integers(1, 5))]
        sprites = [sprites[index] for index in rng.permutation(len(sprites))]
        flow_regions = (self._flow_region(fps, diagonal, rng),) if rng.random() < config.flow_regions else ()
        backdrop, view = draw_view(photo, camera, height, width, rng)
        if rng.random() < config.plain:
            backdrop = flatten_backdrop(backdrop, rng)
        return LayeredScene(
            height=height,
            width=width,
            backdrop=backdrop,
            view=view,
            relief=draw_relief(rng),
            parallax=rng.uniform(0.15, 0.9) if rng.random() < config.parallax else 0.0,
            steps=steps,
            flow_regions=flow_regions,
            sprites=tuple(sprites),
        )

    def _speed(self, limits: tuple[float, float], rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(*np.log(limits))))

    def _speed_profile(self, fps: float, rng: np.random.Generator) -> np.ndarray:
        kind = self.distribution.speed_profiles[rng.integers(len(self.distribution.speed_profiles))]
        return draw_speed_profile(kind, self.distribution.frames - 1, 1 / fps, rng)

    def _camera_steps(self, kinds: Sequence[str], fps: float, rng: np.random.Generator) -> np.ndarray:
        """The steps [T-1 2 3] of a camera; a hand's tremble lies over some, also over one that stands still."""
        config = self.distribution
        diagonal = np.hypot(*config.size)
        count = config.frames - 1
        shift, growth, turn = np.zeros((count, 2)), np.zeros(count), np.zeros(count)
        for kind in kinds:
            along = self._speed(config.camera_speed, rng) / fps * self._speed_profile(fps, rng)
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
                shift[:, axis] += diagonal * hand * draw_speed_profile("tremble", count, 1 / fps, rng)
            turn += 0.5 * hand * draw_speed_profile("tremble", count, 1 / fps, rng)
        linear = rotation(turn) * np.exp(growth)[:, None, None]
        return np.concatenate([linear, shift[..., None]], -1)

    def _sprite(
        self, backdrop: Photo, camera: Placement, fps: float, rng: np.random.Generator, *, followed: bool
    ) -> Sprite:
        config = self.distribution
        height, width = config.size
        diagonal = float(np.hypot(height, width))
        radius = np.exp(rng.uniform(*np.log(config.sprite_size))) * min(height, width)
        kinds = config.sprites[rng.integers(len(config.sprites))].split("+")
        own, bend, phase, waves = _draw_own_motion(
            kinds,
            lambda: self._speed(config.sprite_speed, rng),
            lambda: self._speed_profile(fps, rng),
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
        return self._patch(backdrop, placement, radius, bend, phase, waves, 0.0, rng, static=False)

    def _static_sprite(self, backdrop: Photo, camera: Placement, rng: np.random.Generator) -> Sprite:
        config = self.distribution
        height, width = config.size
        radius = np.exp(rng.uniform(*np.log((0.08, 0.9)))) * min(height, width)
        aspect = np.exp(rng.uniform(-1.2, 1.2))
        linear = rotation(rng.uniform(-0.2, 0.2)) @ np.diag([radius / max(aspect, 1), radius * min(aspect, 1)])
        place = np.concatenate([linear, (rng.uniform(-0.7, 0.7, 2) * [width, height])[:, None]], -1)
        placement = compose(camera, np.broadcast_to(place, camera.shape))
        still = np.zeros(config.frames)
        return self._patch(
            backdrop, placement, radius, 0.0, still, np.zeros((2, 2)), rng.uniform(-0.3, 2.0), rng, static=True
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
        static: bool,
    ) -> Sprite:
        photo = backdrop if rng.random() < 0.2 else self.photos[int(rng.integers(len(self.photos)))]
        return Sprite(
            outline=draw_blob(rng, rng.uniform(0, 0.35)),
            texture=draw_texture(photo, radius, rng),
            placement=placement,
            depth=depth,
            bend=bend,
            bend_phase=phase,
            bend_waves=waves,
            gain=rng.uniform(0.5, 1.3),
            lift=rng.uniform(-40, 60),
            static=static,
        )

    def _flow_region(self, fps: float, diagonal: float, rng: np.random.Generator) -> FlowRegion:
        """Water or leaves: carried along, rippling, or both."""
        speed = self._speed(self.distribution.sprite_speed, rng) * 0.5
        steps = self.distribution.frames - 1
        angle = rng.uniform(0, 6.2832)
        drift, ripple, phase = np.zeros((steps + 1, 2)), 0.0, np.zeros(steps + 1)
        if rng.random() < 0.5:
            along = np.concatenate([[0], (speed / fps * diagonal * self._speed_profile(fps, rng)).cumsum()])
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
        return FlowRegion(region, drift, ripple, waves, phase)


def ground_truth(scene: LayeredScene, rendering: Rendering, fps: float) -> dict[str, Value]:
    """Returns the numbers of `GROUND_TRUTH` for a rendered scene."""
    diagonal = np.hypot(scene.height, scene.width)
    camera = float(layered_scene.camera_speed(scene.steps, scene.height, scene.width).mean() * fps)
    own_speed = rendering.own_speed * (fps / diagonal)
    area = rendering.own_area
    enough = area.sum() > SMALLEST * area.size
    own = float((area * own_speed).sum() / area.sum()) if enough else 0.0
    shift = scene.steps[:, :, 2] / diagonal
    growth = np.sqrt(np.abs(np.linalg.det(scene.steps[:, :, :2]))) - 1
    turn = np.arctan2(scene.steps[:, 1, 0], scene.steps[:, 0, 0])
    moves = np.stack([np.abs(shift[:, 0]), np.abs(shift[:, 1]), np.abs(growth) / 2, np.abs(turn) / 2], -1)
    return {
        OBJECT: np.float32(motion_scale.score(own)),
        CAMERA: np.float32(motion_scale.score(camera)),
        "object_speed": np.float32(own),
        "camera_speed": np.float32(camera),
        "moves": (moves.mean(0) * fps).astype(np.float32),
        "own_area": area.astype(np.float32),
        "own_speed": own_speed.astype(np.float32),
    }


SMALLEST = 0.0008
"""Share of the picture that must move by itself, on the mean over time, for the objects to have a speed at all."""


def _draw_own_motion(
    kinds: Sequence[str],
    speed: Callable[[], float],
    profile: Callable[[], np.ndarray],
    radius: float,
    diagonal: float,
    fps: float,
    rng: np.random.Generator,
) -> tuple[Placement, float, np.ndarray, np.ndarray]:
    """Draws a sprite's placement about the origin, and its wave: amplitude, phases [T], waves [2 2]."""
    steps = len(profile())
    offset, turn, growth = np.zeros((steps, 2)), np.zeros(steps), np.zeros(steps)
    bend, phase, waves = 0.0, np.zeros(steps + 1), _directions(rng) * rng.uniform(1.5, 5)
    for kind in kinds:
        along = speed() / fps * diagonal * profile()
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


def _directions(rng: np.random.Generator) -> Float[np.ndarray, "2 2"]:
    angles = rng.uniform(0, 6.2832, 2)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _check_words(field: str, given: Sequence[str], known: Collection[str]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown or not given:
        raise ValueError(f"{field} has {unknown or 'nothing'}; known are {', '.join(known)}.")
