"""Frames of a clip: every pixel is looked up backwards through the maps, several times, and averaged.

Pictures are sampled by OpenCV's bicubic warp at 2 x 2 points a pixel (3 x 3 in small frames), from a photograph that
was shrunk beforehand so that the points lie about a pixel of it apart. Beyond its edges a photograph is mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from benchmarks.physics.clip import Clip, Shot, Surface, Thing
from benchmarks.physics.effects import add_effects
from benchmarks.physics.paths import maps_at, put
from benchmarks.physics.photographs import Photograph

EXPOSURES = 6
"""Moments that are averaged where the shutter is open for some time."""
SMALL, LARGE = 200, 640
"""Widths below which there are 3 x 3 points a pixel, and above which there is one."""
WALL = 256
"""Pixels a side of a wall without pictures."""

Frames = UInt8[np.ndarray, "T H W 3"]


def render(clip: Clip, photographs: Mapping[str, Photograph]) -> Frames:
    """Draws all frames of a clip."""
    density = 3 if max(clip.width, clip.height) < SMALL else 1 if max(clip.width, clip.height) > LARGE else 2
    if clip.shutter:
        density = 1
    stages = [_Stage(shot, clip, photographs, density) for shot in clip.scenes]
    drawn: dict[tuple[int, float, float], Photograph] = {}
    keys = list(zip(clip.shot_of.tolist(), clip.times, clip.mix or (0.0,) * len(clip.times), strict=True))
    for key in keys:
        if key not in drawn:
            index, time, mix = key
            picture = stages[index].exposed(time, clip.shutter / clip.fps)
            if mix:
                picture = (1 - mix) * picture + mix * stages[index + 1].exposed(time, clip.shutter / clip.fps)
            drawn[key] = np.rint(picture).astype(np.uint8)
    return add_effects(np.stack([drawn[key] for key in keys]), clip)


class _Stage:
    """A shot with its textures at hand."""

    def __init__(self, shot: Shot, clip: Clip, photographs: Mapping[str, Photograph], density: int):
        self.shot, self.clip, self.density = shot, clip, density
        self.pixel = 1 / clip.diagonal
        growth = np.abs(np.linalg.det(maps_at(shot.camera, np.array(clip.times))[:, :2, :2])) ** 0.25
        finest = self.pixel / density / growth.mean() ** 2
        self.backdrop, self.to_backdrop = _texture(shot.backdrop, photographs, finest)
        self._background = lru_cache(maxsize=1)(self._draw_background)
        self.textures = [_texture(thing.surface, photographs, finest) for thing in shot.things]

    def exposed(self, time: float, seconds: float) -> Float[np.ndarray, "H W 3"]:
        """Returns the mean picture over the time in which the shutter is open, whose middle is `time`."""
        if not seconds:
            return self.picture(time)
        moments = time + seconds * ((np.arange(EXPOSURES) + 0.5) / EXPOSURES - 0.5)
        return np.mean([self.picture(moment) for moment in moments], axis=0)

    def picture(self, time: float) -> Float[np.ndarray, "H W 3"]:
        """Returns the picture at one moment."""
        clip, density = self.clip, self.density
        camera = maps_at(self.shot.camera, np.array([time]))[0]
        picture = self._background(camera.tobytes()).copy()
        for thing, (texture, to_texture) in zip(self.shot.things, self.textures, strict=True):
            self._draw(thing, texture, to_texture, camera @ thing.maps(np.array([time]))[0], picture)
        if density > 1:
            picture = cv2.resize(picture, (clip.width, clip.height), interpolation=cv2.INTER_AREA)
        return np.clip(picture, 0, 255)

    def _draw_background(self, camera: bytes) -> Float[np.ndarray, "h w 3"]:
        """Draws the backdrop at all points, as a camera of this map sees it."""
        size = (self.clip.width * self.density, self.clip.height * self.density)
        back = self.to_backdrop @ np.linalg.inv(np.frombuffer(camera).reshape(3, 3)) @ self._from_points((0, 0))
        how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(self.backdrop, back, size, flags=how, borderMode=cv2.BORDER_REFLECT).astype(
            np.float32
        )

    def _from_points(self, corner: tuple[int, int]) -> np.ndarray:
        """Returns the map from indices of points, counted from a corner, to diagonals from the middle of the frame."""
        size = self.pixel / self.density
        x = (corner[0] + 0.5) * size - self.clip.width * self.pixel / 2
        y = (corner[1] + 0.5) * size - self.clip.height * self.pixel / 2
        return np.array([[size, 0, x], [0, size, y], [0, 0, 1]])

    def _draw(
        self, thing: Thing, texture: Photograph, to_texture: np.ndarray, place: np.ndarray, picture: np.ndarray
    ) -> None:
        """Puts a thing into a picture, with an edge one point wide."""
        size = self.pixel / self.density
        tall, wide = picture.shape[:2]
        around = put(place, thing.reach * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1.0]]))
        at = around / size + np.array([wide, tall]) / 2
        (x0, y0), (x1, y1) = np.clip(np.stack([at.min(0) - 2, at.max(0) + 3]), 0, [wide, tall]).astype(int)
        if x0 >= x1 or y0 >= y1:
            return
        points = np.stack(np.meshgrid(np.arange(x1 - x0), np.arange(y1 - y0)), -1).reshape(-1, 2)
        own = put(np.linalg.inv(place) @ self._from_points((x0, y0)), points)
        points_in_radius = np.sqrt(np.abs(np.linalg.det(place[:2, :2]))) / size
        alpha = np.clip(thing.depth(*own.T) * points_in_radius + 0.5, 0, 1).reshape(y1 - y0, x1 - x0, 1)
        there = put(to_texture @ np.diag([thing.radius, thing.radius, 1.0]), own).astype(np.float32)
        colour = cv2.remap(
            texture,
            there[:, 0].reshape(alpha.shape[:2]),
            there[:, 1].reshape(alpha.shape[:2]),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )
        window = picture[y0:y1, x0:x1]
        window += alpha.astype(np.float32) * (colour - window)


def _texture(
    surface: Surface, photographs: Mapping[str, Photograph], finest: float
) -> tuple[Photograph, Float[np.ndarray, "3 3"]]:
    """Returns a picture and the map from diagonals in the plane to its pixels' indices.

    finest: distance of two points in the plane, diagonals.
    """
    plain = surface.kind != "photograph"
    picture = _wall(surface, photographs) if plain else photographs[surface.photograph]
    tall, wide = picture.shape[:2]
    scale = surface.span * min(tall, wide)  # pixels in a diagonal
    shrink = min(1.0, 1 / (scale * finest))
    if shrink < 0.9:
        size = (max(8, round(wide * shrink)), max(8, round(tall * shrink)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        across, down = size[0] / wide, size[1] / tall
    else:
        across = down = 1.0
    picture = np.clip(picture * np.float32(surface.gain) + np.float32(surface.lift), 0, 255).astype(np.uint8)
    cos, sin = np.cos(surface.turn) * scale, np.sin(surface.turn) * scale
    flip = -1.0 if surface.mirrored else 1.0
    middle = surface.place[0] * wide, surface.place[1] * tall
    to_photograph = np.array([[cos * flip, -sin, middle[0]], [sin * flip, cos, middle[1]], [0, 0, 1]])
    return picture, np.array([[across, 0, -0.5], [0, down, -0.5], [0, 0, 1]]) @ to_photograph


def _wall(surface: Surface, photographs: Mapping[str, Photograph]) -> Photograph:
    """Returns a wall whose colour changes slowly; a gallery has some pictures on it, of the photograph."""
    rng = np.random.default_rng(surface.seed)
    size = 4 * WALL if surface.kind == "gallery" else WALL
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    colour, change = rng.uniform(70, 190, 3), rng.uniform(-18, 18, (2, 3))
    wall = colour + change[0] * np.cos(np.pi * x)[..., None] + change[1] * np.cos(np.pi * y)[..., None]
    wall = np.clip(wall + rng.uniform(-0.5, 0.5, wall.shape), 0, 255).astype(np.uint8)
    if surface.kind == "gallery":
        photograph = photographs[surface.photograph]
        for _ in range(9):
            side = int(rng.uniform(0.05, 0.14) * size)
            top, left = rng.integers(0, size - 2 * side, 2)
            y0, x0 = (int(rng.uniform(0, extent - 1) * 0.5) for extent in photograph.shape[:2])
            part = photograph[y0 : y0 + 2 * side, x0 : x0 + 2 * side]
            wall[top : top + side, left : left + 2 * side] = cv2.resize(part, (2 * side, side))
    return wall
