"""The map that takes a region of one frame to another, found by comparing all of its pixels, to hundredths of a pixel.

Points that are tracked one by one need patches, and a small clip has too few pixels for them. A region as a whole has
enough: its shift is searched for exhaustively and then refined by Gauss-Newton steps on colours, with weights that give
up pixels which do not fit (what was covered, uncovered, or is drawn differently).

Source: Lucas and Kanade, "An Iterative Image Registration Technique" (IJCAI 1981), for a region and a similarity.
Not specified there; we use: cubic splines between pixels, Geman and McClure's weights.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import correlate1d, gaussian_filter, map_coordinates, spline_filter

BLUR = 0.5
"""Pixels by which frames are blurred, against what sampling adds to fine detail."""
GRID = 32
"""The search is as fine as a grid of so many places along the shorter side."""
COMPARED = 600
"""Pixels that the search compares, at most."""
STEPS = 20
SMALLEST_STEP = 1e-3
"""Pixels; smaller Gauss-Newton steps end the refinement."""
LARGEST_STEP = 1.0
"""Pixels of one Gauss-Newton step."""
SEARCH = 0.12
"""Diagonals around the expected shift that are searched."""
LEAST_SEEN = 0.3
"""A shift is considered if so much of the region stays in the frame."""
GREY_LEVELS = 1.0
"""Differences of colour below this are noise."""
FEWEST = 8
"""Pixels that a map is fitted to, at least."""


@dataclasses.dataclass(frozen=True)
class Region:
    """Pixels of a frame: the picture, and which of them are compared."""

    picture: UInt8[np.ndarray, "H W 3"]
    where: Bool[np.ndarray, "H W"]

    @functools.cached_property
    def stride(self) -> int:
        """Pixels between the shifts that are searched."""
        return max(1, round(min(self.where.shape) / GRID))

    @functools.cached_property
    def coarse(self) -> Float[np.ndarray, "H W 3"]:
        """The picture, blurred for the search."""
        return gaussian_filter(self.picture.astype(np.float64), (BLUR * self.stride, BLUR * self.stride, 0))

    @functools.cached_property
    def smooth(self) -> Float[np.ndarray, "H W 3"]:
        """The picture, slightly blurred."""
        return gaussian_filter(self.picture.astype(np.float64), (BLUR, BLUR, 0))

    @functools.cached_property
    def splines(self) -> list[Float[np.ndarray, "H W"]]:
        """Coefficients of the cubic splines through the colours, and through their derivatives along x and along y."""
        along = [correlate1d(self.smooth, [-0.5, 0.0, 0.5], axis, mode="mirror") for axis in (1, 0)]
        return [
            spline_filter(part[..., colour], mode="mirror") for part in (self.smooth, *along) for colour in range(3)
        ]


Map = Float[np.ndarray, "2 3"]
"""Takes a pixel (x y, its middle at whole numbers) to its place in the other frame."""


def search_map(region: Region, other: Region, expected: Map) -> Map | None:
    """Returns the expected map with the whole-pixel change of its shift that makes the region look most like the other
    frame.

    Differences count no more than twice the usual ones, so that what fits nowhere does not decide. None: under every
    shift too little of the region is in the frame.
    """
    height, width = region.where.shape
    y, x = (places[:: max(1, len(places) // COMPARED)] for places in np.nonzero(region.where))
    colours = region.coarse[y, x]
    places = np.rint(np.stack([x, y], -1) @ expected[:, :2].T + expected[:, 2]).astype(int)
    reach = int(np.ceil(SEARCH * np.hypot(height, width) / region.stride))
    around = itertools.product(range(-reach, reach + 1), repeat=2)
    best, least = None, np.inf
    for step in sorted(around, key=lambda step: math.hypot(*step)):
        shift = region.stride * np.array(step)
        to_x, to_y = (places + shift).T
        seen = (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
        if seen.sum() < max(FEWEST, LEAST_SEEN * len(x)):
            continue
        apart = np.abs(colours[seen] - other.coarse[to_y[seen], to_x[seen]]).mean(-1)
        miss = float(np.minimum(apart, 2 * np.median(apart) + GREY_LEVELS).mean())
        if miss < least:
            best, least = shift, miss
    return None if best is None else np.concatenate([expected[:, :2], expected[:, 2:] + best[:, None]], axis=1)


def refine(region: Region, other: Region, start: Map, *, similarity: bool) -> Map:
    """Returns the map near `start` under which the region looks most like the other frame.

    Args:
        similarity: turn and size are found too; otherwise the shift alone, and they stay those of `start`.
    """
    height, width = region.where.shape
    y, x = np.nonzero(region.where)
    at, middle = np.stack([x, y], -1).astype(float), np.array([width - 1, height - 1]) / 2
    steps = _small_maps((at - middle) / (np.hypot(height, width) / 2), similarity)
    found = start.copy()
    for _ in range(STEPS):
        places = at @ found[:, :2].T + found[:, 2]
        seen = np.all((places >= 0) & (places <= [width - 1, height - 1]), axis=-1)
        if seen.sum() < max(FEWEST, LEAST_SEEN * len(at) / 2):
            break
        sampled = np.stack(
            [map_coordinates(part, places.T[::-1], order=3, mode="mirror", prefilter=False) for part in other.splines]
        ).reshape(3, 3, -1)  # (value, along x, along y), colour, pixel
        apart = (sampled[0] - region.smooth[y, x].T).T
        weights = _weights(apart, seen)
        slope = np.einsum("acn,nap->ncp", sampled[1:], steps)
        normal = np.einsum("ncp,ncq,n->pq", slope, slope, weights)
        normal += np.eye(len(normal)) * (1e-6 * np.trace(normal) + 1e-9)
        step = -np.linalg.solve(normal, np.einsum("ncp,nc,n->p", slope, apart, weights))
        length = float(np.abs(step).max())
        step *= min(1.0, LARGEST_STEP / max(length, 1e-12))
        found = _moved(found, step, middle, float(np.hypot(height, width) / 2))
        if length < SMALLEST_STEP:
            break
    return found


def _small_maps(at: Float[np.ndarray, "N 2"], similarity: bool) -> Float[np.ndarray, "N 2 P"]:
    """Returns how a pixel's place changes with each parameter: shift along x and y, growth, turn."""
    one, zero = np.ones(len(at)), np.zeros(len(at))
    shift = [np.stack([one, zero], -1), np.stack([zero, one], -1)]
    turn = [at, np.stack([-at[:, 1], at[:, 0]], -1)] if similarity else []
    return np.stack([*shift, *turn], -1)


def _moved(found: Map, step: np.ndarray, middle: np.ndarray, radius: float) -> Map:
    """Adds a step (shift, and growth and turn as pixels at the corners) to a map, about the middle of the frame."""
    added = np.zeros((2, 3))
    added[:, 2] = step[:2]
    if len(step) > 2:
        growth, turn = step[2:] / radius
        added[:, :2] = [[growth, -turn], [turn, growth]]
        added[:, 2] -= added[:, :2] @ middle
    return found + added


def _weights(apart: Float[np.ndarray, "N 3"], seen: np.ndarray) -> Float[np.ndarray, " N"]:
    """Geman and McClure's weights of pixels by their difference of colour; 0 for those outside the frame."""
    size = np.sqrt((apart**2).mean(-1))
    usual = 2 * np.median(size[seen]) + GREY_LEVELS
    return np.where(seen, 1 / (1 + (size / usual) ** 2) ** 2, 0.0)
