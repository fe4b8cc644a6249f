"""Correlation with 3 x 3 kernels by Winograd's tiles: 2.25 times fewer products, 4 times fewer with repeated pixels.

Two neighbouring results of a kernel of 3 need 6 products; as sums of sums they need 4. In both dimensions that makes 16
instead of 36 for each tile of 2 x 2 results. Written as plain array code for XLA on a CPU, whose matrix products are
fast: the products of all tiles are one batched matrix product, between sums that cost little beside it.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), section 4.1, F(2, 3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_AT_ONCE = 8 * 2**20
"""Bytes of tiles that are transformed at once, so that they stay in the cache; at least those of the kernel's tiles."""

_SUMMED_AT_ONCE = 64 * 2**20
"""Bytes of tiles at once in the gradient of the kernel, which sums over tiles and is slow over few of them."""


class _Tiling:
    """Transforms of F(2, 3) in one dimension: n products make two neighbouring results.

    spread [n p]: the input transform (B^T of the paper), of the p pixels that the two results depend on.
    weigh  [n 3]: the kernel transform (G).
    join   [2 n]: the output transform (A^T).
    """

    def __init__(self, spread: Sequence, weigh: Sequence, join: Sequence):
        self.spread, self.weigh, self.join = (np.array(matrix, np.float32) for matrix in (spread, weigh, join))
        self.n = len(weigh)


_TILINGS = {
    1: _Tiling(
        spread=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        weigh=[[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        join=[[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    # Of four pixels the two in the middle are one, so the third product above is zero.
    2: _Tiling(
        spread=[[1, -1, 0], [0, 1, 0], [0, 1, -1]],
        weigh=[[1, 0, 0], [1, 1, 1], [0, 0, 1]],
        join=[[1, 1, 0], [0, 1, -1]],
    ),
}
"""Transforms by the number of times that each pixel is repeated."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate_by_tiles(
    x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"], repeat: int
) -> Float[Array, "N h w D"]:
    """Returns the zero-padded correlation of images whose pixels are first repeated `repeat` (1 or 2) times each way.

    Height and width after that are even.
    """
    tiling = _TILINGS[repeat]
    return _correlate(x, _weights(kernel, tiling.weigh), 1, repeat)


def _forward(x: Array, kernel: Array, repeat: int):
    return correlate_by_tiles(x, kernel, repeat), (x, kernel)


def _backward(repeat: int, saved, gradient: Array):
    x, kernel = saved
    tiling = _TILINGS[repeat]
    # Both gradients below read it; without the barrier XLA on CPU recomputes it for each.
    gradient = jax.lax.optimization_barrier(gradient)
    padded, parts = _pad(x), _Parts(gradient.shape, kernel.shape, tiling.n, _SUMMED_AT_ONCE)

    def of_kernel(start: Array) -> Array:
        left = _left(parts.take(padded, start, 2 // repeat, 2), repeat)
        right = _results_transposed(parts.take(gradient, start, 2), tiling)
        left, right = (y.reshape(len(y), -1, y.shape[-1]) for y in (left, right))
        return jax.lax.dot_general(left, right, (((1,), (1,)), ((0,), (0,))))

    found = parts.sum(of_kernel)
    found = jnp.tensordot(_both(tiling.weigh).T, found.reshape(len(found), -1), 1).reshape(kernel.shape)
    if repeat == 1:
        # The kernel turned around: first and last product change places, features are summed that were results.
        return _correlate(gradient, _weights(kernel, tiling.weigh[[3, 1, 2, 0]]), 2, repeat), found
    products = _products(_results_transposed(gradient, tiling), _weights(kernel, tiling.weigh), 2)
    return _left_of_repeated_transposed(products), found


correlate_by_tiles.defvjp(_forward, _backward)


def _correlate(x: Float[Array, "N H W C"], weights: Array, axis: int, repeat: int) -> Float[Array, "N h w D"]:
    """Returns the correlation with the kernel of these weights, summed over their `axis`."""
    N, H, W, _ = x.shape
    padded = _pad(x)
    parts = _Parts((N, repeat * H, repeat * W), weights.shape, _TILINGS[repeat].n, _AT_ONCE)

    def results(start: Array) -> Array:
        left = _left(parts.take(padded, start, 2 // repeat, 2), repeat)
        return _results(_products(left, weights, axis), _TILINGS[repeat])

    return parts.join(results).reshape(N, repeat * H, repeat * W, -1)


def _pad(x: Float[Array, "N H W C"]) -> Float[Array, "N H+2 W+2 C"]:
    # Materialised once: XLA on CPU would otherwise fuse the padding into every slice that `_windows` takes.
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


# Products of tiles, [nn N h w features]: nn of them for each of h x w tiles, in the order [columns rows].


def _products(left: Float[Array, "nn N h w C"], weights: Array, axis: int) -> Float[Array, "nn N h w D"]:
    """Multiplies transformed images by transformed kernels, summing over this axis of the weights."""
    flat = left.reshape(len(left), -1, left.shape[-1])
    y = jax.lax.dot_general(flat, weights, (((2,), (axis,)), ((0,), (0,))))
    return y.reshape(*left.shape[:-1], -1)


def _weights(kernel: Float[Array, "3 3 C D"], weigh: Float[np.ndarray, "n 3"]) -> Float[Array, "nn C D"]:
    """Returns the transformed kernel."""
    y = jnp.tensordot(_both(weigh), kernel.reshape(9, -1), 1)
    return y.reshape(-1, *kernel.shape[2:])


def _both(weigh: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "nn 9"]:
    """Returns `weigh` in both dimensions, from kernels [rows columns] to products [columns rows]."""
    return np.einsum("ia,jb->jiab", weigh, weigh).reshape(-1, 9)


def _left(padded: Float[Array, "N H+2 W+2 C"], repeat: int) -> Float[Array, "nn N h w C"]:
    """Returns the transformed images."""
    spread = _TILINGS[repeat].spread
    y = padded
    for axis in (1, 3):  # the second counts the axis that the first has added
        # One pass of sums for each axis: fused, XLA on CPU would repeat those of the first for each of the second.
        y = jax.lax.optimization_barrier(jnp.stack(_combine(spread, _windows(y, axis, repeat))))
    return y.reshape(-1, *y.shape[2:])


def _left_of_repeated_transposed(y: Float[Array, "nn N h w C"]) -> Float[Array, "N h w C"]:
    """Returns the transpose of padding and `_left` for repeated pixels."""
    spread = _TILINGS[2].spread.T
    y = y.reshape(3, 3, *y.shape[1:])
    # One axis after the other, as in `_left`.
    y = jax.lax.optimization_barrier(_windows_transposed(_combine(spread, [y[:, i] for i in range(3)]), 2))
    return _windows_transposed(_combine(spread, list(y)), 2)


def _results(y: Float[Array, "nn N h w D"], tiling: _Tiling) -> Float[Array, "N H W D"]:
    """Applies the output transform to the products."""
    y = y.reshape(tiling.n, tiling.n, *y.shape[1:])
    columns = _combine(tiling.join, list(y))
    rows = [[_combine(tiling.join, list(column))[r] for column in columns] for r in range(2)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
    N, h, _, w, _, D = y.shape
    return y.reshape(N, 2 * h, 2 * w, D)


def _results_transposed(y: Float[Array, "N H W D"], tiling: _Tiling) -> Float[Array, "nn N h w D"]:
    """Returns the transpose of `_results`."""
    N, H, W, D = y.shape
    y = y.reshape(N, H // 2, 2, W // 2, 2, D)
    first, second = (coefficients.reshape(-1, 1, 1, 1, 1, 1) for coefficients in tiling.join)
    # One axis after the other, as in `_left`; the second barrier keeps the sums out of the products that read them.
    y = jax.lax.optimization_barrier(first * y[:, :, 0] + second * y[:, :, 1])
    y = jax.lax.optimization_barrier(first[:, None] * y[..., 0, :] + second[:, None] * y[..., 1, :])
    return y.reshape(-1, N, H // 2, W // 2, D)


# One dimension.


def _combine(matrix: Float[np.ndarray, "n m"], arrays: Sequence[Array]) -> list[Array]:
    """Multiplies the matrix by the list of arrays."""
    terms = ([float(c) * array for c, array in zip(row, arrays, strict=True) if c] for row in matrix)
    return [functools.reduce(jnp.add, row) for row in terms]


def _windows(x: Array, axis: int, repeat: int) -> list[Array]:
    """Returns the pixels of an image, padded by one, that each pair of results depends on, first ones first."""
    if repeat == 2:
        return [jax.lax.slice_in_dim(x, i, i + x.shape[axis] - 2, axis=axis) for i in range(3)]
    half = x.shape[axis] // 2 - 1
    pairs = x.reshape(*x.shape[:axis], half + 1, 2, *x.shape[axis + 1 :])
    starts = [jax.lax.slice_in_dim(pairs, i // 2, i // 2 + half, axis=axis) for i in range(4)]
    return [jax.lax.index_in_dim(start, i % 2, axis + 1, keepdims=False) for i, start in enumerate(starts)]


def _windows_transposed(windows: Sequence[Array], axis: int) -> Array:
    """Returns the transpose of `_windows` for repeated pixels, without the padding."""

    def moved(x: Array, by: int) -> Array:
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (by, -by, 0)
        return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)

    return windows[1] + moved(windows[0], -1) + moved(windows[2], 1)


# Some tiles at a time.


class _Parts:
    """Partition of the results [N H W]: some images, or some rows of tiles of one image, at a time."""

    def __init__(self, results: tuple[int, ...], kernel: tuple[int, ...], n: int, at_once: int):
        C, D = kernel[-2:]
        images, rows, columns = results[0], results[1] // 2, results[2] // 2
        row = 4 * n * n * columns * max(C, D)
        fitting = max(at_once, 4 * n * n * C * D) // row
        self.rows = _divisor(rows, fitting)
        self.images = _divisor(images, fitting // rows) if self.rows == rows else 1
        places = np.meshgrid(np.arange(0, images, self.images), np.arange(0, rows, self.rows), indexing="ij")
        self.starts: Any = np.stack(places, axis=-1).reshape(-1, 2)

    def take(self, x: Float[Array, "N H W C"], start: Array, pixels: int, beyond: int = 0) -> Array:
        """Returns a part of an image with so many pixels per row of tiles, and some beyond the last."""
        shape = (self.images, pixels * self.rows + beyond, *x.shape[2:])
        return x if shape == x.shape else jax.lax.dynamic_slice(x, (start[0], pixels * start[1], 0, 0), shape)

    def join(self, part: Callable[[Array], Array]) -> Array:
        """Computes all parts one after the other and returns them side by side."""
        return part(self.starts[0]) if len(self.starts) == 1 else jax.lax.map(part, self.starts)

    def sum(self, part: Callable[[Array], Array]) -> Array:
        """Returns the sum of all parts."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, self.starts[0]))
        if len(self.starts) == 1:
            return part(self.starts[0])
        return jax.lax.scan(lambda total, start: (total + part(start), None), zeros, self.starts)[0]


def _divisor(number: int, at_most: int) -> int:
    """Returns the largest divisor of the number that is not above `at_most`, or 1."""
    return next((n for n in range(min(number, at_most), 1, -1) if number % n == 0), 1)
