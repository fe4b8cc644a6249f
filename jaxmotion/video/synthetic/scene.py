"""One synthetic clip before it is drawn: a view of a photograph, a camera, objects; and all that follows from them.

Every number here (speeds, boxes, masks, tracks, flow) comes from the same maps that place the pixels, so it is exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmotion.video.geometry import Placement, apply, camera_speeds, compose, corners, invert, object_speed, rotation
from jaxmotion.video.luma import LUMA
from jaxmotion.video.synthetic.cutouts import Cutout, hides, spread_points
from jaxmotion.video.synthetic.photos import Photo, sample_photo

LARGEST_TILT = np.radians(8)
VIEW_TRIALS = 3
BACKGROUND_TRACKS, OBJECT_TRACKS = 16, 8


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photograph seen by a camera, with objects before it; the last object is nearest.

    `view` takes the scene to the pixels of `level`, one size of the photo. `tints` are the colour changes [3 4] of the
    background and then of every object.
    """

    height: int
    width: int
    frames: int
    fps: float
    photo: Photo
    view: Float[np.ndarray, "2 3"]
    level: UInt8[np.ndarray, "h w 3"]
    camera: Placement
    camera_moves: tuple[tuple[str, str], ...]
    cutouts: tuple[Cutout, ...]
    tints: tuple[Float[np.ndarray, "3 4"], ...]

    def camera_speeds(self) -> tuple[float, float]:
        """Mean and root mean square speed of the camera; see `motion`."""
        return camera_speeds(self.camera, self.fps, self.height, self.width)

    def object_speeds(self) -> Float[np.ndarray, " N"]:
        """The speed of every object; see `motion`."""
        places = [cutout.to_scene(spread_points(cutout.outline)) for cutout in self.cutouts]
        return np.array([object_speed(place, self.fps, self.height, self.width) for place in places])


def draw_view(
    photo: Photo, camera: Placement, height: int, width: int, share: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A view of the photo: the map from the scene to pixels of one of its sizes, and the photo at that size.

    The frame covers a part of the photo between the two shares of the largest part it could cover, less where the
    camera would otherwise leave the photo; when even the smallest share leaves it, the photo goes on mirrored. Of a few
    places the one with the most detail is taken, because a pan over an empty sky shows nothing.
    """
    swept = apply(invert(camera), corners(height, width)).reshape(-1, 2)
    turn = rotation(rng.uniform(-LARGEST_TILT, LARGEST_TILT)) @ np.diag([1.0 if rng.random() < 0.5 else -1.0, 1.0])
    swept = swept @ turn.T
    low, extent = swept.min(0), np.ptp(swept, axis=0)
    room = np.array([photo.width, photo.height], np.float64)
    largest = (room / [width, height]).min()
    scale = max(min(largest * rng.uniform(*share), (room / extent).min()), largest * share[0])
    places = rng.random((VIEW_TRIALS, 2)) * (room - scale * extent)
    place = max(places, key=lambda corner: photo.detail_within(corner, corner + scale * extent))
    view = np.concatenate([scale * turn, (place - scale * low)[:, None]], -1)
    growth = np.sqrt(np.abs(np.linalg.det(camera[:, :, :2])))
    level = photo.level_for(scale / np.exp(np.log(growth).mean()))
    shrink = np.array([level.shape[1] / photo.width, level.shape[0] / photo.height])
    return view * shrink[:, None], level


def draw_tint(strength: float, rng: np.random.Generator) -> Float[np.ndarray, "3 4"]:
    """A random change of colour: saturation, a gain per colour, contrast about mid-grey, brightness and cast."""
    wild = rng.uniform(-1, 1, 9) * strength
    saturation = np.eye(3) * (1 + wild[0]) - wild[0] * np.array(LUMA)[None, :]
    gain = np.exp(wild[1:4] * 0.5) * np.exp(wild[4] * 0.5)
    linear = gain[:, None] * saturation
    return np.concatenate([linear, (128 - linear @ np.full(3, 128.0) + 60 * wild[5] + 40 * wild[6:])[:, None]], -1)


def render(scene: Scene) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, "N T H W"]]:
    """The clip, and which pixels show (at least half of) each object."""
    back = invert(scene.camera)
    still = bool(np.ptp(back, axis=0).max() == 0)
    view = np.broadcast_to(scene.view, (scene.frames, 2, 3))
    x, y = _positions(compose(view, back)[: 1 if still else None], slice(0, scene.height), slice(0, scene.width))
    picture = _tint(sample_photo(scene.level, x, y), scene.tints[0])
    if still:
        picture = np.broadcast_to(picture, (scene.frames, *picture.shape[1:]))
    if scene.cutouts and not picture.flags.writeable:
        picture = picture.copy()
    masks = np.zeros((len(scene.cutouts), scene.frames, scene.height, scene.width), bool)
    for index, (cutout, tint) in enumerate(zip(scene.cutouts, scene.tints[1:], strict=True)):
        rows, columns = _window(scene, cutout)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        u, v = cutout.from_scene(*_positions(back, rows, columns))
        alpha = cutout.alpha(u, v)
        touched = alpha > 0
        frame, row, column = np.nonzero(touched)
        share = alpha[touched][:, None]
        target = (frame, row + rows.start, column + columns.start)
        picture[target] += share * (_tint(cutout.colour(u[touched], v[touched]), tint) - picture[target])
        covered = alpha > 0.5
        masks[:index, :, rows, columns] &= ~covered
        masks[index, :, rows, columns] = covered
    return np.rint(picture).astype(np.uint8), masks


def visible_boxes(masks: Bool[np.ndarray, "N T H W"]) -> Float[np.ndarray, "N T 4"]:
    """The box (x0 y0 x1 y1 in [0, 1]) around the visible part of every object; zeros where nothing of it is seen."""
    x, y = _extent(np.any(masks, -2)), _extent(np.any(masks, -1))
    return np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1).astype(np.float32)


def draw_tracks(
    scene: Scene, most_objects: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "K T 2"], Bool[np.ndarray, "K T"], np.ndarray]:
    """Points that stay on the background or on an object: places (x y in [0, 1]), visibility, and whose they are.

    The first points belong to the background (owner 0; each lies within the picture in some frame), then come the same
    number of points for each object (owner 1, 2, ..). Where there are fewer objects than `most_objects`, the owner is
    -1 and the points are never visible. A point is visible inside the frame when no nearer object hides it.
    """
    inside = rng.random((BACKGROUND_TRACKS, 2)) * [scene.width, scene.height]
    when = rng.integers(scene.frames, size=BACKGROUND_TRACKS)
    fixed = apply(invert(scene.camera)[when], inside[:, None]).reshape(-1, 2)
    places = [np.broadcast_to(fixed, (scene.frames, *fixed.shape))]
    places += [cutout.to_scene(cutout.inside(rng, OBJECT_TRACKS)) for cutout in scene.cutouts]
    frame = np.array([scene.width, scene.height])
    tracks, visible = [], []
    for index, place in enumerate(places):
        at = apply(scene.camera, place)
        seen = ((at >= 0) & (at < frame)).all(-1)
        for nearer in scene.cutouts[index:]:
            seen &= ~hides(nearer, place)
        tracks.append(at / frame)
        visible.append(seen)
    absent = (most_objects - len(scene.cutouts)) * OBJECT_TRACKS
    present = np.repeat(np.arange(1, len(scene.cutouts) + 1), OBJECT_TRACKS)
    owner = np.concatenate([np.zeros(BACKGROUND_TRACKS), present, np.full(absent, -1)]).astype(np.int32)
    tracks = np.pad(np.concatenate(tracks, 1), ((0, 0), (0, absent), (0, 0))).swapaxes(0, 1).astype(np.float32)
    return tracks, np.pad(np.concatenate(visible, 1), ((0, 0), (0, absent))).T, owner


def dense_flow(scene: Scene, masks: Bool[np.ndarray, "N T H W"]) -> Float[np.ndarray, "T-1 H W 2"]:
    """Returns the displacement (x y in pixels) to the next frame of what a pixel shows, seen there or not."""
    back = invert(scene.camera)[:-1]
    x, y = _positions(back, slice(0, scene.height), slice(0, scene.width))
    places = np.stack([x, y], -1).reshape(scene.frames - 1, -1, 2).astype(np.float64)
    pixels = apply(scene.camera[:-1], places)
    flow = apply(scene.camera[1:], places) - pixels
    for cutout, mask in zip(scene.cutouts, masks, strict=True):
        u, v = cutout.during(slice(0, -1)).from_scene(x, y)
        own = np.stack([u, v], -1).reshape(scene.frames - 1, -1, 2)
        moved = cutout.during(slice(1, None)).to_scene(own)
        of_object = apply(scene.camera[1:], moved) - pixels
        flow = np.where(mask[:-1].reshape(scene.frames - 1, -1, 1), of_object, flow)
    return flow.reshape(scene.frames - 1, scene.height, scene.width, 2).astype(np.float32)


def _extent(seen: Bool[np.ndarray, "*N L"]) -> Float[np.ndarray, "*N 2"]:
    """Returns the first seen pixel's beginning and the last one's end on an axis of length 1; zeros if none is seen."""
    size = seen.shape[-1]
    first, last = seen.argmax(-1), size - seen[..., ::-1].argmax(-1)
    return np.where(seen.any(-1, keepdims=True), np.stack([first, last], -1) / size, 0.0)


def _positions(placement: Placement, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Maps the centres of the pixels by one map per frame: x and y, [T h w] each."""
    a = placement.astype(np.float32)[..., None, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5)
    return a[:, 0, 0] * x + (a[:, 0, 1] * y + a[:, 0, 2]), a[:, 1, 0] * x + (a[:, 1, 1] * y + a[:, 1, 2])


def _window(scene: Scene, cutout: Cutout) -> tuple[slice, slice]:
    """Rows and columns outside of which the cut-out is in no frame."""
    whole = compose(scene.camera, cutout.placement)
    reach = np.linalg.norm(whole[:, :, :2], axis=-1) * (1 + cutout.amplitude) + 2 * cutout.softness
    low, high = (whole[..., 2] - reach).min(0), (whole[..., 2] + reach).max(0)
    limit = np.array([scene.width, scene.height])
    start = np.clip(np.floor(low), 0, limit).astype(int)
    stop = np.clip(np.ceil(high), 0, limit).astype(int)
    return slice(start[1], stop[1]), slice(start[0], stop[0])


def _tint(colours: np.ndarray, tint: np.ndarray) -> np.ndarray:
    tint = tint.astype(np.float32)
    return np.clip(colours @ tint[:, :3].T + tint[:, 3], 0, 255)
