"""Features of a frame without a trained network: histograms of oriented gradients.

Source: "Histograms of Oriented Gradients for Human Detection" (Dalal and Triggs, 2005).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

BINS = 8
"""Directions of a histogram."""
CELLS = (4, 8, 16)
"""Pixels a side of the cells of histograms."""


def feature_difference(video: UInt8[Array, "T H W 3"]) -> Float[Array, ""]:
    """Returns the mean distance of neighbouring frames' features: MotionStone's "S" (arXiv:2412.05848, Table 2).

    Not specified in the paper; we use: histograms of gradients at three sizes of cells, each normed, because no
    pretrained network comes with this package.
    """
    grey = jnp.asarray(video, jnp.float32).mean(-1) / 255
    differences = []
    for cell in CELLS:
        features = histograms(grey, cell)
        differences.append(jnp.linalg.norm(features[1:] - features[:-1], axis=-1).mean())
    return jnp.stack(differences).mean()


def histograms(grey: Float[Array, "T H W"], cell: int) -> Float[Array, "T h w D"]:
    """Returns histograms of the gradients' directions in every cell, with norm 1 where there is a gradient."""
    down, right = jnp.gradient(grey, axis=(1, 2))
    strength, angle = jnp.hypot(right, down), jnp.arctan2(down, right)
    share = (angle / (2 * jnp.pi) * BINS) % BINS
    near = jnp.maximum(0, 1 - jnp.abs((share[..., None] - jnp.arange(BINS) + BINS / 2) % BINS - BINS / 2))
    weighted = strength[..., None] * near
    rows, columns = grey.shape[1] // cell, grey.shape[2] // cell
    cells = weighted[:, : rows * cell, : columns * cell].reshape(-1, rows, cell, columns, cell, BINS).mean((2, 4))
    return cells / (jnp.linalg.norm(cells, axis=-1, keepdims=True) + 0.01)
