"""The losses of the motion estimator: which of two clips moves more, and by how much each does.

Scores are [B], one axis (object or camera) at a time. A pair (i, j) has an order: +1 if clip i moves more, -1 if clip j
does, 0 for a tie, and a weight, 0 where nobody has judged it.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation: L_o = max(0, s2 - s1) where clip 1 moves more, L_c
alike, L_r = |s - y|^2 summed over the axes, L = L_o + L_c + lambda L_r.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register


class PairLoss(Protocol):
    """Returns the loss of a pair."""

    def __call__(self, ahead: Float[Array, "*P"]) -> Float[Array, "*P"]:
        """The cost where the clip that moves more scores higher by `ahead`."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class Hinge:
    """max(0, margin - ahead). The paper's has no margin."""

    margin: float = 0.0
    """Score by which the stronger clip must be ahead."""

    def __call__(self, ahead: Float[Array, "*P"]) -> Float[Array, "*P"]:
        """The cost of being ahead by less than the margin."""
        return jnp.maximum(0.0, self.margin - ahead)


@register()
@dataclasses.dataclass(frozen=True)
class Logistic:
    """log(1 + exp(-ahead / scale)): the Bradley-Terry likelihood of a judgement, as RankNet has it."""

    scale: float = 1.0
    """Difference of scores at which three of four judges (73 %) agree."""

    def __call__(self, ahead: Float[Array, "*P"]) -> Float[Array, "*P"]:
        """Minus the logarithm of the likelihood."""
        return jax.nn.softplus(-ahead / self.scale)


def ranking_loss(
    first: Float[Array, "*P"],
    second: Float[Array, "*P"],
    order: Float[Array, "*P"],
    weight: Float[Array, "*P"],
    pair_loss: PairLoss,
    tie_margin: float = 0.5,
) -> Array:
    """Mean cost of the judged pairs of one axis; 0 without any.

    Not specified in the paper; we use: a tie costs what the two scores differ by beyond `tie_margin`.
    """
    ahead = first - second
    apart = pair_loss(jnp.sign(order) * ahead)
    tied = jnp.maximum(0.0, jnp.abs(ahead) - tie_margin)
    cost = jnp.where(order == 0, tied, apart)
    return (weight * cost).sum() / jnp.maximum(weight.sum(), 1.0)


def order_of(truth: Float[Array, " B"], known: Float[Array, " B"], least: float) -> tuple[Array, Array]:
    """Orders and weights [B B] of all pairs of a batch from its labels; those closer than `least` are not judged.

    known: 1 where the label is there, 0 where not.
    """
    difference = truth[:, None] - truth[None, :]
    apart = jnp.abs(difference) >= least
    upper = jnp.triu(jnp.ones_like(difference), 1)
    return jnp.sign(difference), apart * upper * known[:, None] * known[None, :]


def regression_loss(scores: Float[Array, " B"], labels: Float[Array, " B"], known: Float[Array, " B"]) -> Array:
    """Mean of |s - y|^2 over the clips that have a label; 0 without any."""
    return (known * (scores - labels) ** 2).sum() / jnp.maximum(known.sum(), 1.0)
