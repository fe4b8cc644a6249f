"""Grey textures from photographs: backdrops under a moving camera, and patches for sprites."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from jaxmotion.video.geometry import Placement, invert, rotation
from jaxmotion.video.synthetic.layered_scene import MASK, draw_blob
from jaxmotion.video.synthetic.photos import Photo

CONTRAST = (14.0, 45.0)
"""Range from which the least standard deviation of grey levels (of 255) of a backdrop or sprite is drawn: motion of a
surface without texture cannot be seen.
"""


def draw_view(
    photo: Photo, camera: Placement, height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the photo in grey at a suitable size, sometimes out of focus, and the map to its pixels from frame 0."""
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


def flatten_backdrop(backdrop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blends most of a backdrop with an even, slowly changing grey, like a wall or a sky; spots of it may remain."""
    rows, columns = backdrop.shape
    least = rng.uniform(0.02, 0.15)
    spots = map_coordinates(
        draw_blob(rng, 0.4),
        np.meshgrid(np.linspace(0, MASK - 1, rows), np.linspace(0, MASK - 1, columns), indexing="ij"),
        np.float32,
        order=1,
    )
    share = least + (1 - least) * spots * (rng.random() < 0.6)
    slope = np.linspace(-1, 1, columns)[None, :] * rng.uniform(-50, 50) + rng.uniform(60, 200)
    return (backdrop * share + slope * (1 - share)).astype(np.float32)


def draw_texture(photo: Photo, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a square of the photo in grey, with about as many pixels as a sprite of that radius has."""
    half = min(photo.width, photo.height) / 2
    reach = min(max(half * rng.uniform(0.15, 0.9), min(0.5 * radius, half)), half)
    level = photo.level_for(reach / radius)
    shrink = level.shape[1] / photo.width
    side = max(4, int(2 * reach * shrink))
    rows, columns = level.shape[:2]
    top, left = rng.integers(0, max(rows - side, 0) + 1), rng.integers(0, max(columns - side, 0) + 1)
    return _grey(level[top : top + side, left : left + side], rng)


def _grey(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random mixture of the colours, mirrored at random: another texture each time. At least `CONTRAST`."""
    weights = rng.dirichlet(np.ones(3))
    grey = picture.astype(np.float32) @ weights.astype(np.float32)
    if rng.random() < 0.5:
        grey = grey[:, ::-1]
    mean, least = grey.mean(), rng.uniform(*CONTRAST)
    grey = np.clip((grey - mean) * max(1.0, least / (grey.std() + 1.0)) + mean, 0, 255)
    return np.ascontiguousarray(grey, np.float32)
