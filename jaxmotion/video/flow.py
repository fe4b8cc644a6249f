"""Motion speed of clips by dense optical flow.

The flow is a pyramidal, iterative Lucas-Kanade (Lucas and Kanade, IJCAI 1981; Bouguet 2001) with the smoothness pull of
Horn and Schunck (1981), the mixture of Bruhn et al. (IJCV 61(3), 2005): where the pictures say nothing, a pixel takes
the flow of its neighbours. Both pictures are warped half-way towards each other, so that interpolation blurs them alike
and does not pull the flow towards whole pixels: scikit-image's one-sided TV-L1 and ILK read 0.1 px as 0.12 to 0.13 px.

Measured on clips of photographs with known motion, 32 to 256 px wide, 0.1 to 4 px a frame: pans, zooms and rolls of
photographs with texture everywhere are within 13 % (1 px and more: 7 %). What moves unseen, such as a black sky, is
filled in but read too slow in zooms and rolls. A small object on a still ground is read too fast, because its motion
spreads over the two pixels around it: by 1.8 where it is 16 px wide, by 1.45 where it is 32 px. Noise of 2 / 255 on a
still clip reads as 0.04 to 0.07 px a frame on textured pictures and 0.13 px on mostly dark ones.
Not specified there; we use: the constants below, by those measurements.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jaxmotion.video.luma import LUMA

SMALLEST = 8
"""Pixels a side below which a picture is neither measured nor halved further."""
_BLUR = 0.8  # px, before anything: derivatives of noise are noise
_WINDOW = 2.0  # px, standard deviation of the window in which the flow is taken to be constant
_REACH = 2.0  # px, standard deviation of the neighbourhood whose flow pulls
_PULL = 5e-5  # squared grey levels (white = 1) per squared px: a gradient of 0.007 counts as much as the neighbours
_LEAST_TELLING = 1e-5  # in the units of _PULL
_ITERATIONS = 6  # at each level of the pyramid
_PIXELS_AT_ONCE = 1 << 19


def motion_speed(video: UInt8[np.ndarray | Array, "*batch T H W 3"], fps: float | np.ndarray) -> np.ndarray:
    """Returns float32 [*batch]: the mean displacement of a clip's pixels, in image diagonals per second.

    Args:
        video: one clip or a batch of them, at least 2 frames each.
        fps: frames per second, one number or one for each clip [*batch].
    """
    video = np.asarray(video)
    if video.dtype != np.uint8 or video.ndim < 4 or video.shape[-1] != 3:
        raise ValueError(f"A clip is uint8 [..., T, H, W, 3]; got {video.dtype} {video.shape}.")
    *batch, frames, height, width, _ = video.shape
    if frames < 2 or min(height, width) < SMALLEST:
        raise ValueError(
            f"Motion needs at least 2 frames of {SMALLEST} x {SMALLEST} px; got {frames} of {width} x {height} px."
        )
    first, second = (part.reshape(-1, height, width, 3) for part in (video[..., :-1, :, :, :], video[..., 1:, :, :, :]))
    pixels = _mean_lengths(first, second).reshape(*batch, frames - 1).mean(-1)
    return np.asarray(pixels * np.asarray(fps, np.float32) / math.hypot(height, width), np.float32)


def optical_flow(first: Float[Array, "N H W"], second: Float[Array, "N H W"]) -> Float[Array, "N H W 2"]:
    """Returns the displacement (right, down) in pixels from each first picture to its second, grey in 0..1.

    It belongs to the moment half-way between the two: first(p - flow / 2) = second(p + flow / 2).
    """
    pyramid = [blur(jnp.stack([first, second]), _BLUR)]
    while min(pyramid[-1].shape[-2:]) >= 2 * SMALLEST:
        pyramid.append(halve(pyramid[-1]))
    flow = jnp.zeros((len(first), 2, *pyramid[-1].shape[-2:]), jnp.float32)
    for level in reversed(pyramid):
        flow = _refine(level, _upsample(flow, *level.shape[-2:]))
    return jnp.moveaxis(flow, 1, -1)


def _mean_lengths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns [N] mean flow lengths of N pairs, 2^k at a time and the last padded, so that few sizes are compiled."""
    count, height, width, _ = first.shape
    at_once = 1 << max(0, min(count - 1, _PIXELS_AT_ONCE // (height * width) - 1)).bit_length()
    lengths = []
    for start in range(0, count, at_once):
        pairs = [pictures[start : start + at_once] for pictures in (first, second)]
        filled = [np.concatenate([pair, np.zeros((at_once - len(pair), *pair.shape[1:]), np.uint8)]) for pair in pairs]
        lengths.append(np.asarray(_mean_length(*filled))[: len(pairs[0])])
    return np.concatenate(lengths)


@jax.jit
def _mean_length(first: UInt8[Array, "N H W 3"], second: UInt8[Array, "N H W 3"]) -> Float[Array, "N"]:
    flow = optical_flow(_grey(first), _grey(second))
    return jnp.sqrt(jnp.sum(flow**2, -1)).mean((1, 2))


def _grey(pixels: UInt8[Array, "N H W 3"]) -> Float[Array, "N H W"]:
    red, green, blue = jnp.moveaxis(pixels.astype(jnp.float32) / 255, -1, 0)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _refine(pair: Float[Array, "2 N H W"], flow: Float[Array, "N 2 H W"]) -> Float[Array, "N 2 H W"]:
    """Iterates at one level; each iteration solves, at every pixel, (A + k) flow' = A flow - b + k mean(flow).

    A = W * (g g^T) and b = W * (g d), W the window, g the gradient and d the difference of the warped pictures. Pixels
    that either picture does not show do not count. In the mean of the neighbours' flow each counts as much as its
    window tells: det A / trace A, about the smaller eigenvalue, large at corners and texture and nothing at edges.
    """
    height, width = pair.shape[-2:]
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
    )

    def iterate(flow: Array, _: None) -> tuple[Array, None]:
        right, down = flow[:, 0], flow[:, 1]
        towards = jnp.stack([flow, -flow])
        (before, after), (shown, still_shown) = _sample(
            pair, rows - towards[:, :, 1] / 2, columns - towards[:, :, 0] / 2
        )
        gx, gy = picture_gradient((before + after) / 2)
        difference = after - before
        terms = jnp.stack([gx * gx, gy * gy, gx * gy, gx * difference, gy * difference])
        xx, yy, xy, bx, by = blur(terms * (shown & still_shown), _WINDOW, border="constant")
        telling = (xx * yy - xy * xy) / (xx + yy + _LEAST_TELLING) + _LEAST_TELLING
        near = blur(jnp.stack([telling * right, telling * down, telling]), _REACH)
        px = xx * right + xy * down - bx + _PULL * near[0] / near[2]
        py = xy * right + yy * down - by + _PULL * near[1] / near[2]
        xx, yy = xx + _PULL, yy + _PULL
        return jnp.stack([yy * px - xy * py, xx * py - xy * px], 1) / (xx * yy - xy * xy)[:, None], None

    return jax.lax.scan(iterate, flow, None, length=_ITERATIONS)[0]


def _sample(
    pictures: Float[Array, "*batch H W"], row: Float[Array, "*batch H W"], column: Float[Array, "*batch H W"]
) -> tuple[Float[Array, "*batch H W"], Bool[Array, "*batch H W"]]:
    """Returns bilinear values at fractional places (outside, the nearest edge's), and whether these lie inside."""
    *batch, height, width = pictures.shape
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    top, left = jnp.minimum(jnp.floor(row), height - 2), jnp.minimum(jnp.floor(column), width - 2)
    corner = (top * width + left).astype(jnp.int32).reshape(*batch, -1)
    flat = pictures.reshape(*batch, -1)

    def value(offset: int) -> Array:
        return jnp.take_along_axis(flat, corner + offset, axis=-1, mode="clip").reshape(pictures.shape)

    right, down = column - left, row - top
    upper = (1 - right) * value(0) + right * value(1)
    lower = (1 - right) * value(width) + right * value(width + 1)
    return (1 - down) * upper + down * lower, inside


def picture_gradient(picture: Float[Array, "N H W"]) -> tuple[Array, Array]:
    """Returns central differences to the right and down; edges are replicated."""
    padded = jnp.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def halve(pictures: Float[Array, "*batch H W"]) -> Float[Array, "*batch h w"]:
    """Halves the size of pictures, without aliasing."""
    height, width = (size // 2 * 2 for size in pictures.shape[-2:])
    pictures = blur(pictures, 0.7)[..., :height, :width]
    rows = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _upsample(flow: Float[Array, "N 2 h w"], height: int, width: int) -> Float[Array, "N 2 H W"]:
    """Upsamples the flow of a level as a first guess for the next finer one (itself, if it is of that size already)."""
    h, w = flow.shape[-2:]
    if (h, w) == (height, width):
        return flow
    wide = 2 * jax.image.resize(flow, (*flow.shape[:2], 2 * h, 2 * w), "linear")
    return jnp.pad(wide, ((0, 0), (0, 0), (0, height - 2 * h), (0, width - 2 * w)), mode="edge")


def blur(pictures: Float[Array, "*batch H W"], sigma: float, border: str = "edge") -> Float[Array, "*batch H W"]:
    """Gaussian blur as a product with one band matrix per axis: quick to compile and quick on every device."""
    down, right = (jnp.asarray(_band(size, sigma, border)) for size in pictures.shape[-2:])
    return jnp.einsum("hy,...yx,wx->...hw", down, pictures, right, precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=64)
def _band(size: int, sigma: float, border: str) -> np.ndarray:
    """Returns float32 [size size]: row i has the weights of the mean around pixel i.

    border: beyond it lies the edge's value (`edge`) or nothing (`constant`).
    """
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(np.eye(size), ((reach, reach), (0, 0)), mode=border)  # pyright: ignore[reportCallIssue, reportArgumentType]
    rows = [weights @ padded[start : start + 2 * reach + 1] for start in range(size)]
    return np.asarray(rows / weights.sum(), np.float32)
