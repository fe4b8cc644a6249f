"""Object and camera speed of a small clip whose first frame is known, by aligning the object and all the rest.

The background and the object of the first frame are each found again in every later frame, as a whole
(`region_alignment`). Pixels that the object covers there say nothing of the background and are left out.

Source: the pseudo-labels of MotionStone (arXiv:2412.05848, Data for Motion Estimator): object masks, the background as
the camera. Not specified there; we use: a similarity for the camera, a shift for the object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.linalg import fractional_matrix_power
from scipy.ndimage import binary_dilation, map_coordinates

from jaxmotion.video.geometry import corners
from jaxmotion.video.region_alignment import Map, Region, refine, search_map

FEWEST_BEHIND = 20
"""Pixels of the background that must be left beside the object."""
LEAST_GROWTH = 0.2
"""A camera's map that makes things smaller is a mistake."""
SOFT = 0.05
"""Share of a pixel from which the object counts as being there."""


class Speeds(NamedTuple):
    """Speeds in diagonals per second."""

    object: float
    camera: float


def region_speeds(video: UInt8[np.ndarray, "T H W 3"], mask: Bool[np.ndarray, "H W"], fps: float) -> Speeds:
    """Measures the speed of the object and the camera of a clip by aligning regions of its first frame with the others.

    Net motion counts, from the first frame to the last one that still shows enough of it.

    Args:
        mask: where the object is in the first frame; nowhere: its speed is 0.
    """
    near = binary_dilation(mask, np.ones((3, 3)))
    camera, item = [np.eye(2, 3)], [np.eye(2, 3)]
    for t, frame in enumerate(video[1:], 1):
        if np.array_equal(frame, video[0]):
            camera.append(np.eye(2, 3))
            item += [np.eye(2, 3)] if len(item) == t and mask.any() else []
            continue
        later, outline = Region(frame, mask), Region(video[0], near)
        rough = search_map(outline, later, _extrapolate(item)) if len(item) == t and mask.any() else None
        there = _carry(near, item[-1] if rough is None else rough)
        followed = _follow_camera(video[0], near, there, later, _extrapolate(camera))
        if followed is None:
            break
        camera.append(followed)
        if rough is not None:
            item.append(_follow_object(Region(video[0], mask), later, rough, followed))
    size, steps = mask.shape, len(camera) - 1
    speed = camera_step(camera[-1], steps, size) * fps
    at = min(len(item) - 1, steps)
    if not at:
        return Speeds(0.0, speed)
    middle = np.argwhere(mask).mean(0)[None, ::-1]
    moved = scene_places(_apply(item[at], middle), camera[at]) - middle
    return Speeds(float(np.linalg.norm(moved) / np.hypot(*size)) / at * fps, speed)


def camera_step(camera: Map, steps: int, size: tuple[int, int]) -> float:
    """Returns the mean displacement of the corners a step, in diagonals, of a steady camera that ends at this map."""
    if steps == 0:
        return 0.0
    whole = np.concatenate([camera, [[0.0, 0.0, 1.0]]])
    step = np.real(fractional_matrix_power(whole, 1 / steps))[:2]
    at = corners(*size) - 0.5  # from the frame's edges to the middles of its pixels
    return float(np.linalg.norm(at @ step[:, :2].T + step[:, 2] - at, axis=-1).mean() / np.hypot(*size))


def is_plausible(camera: Map) -> bool:
    """Returns whether a map could be a camera's: it mirrors nothing, and makes nothing vanish."""
    return bool(np.linalg.det(camera[:, :2]) > LEAST_GROWTH**2)


def scene_places(places: Float[np.ndarray, "N 2"], camera: Map) -> Float[np.ndarray, "N 2"]:
    """Returns where places of a later frame lie in the first one, if they belong to the background."""
    return np.linalg.solve(camera[:, :2], (places - camera[:, 2]).T).T


def _follow_object(region: Region, later: Region, rough: Map, camera: Map) -> Map:
    """Returns the object's map near a rough one: it turns and grows as the camera makes it, and shifts by itself."""
    middle = np.argwhere(region.where).mean(0)[None, ::-1]
    shift = (_apply(rough, middle) - middle @ camera[:, :2].T).T
    return refine(region, later, np.concatenate([camera[:, :2], shift], axis=1), similarity=False)


def _follow_camera(
    first: UInt8[np.ndarray, "H W 3"],
    near: Bool[np.ndarray, "H W"],
    there: Bool[np.ndarray, "H W"],
    later: Region,
    expected: Map,
) -> Map | None:
    """Returns the background's map; None if too little of it is left in the frame.

    Args:
        near: where the object is in the first frame, and a pixel around it.
        there: the same in the later frame.
    """
    found = expected
    for _ in range(2):  # what the object covers follows from the map, and the map from what is not covered
        region = Region(first, _uncovered(near, there, found))
        better = search_map(region, later, found)
        if better is None:
            return None
        found = better
    region = Region(first, _uncovered(near, there, found))
    shifted = refine(region, later, found, similarity=False)
    turned = refine(region, later, shifted, similarity=True)
    return turned if is_plausible(turned) else shifted


def _uncovered(near: Bool[np.ndarray, "H W"], there: Bool[np.ndarray, "H W"], camera: Map) -> Bool[np.ndarray, "H W"]:
    """The first frame's background that the object does not cover later; all of it, if that is too little."""
    left = ~near & ~_sample(there, _apply(camera, _pixels(near.shape)))
    return left if left.sum() >= FEWEST_BEHIND else ~near


def _carry(mask: Bool[np.ndarray, "H W"], item: Map) -> Bool[np.ndarray, "H W"]:
    """Returns where a mask is under a map."""
    return _sample(mask, scene_places(_pixels(mask.shape), item))


def _sample(mask: Bool[np.ndarray, "H W"], places: Float[np.ndarray, "N 2"]) -> Bool[np.ndarray, "H W"]:
    """Returns for every pixel whether the mask is at its place (x y)."""
    return (map_coordinates(mask.astype(float), places.T[::-1], order=1) > SOFT).reshape(mask.shape)


def _pixels(size: tuple[int, int]) -> Float[np.ndarray, "N 2"]:
    return np.indices(size, float)[::-1].reshape(2, -1).T


def _apply(found: Map, places: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    return places @ found[:, :2].T + found[:, 2]


def _extrapolate(maps: list[Map]) -> Map:
    """Returns the next map if motion goes on as it has."""
    steps = len(maps) - 1
    return maps[-1] if steps == 0 else maps[0] + (maps[-1] - maps[0]) * (steps + 1) / steps
