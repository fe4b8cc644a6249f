"""Motion of patches from a picture to the next one: quick, from coarse to fine, equal on every device.

The search is the inverse compositional one of Baker and Matthews (IJCV 56(3), 2004) on a grid of overlapping patches,
as in Dense Inverse Search (Kroeger et al., arXiv:1603.03590, section 2): what is solved for stays with the first
picture, so that an iteration is one look-up of every patch. `flow` is more exact per pixel and several times slower.

Not specified in the paper; we use: four levels whose finest is half the picture; patches of 8 x 8 pixels of a level, 4
apart; a mean over neighbours between levels, weighted by texture over mismatch, in place of the densification;
patches compared without their means, so that a change of light is no motion.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmotion.video.flow import blur, picture_gradient

CELL = 8
"""Pixels of the picture between patches, along both axes."""
PATCH = 8
"""Pixels of a level that a patch is wide and high; of the finest level, twice as many of the picture."""
_STRIDE = 4
_ITERATIONS = (8, 6, 6, 5)  # from coarse to fine
_BLUR = 0.5  # px of the finest level
_SMOOTH = 0.8  # patches
_RIDGE = 1.3e-3  # squared grey levels (white = 1) summed over a patch; grain of 1 / 255 in a flat patch moves nothing
_LEAST_MISMATCH = 0.01  # grey levels; a better match than this is no more to be trusted


class Patches(NamedTuple):
    """The patches of a picture's finest level with all that the search needs of them; h w patches each."""

    grey: Float[Array, "N P 8 8"]
    right: Float[Array, "N P 8 8"]
    down: Float[Array, "N P 8 8"]
    texture: Float[Array, "N h w"]


class Match(NamedTuple):
    """The displacement of the patches of pictures.

    flow: pixels of the picture, to the right and down. mismatch: mean absolute difference, grey levels. texture: how
    well a patch tells where it is, about the smaller eigenvalue of its mean squared gradient, squared grey levels.
    """

    flow: Float[Array, "N h w 2"]
    mismatch: Float[Array, "N h w"]
    texture: Float[Array, "N h w"]
    smooth: Float[Array, "N h w 2"]


def match(before: Float[Array, "N H W"], after: Float[Array, "N H W"]) -> tuple[Match, Level]:
    """Matches the patches around every cell of CELL x CELL pixels of each picture with the one after it.

    Args:
        before: grey pictures, 0..1, whose sides are multiples of CELL.
        after: the pictures after them.

    Returns:
        The match, and the finest level, which `mismatch_of` can try other motions on.
    """
    height, width = before.shape[-2:]
    if height % CELL or width % CELL or before.shape != after.shape:
        raise ValueError(f"Pictures must be alike, with sides that are multiples of {CELL}; got {before.shape}.")
    levels = [blur(_downsample(jnp.stack([before, after])), _BLUR)]
    while len(levels) < len(_ITERATIONS):
        levels.append(_downsample(levels[-1]))
    flow = jnp.zeros((len(before), *(-(-size // _STRIDE) for size in levels[-1].shape[-2:]), 2))
    for index, (pair, iterations) in enumerate(zip(reversed(levels), _ITERATIONS, strict=True)):
        down, right = (-size % _STRIDE for size in pair.shape[-2:])
        level = _level(jnp.pad(pair, ((0, 0), (0, 0), (0, down), (0, right)), mode="edge"), _reach(index))
        found, mismatch = _search(level, _upsample_flow(flow, level.rows, level.columns), iterations)
        flow = _smooth_flow(found, mismatch, level.patches.texture)
    found, flow = (jnp.asarray(each) * 2 for each in (found, flow))
    return Match(found, mismatch, level.patches.texture, flow), level


def mismatch_of(level: Level, flow: Float[Array, "N h w 2"]) -> Float[Array, "N h w"]:
    """Returns the mismatch of the patches if they had moved by `flow` (pixels of the picture)."""
    count = flow.shape[0]
    difference = _sample_patches(level, flow.reshape(count, -1, 2) / 2) - level.patches.grey
    return jnp.abs(difference).mean((-1, -2)).reshape(count, level.rows, level.columns)


class Level(NamedTuple):
    """A level of the pyramid: the patches of the first pictures, and the second pictures with a margin around them."""

    patches: Patches
    after: Float[Array, "N a b"]
    top: Array
    left: Array
    margin: int
    rows: int
    columns: int


def _reach(index: int) -> int:
    return 12 + 4 * index


def _level(pair: Float[Array, "2 N H W"], margin: int) -> Level:
    height, width = pair.shape[-2:]
    rows, columns, half = height // _STRIDE, width // _STRIDE, PATCH // 2
    top, left = np.meshgrid(
        np.arange(rows) * _STRIDE + _STRIDE // 2 - half,
        np.arange(columns) * _STRIDE + _STRIDE // 2 - half,
        indexing="ij",
    )
    top, left = top.reshape(-1), left.reshape(-1)
    before = jnp.pad(pair[0], ((0, 0), (half, half), (half, half)), mode="edge")
    places = (top + half)[:, None, None] + np.arange(PATCH)[:, None]
    places = places * (width + 2 * half) + (left + half)[:, None, None] + np.arange(PATCH)

    def gather(picture: Array) -> Array:
        return picture.reshape(len(picture), -1)[:, places]

    right, down = (gather(part) for part in picture_gradient(before))
    grey = gather(before)
    grey = grey - grey.mean((-1, -2), keepdims=True)
    xx, xy, yy = ((a * b).mean((-1, -2)) for a, b in ((right, right), (right, down), (down, down)))
    texture = ((xx * yy - xy * xy) / (xx + yy + 1e-8)).reshape(-1, rows, columns)
    after = jnp.pad(pair[1], ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    return Level(Patches(grey, right, down, texture), after, jnp.asarray(top), jnp.asarray(left), margin, rows, columns)


def _search(level: Level, start: Array, iterations: int) -> tuple[Array, Array]:
    """Gauss-Newton iterations from `start`; where they go far away or raise the mismatch, the start stays."""
    grey, right, down, _ = level.patches
    xx = (right * right).sum((-1, -2)) + _RIDGE
    yy = (down * down).sum((-1, -2)) + _RIDGE
    xy = (right * down).sum((-1, -2))
    determinant = xx * yy - xy * xy
    first = start.reshape(start.shape[0], -1, 2)

    def iterate(flow: Array, _: None) -> tuple[Array, None]:
        difference = _sample_patches(level, flow) - grey
        x, y = (right * difference).sum((-1, -2)), (down * difference).sum((-1, -2))
        step = jnp.stack([yy * x - xy * y, xx * y - xy * x], -1) / determinant[..., None]
        moved = flow - step
        astray = jnp.linalg.norm(moved - first, axis=-1, keepdims=True) > PATCH
        return jnp.where(astray, first, moved), None

    flow, _ = jax.lax.scan(iterate, first, None, length=iterations)
    before, now = (jnp.abs(_sample_patches(level, where) - grey).mean((-1, -2)) for where in (first, flow))
    flow = jnp.where((now < before)[..., None], flow, first)
    shape = (-1, level.rows, level.columns)
    return flow.reshape(*shape, 2), jnp.minimum(now, before).reshape(shape)


def _sample_patches(level: Level, flow: Float[Array, "N P 2"]) -> Float[Array, "N P 8 8"]:
    """Samples the second pictures, bilinearly, at the displaced patches; the patches' means are subtracted."""
    height, width = level.after.shape[-2:]
    x = jnp.clip(level.left + flow[..., 0] + level.margin, 0, width - PATCH - 1.001)
    y = jnp.clip(level.top + flow[..., 1] + level.margin, 0, height - PATCH - 1.001)
    column, row = jnp.floor(x), jnp.floor(y)

    def windows(picture: Array, rows: Array, columns: Array) -> Array:
        cut = lambda r, c: jax.lax.dynamic_slice(picture, (r, c), (PATCH + 1, PATCH + 1))  # noqa: E731
        return jax.vmap(cut)(rows, columns)

    seen = jax.vmap(windows)(level.after, row.astype(jnp.int32), column.astype(jnp.int32))
    right, down = (x - column)[..., None, None], (y - row)[..., None, None]
    seen = seen[..., :-1] * (1 - right) + seen[..., 1:] * right
    seen = seen[..., :-1, :] * (1 - down) + seen[..., 1:, :] * down
    return seen - seen.mean((-1, -2), keepdims=True)


def _smooth_flow(flow: Array, mismatch: Array, texture: Array) -> Array:
    """Averages the flow over neighbouring patches."""
    weight = (texture + 1e-6) / jnp.maximum(mismatch, _LEAST_MISMATCH)
    sums = blur(jnp.stack([flow[..., 0] * weight, flow[..., 1] * weight, weight]), _SMOOTH)
    return jnp.moveaxis(sums[:2] / sums[2], 0, -1)


def _upsample_flow(flow: Float[Array, "N h w 2"], rows: int, columns: int) -> Float[Array, "N H W 2"]:
    """Upsamples the flow of a level as the start of the next finer one."""
    count, h, w, _ = flow.shape
    return 2 * jax.image.resize(flow, (count, 2 * h, 2 * w, 2), "linear")[:, :rows, :columns]


def _downsample(pictures: Float[Array, "*batch H W"]) -> Float[Array, "*batch h w"]:
    height, width = (size // 2 * 2 for size in pictures.shape[-2:])
    rows = pictures[..., :height:2, :width] + pictures[..., 1:height:2, :width]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def cells(height: int, width: int) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns (x, y) of the cells' middles in pixels, from the middle of the picture."""
    y, x = np.meshgrid(
        (np.arange(height // CELL) + 0.5) * CELL - height / 2,
        (np.arange(width // CELL) + 0.5) * CELL - width / 2,
        indexing="ij",
    )
    return x.astype(np.float32), y.astype(np.float32)
