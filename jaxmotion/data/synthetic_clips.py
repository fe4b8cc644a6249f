"""Clips with known motion, made on the fly from real photographs.

A clip is a view of a photograph under a camera that pans, zooms, rolls, shakes or stands still, with up to a few
cut-outs of other photographs that move, turn, grow or wobble before it. Every clip is a function of (seed, split,
index) and, if one is given, of a random generator; `video.synthetic.scene` and `video.geometry` define the numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmotion.data.source import DataConfig, DataSource, Example
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, VIDEO
from jaxmotion.foundation.example import Value
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.geometry import (
    CAMERA_WAYS,
    COMPASS,
    OBJECT_WAYS,
    Placement,
    add_shake,
    apply,
    camera_step,
    invert,
    steady_camera,
)
from jaxmotion.video.synthetic.captions import CAPTION, amount_word, describe_motion
from jaxmotion.video.synthetic.cutouts import SHAPES, Cutout, draw_cutout, draw_motion, move_to
from jaxmotion.video.synthetic.photos import SKIMAGE_PHOTOS, PhotoSplit, photos_digest, read_photos
from jaxmotion.video.synthetic.scene import Scene, dense_flow, draw_tint, draw_tracks, draw_view, render, visible_boxes

SPLITS = ("train", "held_out")
MAY_BE_EMPTY = ("directions", "caption", "ground_truth")
EDGE = 0.15
"""An object starts, and where it can also ends, at least this share of the frame away from the edges."""


@register("Synthetic", fields={"truth": "ground_truth"})
@dataclasses.dataclass(frozen=True)
class SyntheticClips(DataConfig):
    """Synthetic clips with known motion. A tuple of kinds is drawn from evenly; repeat a kind to see it more often."""

    photos: str = SKIMAGE_PHOTOS
    """`skimage` for the photographs in the scikit-image wheel, or a folder of images."""
    split: Literal["train", "held_out"] = "train"
    """The two splits never show the same photo, neither as background nor as object."""
    held_out: tuple[str, ...] = ()
    """Names, without suffix, of the photos of the second split; empty for the usual ones."""
    clips: int = 10_000
    """How many clips make one epoch."""
    frames: int = 16
    """Length of a clip."""
    fps: float = 8.0
    """Frames per second."""
    size: tuple[int, int] = (256, 256)
    """(height, width)."""
    camera: tuple[str, ...] = ("static", "pan", "pan", "zoom", "zoom", "roll", "shake", "pan+zoom", "pan+shake")
    """What cameras do: static, pan, zoom, roll, shake; `pan+zoom` does both."""
    camera_speed: tuple[float, float] = (0.005, 0.5)
    """Range of a camera's speed, in diagonals per second."""
    object_counts: tuple[int, ...] = (0, 1, 1, 2)
    """How many objects a clip has."""
    objects: tuple[str, ...] = ("translate", "translate", "rotate", "scale", "wobble", "still", "translate+rotate")
    """What objects do: still, translate, rotate, scale, wobble; `translate+rotate` does both."""
    object_speed: tuple[float, float] = (0.005, 0.5)
    """Range of an object's speed, in diagonals per second."""
    object_size: tuple[float, float] = (0.15, 0.32)
    """Range of an object's radius, as a share of the shorter side."""
    object_place: tuple[float, float] | None = None
    """Range of the place where an object's middle starts, as a share of the width and of the height. None: where the
    object stays in the frame while it moves; fast objects then start nearer to the edge that they come from."""
    shapes: tuple[str, ...] = SHAPES
    """Outlines of objects."""
    directions: tuple[str, ...] = ()
    """Where things may go: left, right, up, down, "up and to the left", ..., in, out, clockwise, counterclockwise,
    grows, shrinks. A kind of motion none of whose directions is listed may go anywhere."""
    direction_spread: float = 15.0
    """Degrees by which a direction may differ from its name, to either side."""
    speed_law: Literal["log", "uniform"] = "log"
    """`log` draws the logarithm of a speed evenly from its range, `uniform` the speed itself."""
    view: tuple[float, float] = (0.35, 1.0)
    """Range of the share of the photo that the frame covers, where 1 is as much as fits."""
    tint: float = 0.35
    """Strength of the random colour change, 0 for none."""
    caption: tuple[Literal["scene", "motion", "amount"], ...] = ("motion",)
    """What captions hold: what the photo shows, what moves and where to, how fast (slowly, fast)."""
    ground_truth: tuple[str, ...] = ("camera_speed", "object_speed", OBJECT, CAMERA)
    """Which ground truth comes with a clip, see `GROUND_TRUTHS`."""
    seed: int = 0
    """Another seed, other clips."""

    def __post_init__(self) -> None:
        _check_words("camera", [part for kind in self.camera for part in kind.split("+")], CAMERA_WAYS)
        _check_words("objects", [part for kind in self.objects for part in kind.split("+")], OBJECT_WAYS)
        ways = [way for table in (CAMERA_WAYS, OBJECT_WAYS) for kind in table.values() for way in kind if way]
        _check_words("directions", self.directions, ways)
        _check_words("shapes", self.shapes, SHAPES)
        _check_words("caption", self.caption, ("motion", "amount", "scene"))
        _check_words("ground_truth", self.ground_truth, GROUND_TRUTHS)
        _check_words("split", (self.split,), SPLITS)
        _check_words("speed_law", (self.speed_law,), ("log", "uniform"))
        for name in ("camera_speed", "object_speed"):
            low, high = getattr(self, name)
            if not (0 <= low <= high < self.fps / 4) or (low == 0 and self.speed_law == "log"):
                raise ValueError(
                    f"{name} is ({low}, {high}) diagonals per second; it must be a range from small to large, below"
                    f" {self.fps / 4} at {self.fps} frames per second, and above 0 under the speed law 'log'."
                )
        if self.object_place is not None and not 0 <= self.object_place[0] <= self.object_place[1] <= 1:
            raise ValueError(
                f"object_place is {self.object_place}; it must be a range of shares, from 0 to 1, or None."
            )
        if not self.object_counts or min(self.object_counts) < 0:
            raise ValueError(f"object_counts is {self.object_counts}; it must hold one number or more, none below 0.")
        if self.frames < 1 or self.clips < 1 or min(self.size) < 8:
            raise ValueError(f"frames={self.frames}, clips={self.clips}, size={self.size}: at least 1, 1 and 8 pixels.")

    def open(self, report: Path | None = None) -> DataSource:
        """Reads the photos; there are no broken clips to report."""
        del report
        return SyntheticClipsSource(self, read_photos(self.photos, self.held_out, self.split, 4 * max(128, *self.size)))

    def held_out_examples(self, count: int, entries: Sequence[str]) -> list[Example] | None:
        """Returns clips of the photos that training never shows; None if `entries` holds no ground truth of theirs."""
        if not set(entries) <= set(GROUND_TRUTHS):
            return None
        source = dataclasses.replace(self, split="held_out", ground_truth=tuple(entries)).open()
        return [source.example(index) for index in range(count)]


class SyntheticClipsSource(DataSource):
    """The clips of a `SyntheticClips` config."""

    config: SyntheticClips

    def __init__(self, config: SyntheticClips, split: PhotoSplit):
        super().__init__(config)
        self.photos = split.photos
        self.other_photos = split.others
        self.optional_entries = config.ground_truth

    def __len__(self) -> int:
        return self.config.clips

    def fingerprint(self) -> str:
        return photos_digest(self.photos)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Renders a clip: `video` uint8 [T H W 3], `caption`, `fps`, `id`, and the ground truth that the config names.

        The same index always gives the same clip, or, with a generator, another one for every state of that.
        """
        config = self.config
        again = [] if rng is None else [int(rng.integers(2**32))]
        rng = np.random.default_rng([config.seed, SPLITS.index(config.split), index, *again])
        scene = self.draw(rng)
        video, masks = render(scene)
        drawn = RenderedScene(scene, masks, max(config.object_counts), rng)
        example: Example = {VIDEO: video, FPS: np.float32(config.fps), "id": f"synthetic/{index}"}
        example[CAPTION] = self._caption(scene)
        for name in config.ground_truth:
            example[name] = GROUND_TRUTHS[name](drawn)
        return example

    def draw(self, rng: np.random.Generator) -> Scene:
        """The scene of a clip, before anything is rendered."""
        config = self.config
        height, width = config.size
        camera, camera_moves = self._draw_camera(rng)
        photo = self.photos[rng.integers(len(self.photos))]
        view, level = draw_view(photo, camera, height, width, config.view, rng)
        count = config.object_counts[rng.integers(len(config.object_counts))]
        cutouts = tuple(self._draw_object(camera, photo.name, rng) for _ in range(count))
        tints = tuple(draw_tint(config.tint, rng) for _ in range(count + 1))
        return Scene(height, width, config.frames, config.fps, photo, view, level, camera, camera_moves, cutouts, tints)

    def _draw_camera(self, rng: np.random.Generator) -> tuple[Placement, tuple[tuple[str, str], ...]]:
        config = self.config
        height, width = config.size
        kinds = config.camera[rng.integers(len(config.camera))].split("+")
        moves, steps, rms = [], [], 0.0
        for kind in kinds:
            ways = [way for way in CAMERA_WAYS[kind] if way in config.directions] or list(CAMERA_WAYS[kind])
            way = ways[rng.integers(len(ways))]
            speed = self._draw_speed(config.camera_speed, rng)
            angle = np.radians(COMPASS.get(way, 0.0) + rng.uniform(-1, 1) * config.direction_spread)
            if kind == "shake":
                rms = speed
            elif kind != "static":
                steps.append(camera_step(kind, way, angle, speed, config.fps, height, width))
            if kind != "static":
                moves.append((kind, way))
        camera = steady_camera(steps, config.frames)
        return add_shake(camera, rms, config.fps, height, width, rng), tuple(moves)

    def _draw_object(self, camera: Placement, background: str, rng: np.random.Generator) -> Cutout:
        config = self.config
        height, width = config.size
        others = [photo for photo in self.photos if photo.name != background] or list(self.photos)
        photo = others[rng.integers(len(others))]
        shape = config.shapes[rng.integers(len(config.shapes))]
        radius = rng.uniform(*config.object_size) * min(height, width)
        motions = tuple(
            draw_motion(
                kind, config.directions, self._draw_speed(config.object_speed, rng), config.direction_spread, rng
            )
            for kind in config.objects[rng.integers(len(config.objects))].split("+")
        )
        diagonal = float(np.hypot(height, width))
        cutout = draw_cutout(photo, shape, radius, motions, config.frames, config.fps, diagonal, rng)
        frame = np.array([width, height], np.float64)
        if config.object_place is None:
            path = apply(camera, (cutout.placement[:, :, 2] + frame / 2)[:, None])[:, 0]
            start = _start(path, frame, rng)
        else:
            start = rng.uniform(*config.object_place, 2) * frame
        return move_to(cutout, invert(camera[:1])[0] @ [*start, 1.0])

    def _draw_speed(self, limits: tuple[float, float], rng: np.random.Generator) -> float:
        if self.config.speed_law == "uniform":
            return float(rng.uniform(*limits))
        return float(np.exp(rng.uniform(*np.log(limits))))

    def _caption(self, scene: Scene) -> str:
        parts = []
        if "scene" in self.config.caption:
            parts.append(f"{scene.photo.noun}:")
        if "motion" in self.config.caption:
            parts.append(describe_motion(scene.camera_moves, scene.cutouts))
        if "amount" in self.config.caption:
            parts.append(amount_word(max(scene.camera_speeds()[0], *scene.object_speeds(), 0.0)))
        return " ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class RenderedScene:
    """A scene and its rendering, from which the ground truth is taken."""

    scene: Scene
    masks: np.ndarray
    most_objects: int
    rng: np.random.Generator

    @functools.cached_property
    def tracks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points that stay on the background or an object; see `scene.draw_tracks`."""
        return draw_tracks(self.scene, self.most_objects, self.rng)

    def per_object(self, values: np.ndarray) -> np.ndarray:
        """The values of the objects that are there, followed by zeros for those that are not."""
        absent = self.most_objects - len(values)
        return np.pad(values, ((0, absent), *((0, 0),) * (values.ndim - 1)))


def _mean_object_speed(drawn: RenderedScene) -> np.float32:
    speeds = drawn.scene.object_speeds()
    return np.float32(speeds.mean() if len(speeds) else 0.0)


GROUND_TRUTHS: Mapping[str, Callable[[RenderedScene], Value]] = {
    "camera_speed": lambda drawn: np.float32(drawn.scene.camera_speeds()[0]),
    "camera_rms": lambda drawn: np.float32(drawn.scene.camera_speeds()[1]),
    "camera_path": lambda drawn: drawn.scene.camera.astype(np.float32),
    "object_speed": _mean_object_speed,
    OBJECT: lambda drawn: np.float32(unit.score(float(_mean_object_speed(drawn)))),
    CAMERA: lambda drawn: np.float32(unit.score(float(drawn.scene.camera_speeds()[0]))),
    "object_speeds": lambda drawn: drawn.per_object(drawn.scene.object_speeds().astype(np.float32)),
    "masks": lambda drawn: drawn.per_object(drawn.masks),
    "boxes": lambda drawn: drawn.per_object(visible_boxes(drawn.masks)),
    "labels": lambda drawn: [cutout.name for cutout in drawn.scene.cutouts],
    "tracks": lambda drawn: drawn.tracks[0],
    "track_visible": lambda drawn: drawn.tracks[1],
    "track_owner": lambda drawn: drawn.tracks[2],
    "flow": lambda drawn: dense_flow(drawn.scene, drawn.masks),
}
"""Ground truth by name. N is the largest of `object_counts`; where fewer objects are there, zeros follow.

camera_speed, object_speed: float, diagonals per second; the second is the mean over objects, 0 without any.
camera_rms: float; as camera_speed with the root of the mean square in place of the mean.
object, camera: float, scores 1..10 of these speeds (`jaxmotion.video.motion_scale`).
camera_path [T 2 3]: takes a point of the first frame (x y in pixels) to its place in frame t.
object_speeds [N]; masks [N T H W]; boxes [N T 4] of the visible part; labels: a list of as many names as objects.
tracks [K T 2] (x y in [0, 1]), track_visible [K T], track_owner [K]: see `scene.draw_tracks`.
flow [T-1 H W 2]: pixels that what a pixel shows moves until the next frame.
"""


def _start(path: np.ndarray, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place in the first frame from which the middle of an object that moves like `path` stays in the frame.

    When no such place is there, the one near the edge it comes from.
    """
    travel = (path[-1] - path[0]) / frame
    low, high = np.maximum(EDGE, EDGE - travel), np.minimum(1 - EDGE, 1 - EDGE - travel)
    side = np.where(travel > 0, EDGE, 1 - EDGE)
    low, high = np.where(low <= high, low, side), np.where(low <= high, high, side)
    return rng.uniform(low, high) * frame


def _check_words(field: str, given: Sequence[str], known: Collection[str]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown or (not given and field not in MAY_BE_EMPTY):
        raise ValueError(f"{field} has {unknown or 'nothing'}; known are {', '.join(known)}.")
