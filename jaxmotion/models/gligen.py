"""GLIGEN's grounding: boxes and what is in them as tokens (arXiv:2301.07093).

The layers that read the tokens are `nn.transformer.GatedSelfAttention` and `GatedFeedForward`.

Source: section 3.1, "Grounding tokens", and the public code, which is the source of the frequencies, the widths and the
learned features of an empty place.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmotion.nn.linear import ZEROS, Linear

FREQUENCIES = 8
BASE = 100.0
"""The frequencies are BASE ** (k / FREQUENCIES) for k = 0, 1, ..., without a factor of 2 pi."""
POSITION_FEATURES = FREQUENCIES * 2 * 4


class BoxTokens(nn.Module):
    """Boxes and features of their labels to tokens; an empty place has learned features in place of both.

    features: width of the tokens.
    hidden: width of the two hidden layers.
    """

    features: int
    hidden: int = 512

    @nn.compact
    def __call__(
        self, boxes: Float[Array, "*N 4"], labels: Float[Array, "*N D"], there: Bool[Array, "*N"]
    ) -> Float[Array, "*N E"]:
        """Returns one token for each place.

        Args:
            boxes: left, top, right, bottom as shares of the picture, 0..1.
            labels: features of what is in the boxes.
            there: whether there is a box; what the others hold is not read.
        """
        no_label = self.param("no_label", ZEROS, labels.shape[-1:])
        no_position = self.param("no_position", ZEROS, (POSITION_FEATURES,))
        there = there[..., None]
        labels = jnp.where(there, labels, no_label.astype(labels.dtype))
        positions = jnp.where(there, fourier_features(boxes), no_position).astype(labels.dtype)
        x = jnp.concatenate([labels, positions], axis=-1)
        for i in range(2):
            x = nn.silu(Linear(self.hidden, name=f"hidden_{i}")(x))
        return Linear(self.features, name="out")(x)


def fourier_features(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N F"]:
    """Returns sines and cosines of the four edges: per frequency four sines, then four cosines."""
    frequencies = jnp.asarray(BASE ** (np.arange(FREQUENCIES) / FREQUENCIES), jnp.float32)
    angles = frequencies[:, None] * boxes.astype(jnp.float32)[..., None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*boxes.shape[:-1], POSITION_FEATURES)
