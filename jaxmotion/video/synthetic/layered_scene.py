"""Layered scenes: a backdrop with relief and sprites before a moving camera, rendered frame by frame in grey.

Positions are pixels of the frame with the origin in its middle, x to the right and y down. A *step* [2 3] takes a point
of the backdrop from its place in one frame to that in the next; the frame-by-frame products of the steps are the
camera's placement. The relief makes near parts of the backdrop move more, and far parts less, than the steps say when
the camera travels instead of turning (parallax); its mean is nothing, so the steps stay the backdrop's mean motion.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from jaxmotion.video.geometry import Placement, apply, compose, invert
from jaxmotion.video.opencv import opencv

COARSE = 4
"""The relief and what flows on the backdrop are computed at one in so many pixels, and are smooth at that scale."""
MASK = 48
"""Pixels a side of a sprite's outline, which spans -1..1 in its own coordinates."""


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A patch of a photograph before the backdrop.

    `placement` takes its own coordinates (-1..1) to the frame, without parallax. `bend` is a wave inside it that moves
    its points by `bend` (own coordinates) times a sine; `depth` is its relief. A `static` sprite belongs to the scene:
    it moves with the backdrop, and its motion is none of its own.
    """

    outline: Float[np.ndarray, "M M"]
    texture: UInt8[np.ndarray, "a b"]
    placement: Placement
    depth: float
    bend: float
    bend_phase: Float[np.ndarray, " T"]
    bend_waves: Float[np.ndarray, "2 2"]
    gain: float
    lift: float
    static: bool


@dataclasses.dataclass(frozen=True)
class FlowRegion:
    """A region of the backdrop whose surface moves within it: water, smoke, leaves.

    `drift` [T 2] carries the texture along, `ripple` (pixels) sways it by waves of `waves` [2 2] (radians a pixel) and
    `phase` [T].
    """

    region: Float[np.ndarray, "M M"]
    drift: Float[np.ndarray, "T 2"]
    ripple: float
    waves: Float[np.ndarray, "2 2"]
    phase: Float[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True)
class LayeredScene:
    """A backdrop, its relief, its flow regions, the camera, and the sprites from far to near."""

    height: int
    width: int
    backdrop: UInt8[np.ndarray, "a b"]
    view: Float[np.ndarray, "2 3"]
    """From the frame of the first moment to pixels (x, y) of the backdrop."""
    relief: Float[np.ndarray, "M M"]
    parallax: float
    steps: Float[np.ndarray, "T-1 2 3"]
    flow_regions: tuple[FlowRegion, ...]
    sprites: tuple[Sprite, ...]

    @property
    def camera(self) -> Placement:
        """Takes a point of the first frame's backdrop to its place in frame t, without parallax."""
        return accumulate(self.steps)

    @property
    def travel(self) -> Float[np.ndarray, "T 3"]:
        """Returns the camera's travel sideways (x, y pixels) and ahead (share of the size), which parallax scales."""
        growth = np.sqrt(np.abs(np.linalg.det(self.steps[:, :, :2]))) - 1
        moved = np.concatenate([self.steps[:, :, 2], growth[:, None]], -1)
        return np.concatenate([np.zeros((1, 3)), moved.cumsum(0)])


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Rendered frames of a scene and the motion in them.

    own_area, own_speed: [T-1 h w] for cells of 8 x 8 pixels: the share of a cell that moves by itself, and how far it
    goes until the next frame, in pixels, mean over that share.
    """

    pictures: Float[np.ndarray, "T H W"]
    own_area: Float[np.ndarray, "T-1 h w"]
    own_speed: Float[np.ndarray, "T-1 h w"]


CELL = 8
"""Pixels a side of the cells in which own motion is added up."""


def accumulate(steps: Float[np.ndarray, "T-1 2 3"]) -> Placement:
    """Returns the placement that makes these steps, one after the other, from the identity on."""
    placement = [np.eye(2, 3)]
    for step in steps:
        placement.append(compose(step[None], placement[-1][None])[0])
    return np.stack(placement)


def render(scene: LayeredScene) -> Rendering:
    """Draws all frames, 0..255 and not yet rounded, and adds up what moves by itself."""
    frames, height, width = len(scene.steps) + 1, scene.height, scene.width
    camera, travel = scene.camera, scene.travel
    area = np.zeros((frames - 1, height // CELL, width // CELL), np.float32)
    speed = np.zeros_like(area)
    pictures = np.empty((frames, height, width), np.float32)
    grid = _Grid(height, width)
    drifts = [_flow_speed(region, camera) for region in scene.flow_regions]
    for t in range(frames):
        places = _scene_places(scene, grid, camera[t], travel[t])
        for region, drift in zip(scene.flow_regions, drifts, strict=True):
            share = _look_up(region.region, _to_mask(places, height, width))
            if t < frames - 1:
                at = _cells_of(share, COARSE)
                area[t], speed[t] = _cover(area[t], speed[t], at, np.full_like(at, drift[t]))
            places = places - share * _displacement(region, places, t)
        at = grid.widen(_put(scene.view, places))
        picture = _look_up(scene.backdrop, at)
        for sprite in scene.sprites:
            _draw(sprite, scene, t, travel[t], picture, area, speed)
        pictures[t] = picture
    return Rendering(pictures, area, speed)


def _draw(
    sprite: Sprite,
    scene: LayeredScene,
    t: int,
    travel: np.ndarray,
    picture: np.ndarray,
    area: np.ndarray,
    speed: np.ndarray,
) -> None:
    """Puts a sprite into a picture, and its motion into the sums."""
    height, width = picture.shape
    place = sprite.placement[t]
    middle = place[:, 2]
    shift = sprite.depth * scene.parallax * (travel[:2] + travel[2] * middle)
    reach = np.abs(place[:, :2]).sum(1) * (1 + abs(sprite.bend))
    low = np.floor((middle + shift - reach + np.array([width, height]) / 2) / CELL).astype(int) * CELL
    high = np.ceil((middle + shift + reach + np.array([width, height]) / 2) / CELL).astype(int) * CELL
    (x0, y0), (x1, y1) = np.clip(low, 0, [width, height]), np.clip(high, 0, [width, height])
    y1, x1 = min(y1, height // CELL * CELL), min(x1, width // CELL * CELL)
    if x0 >= x1 or y0 >= y1:
        return
    y, x = np.meshgrid(
        np.arange(y0, y1, dtype=np.float32) + 0.5 - height / 2 - shift[1],
        np.arange(x0, x1, dtype=np.float32) + 0.5 - width / 2 - shift[0],
        indexing="ij",
    )
    back = invert(place[None])[0].astype(np.float32)
    own = np.stack([back[i, 0] * x + back[i, 1] * y + back[i, 2] for i in range(2)])
    if sprite.bend:
        own = own - _bent(sprite, own, t)
    alpha = _look_up(sprite.outline, (own + 1) * (MASK / 2), outside=0.0)
    if alpha.max() <= 0:
        return
    rows, columns = sprite.texture.shape
    colour = _look_up(sprite.texture, np.stack([(own[0] + 1) * (columns / 2), (own[1] + 1) * (rows / 2)]))
    colour = colour * sprite.gain + sprite.lift
    window = picture[y0:y1, x0:x1]
    window += alpha * (colour - window)
    if t >= len(area):
        return
    cells = (slice(y0 // CELL, y1 // CELL), slice(x0 // CELL, x1 // CELL))
    share = _cells_of(alpha, CELL)
    if sprite.static:
        area[t][cells] *= 1 - share
        return
    moved = _own_motion(sprite, scene.steps[t], t, own)
    weight = _cells_of(alpha, CELL) + 1e-6
    mean = _cells_of(alpha * moved, CELL) / weight
    area[t][cells], speed[t][cells] = _cover(area[t][cells], speed[t][cells], share, mean)


def _own_motion(sprite: Sprite, step: np.ndarray, t: int, own: np.ndarray) -> np.ndarray:
    """Pixels that each point of a sprite goes until the next frame beside what the camera does to it."""
    now, then = own, own
    if sprite.bend:
        now, then = own + _bent(sprite, own, t), own + _bent(sprite, own, t + 1)
    here, there = _put(sprite.placement[t], now), _put(sprite.placement[t + 1], then)
    return np.hypot(*(there - _put(step, here)))


def _put(place: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.stack([place[i, 0] * at[0] + place[i, 1] * at[1] + place[i, 2] for i in range(2)])


def _bent(sprite: Sprite, own: np.ndarray, t: int) -> np.ndarray:
    waves, phase = sprite.bend_waves, sprite.bend_phase[t]
    return np.stack([sprite.bend * np.sin(_along(waves[i], own) + phase + i) for i in range(2)])


def _displacement(region: FlowRegion, places: np.ndarray, t: int) -> np.ndarray:
    """Returns the displacement of the surface at these places of the scene since the first frame."""
    sway = [np.sin(_along(region.waves[i], places) + region.phase[t] + 2 * i) for i in range(2)]
    return region.ripple * np.stack(sway) + region.drift[t][:, None, None]


def _along(wave: np.ndarray, at: np.ndarray) -> np.ndarray:
    return wave[0] * at[0] + wave[1] * at[1]


def _flow_speed(region: FlowRegion, camera: Placement) -> np.ndarray:
    """Pixels a step that the surface goes, mean over its phases, at the size at which the camera sees it."""
    points = np.linspace(0, 6.2832, 24, endpoint=False)
    at = np.stack([np.sin(points[None, :] + region.phase[:, None] + 2 * i) for i in range(2)], -1)
    moved = np.diff(region.ripple * at + region.drift[:, None], axis=0)
    growth = np.sqrt(np.abs(np.linalg.det(camera[:-1, :, :2])))
    return np.linalg.norm(moved, axis=-1).mean(1) * growth


def _scene_places(scene: LayeredScene, grid: _Grid, camera: np.ndarray, travel: np.ndarray) -> np.ndarray:
    """[2 h w]: the place in the first frame's scene that each coarse pixel shows; two rounds towards the relief."""
    back = invert(camera[None])[0].astype(np.float32)
    places = _put(back, grid.coarse)
    if not scene.parallax or not np.abs(travel).max():
        return places
    for _ in range(2):
        near = scene.parallax * _look_up(scene.relief, _to_mask(places, scene.height, scene.width))
        shifted = np.stack([grid.coarse[i] - near * (travel[i] + travel[2] * grid.coarse[i]) for i in range(2)])
        places = _put(back, shifted)
    return places


class _Grid:
    """The places of coarse pixels, one more at each end, and how values at them are made into values at all pixels."""

    def __init__(self, height: int, width: int):
        y, x = (np.arange(-0.5, size // COARSE + 1) * COARSE - size / 2 for size in (height, width))
        self.coarse = np.stack(np.meshgrid(x, y, indexing="xy")).astype(np.float32)

    def widen(self, values: np.ndarray) -> np.ndarray:
        """Linear between the middles of coarse pixels."""
        cv2 = opencv()
        rows, columns = self.coarse.shape[1:]
        fields = values.reshape(2, rows, columns).astype(np.float32)
        wide = (
            cv2.resize(field, (columns * COARSE, rows * COARSE), interpolation=cv2.INTER_LINEAR) for field in fields
        )
        return np.stack([field[COARSE:-COARSE, COARSE:-COARSE] for field in wide])


def _to_mask(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """Places in a field of MASK x MASK that spans twice the frame."""
    return np.stack([(places[0] / (2 * width) + 0.5) * MASK, (places[1] / (2 * height) + 0.5) * MASK])


def _look_up(field: np.ndarray, at: np.ndarray, outside: float | None = None) -> np.ndarray:
    """Bilinear values at (x, y) in pixels of the field; beyond it mirrored, or `outside`."""
    cv2 = opencv()
    border = cv2.BORDER_REFLECT if outside is None else cv2.BORDER_CONSTANT
    x, y = (np.asarray(axis - 0.5, np.float32) for axis in at)
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=border, borderValue=outside or 0.0)


def _cells_of(values: np.ndarray, size: int) -> np.ndarray:
    """Means over cells; of a coarse grid (one more pixel at each end) over the cells inside."""
    if size == COARSE:
        values = values[1:-1, 1:-1]
        size = CELL // COARSE
    rows, columns = values.shape[0] // size, values.shape[1] // size
    return values[: rows * size, : columns * size].reshape(rows, size, columns, size).mean((1, 3))


def _cover(area: np.ndarray, speed: np.ndarray, share: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and mean speed of cells after something of that share and motion has come before them."""
    left = area * (1 - share)
    total = left + share
    return total, (left * speed + share * moved) / (total + 1e-6)


def draw_blob(rng: np.random.Generator, roughness: float) -> Float[np.ndarray, "M M"]:
    """A random outline with a soft edge: a disc or box, bent by smooth noise; at most 1, and nothing at the border."""
    axis = (np.arange(MASK) + 0.5) / (MASK / 2) - 1
    x, y = np.meshgrid(axis, axis)
    aspect, power = np.exp(rng.uniform(-0.7, 0.7)), rng.choice([2.0, 2.0, 4.0, 8.0])
    distance = (np.abs(x * max(aspect, 1)) ** power + np.abs(y / min(aspect, 1)) ** power) ** (1 / power)
    noise = gaussian_filter(rng.standard_normal((MASK, MASK)), rng.uniform(2, 8))
    distance = distance + roughness * noise / (noise.std() + 1e-9)
    edge = (np.quantile(distance, 0.02) * 0.2 + 0.72) - distance
    alpha = np.clip(edge * rng.uniform(4, 14) + 0.5, 0, 1)
    border = np.clip((1 - np.maximum(np.abs(x), np.abs(y))) * 12, 0, 1)
    return (alpha * border).astype(np.float32)


def draw_relief(rng: np.random.Generator) -> Float[np.ndarray, "M M"]:
    """A random relief with mean 0 and values about -1..1: noise, a ground that comes nearer, steps, or all of them."""
    noise = sum(
        gaussian_filter(rng.standard_normal((MASK, MASK)), sigma, mode="reflect") * sigma
        for sigma in rng.uniform(1.5, 10, 2)
    )
    noise = noise / (np.std(noise) + 1e-9)
    ground = np.clip(np.linspace(-2, 2, MASK)[:, None] + rng.uniform(-1, 1), -0.3, None) * np.ones((1, MASK))
    relief = rng.uniform(0, 1) * noise + (rng.random() < 0.5) * rng.uniform(0.3, 1.2) * ground
    if rng.random() < 0.4:
        relief = np.round(relief * 1.5) / 1.5
    relief = relief - relief[MASK // 4 : -MASK // 4, MASK // 4 : -MASK // 4].mean()
    return np.clip(relief, -1.5, 2.5).astype(np.float32)


def camera_speed(steps: Float[np.ndarray, "T-1 2 3"], height: int, width: int) -> Float[np.ndarray, " T-1"]:
    """Mean displacement of the four corners at every step, in diagonals."""
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * np.array([width, height]) / 2
    return np.linalg.norm(apply(steps, corners) - corners, axis=-1).mean(-1) / np.hypot(height, width)
