"""Cross-talk of two axes of motion: how much one changes while only the other should; for dials and for meters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SMALLEST_CHANGE = 1e-6
"""The ratio is not defined where the axis that is moved changes by less."""


class CrossTalk(NamedTuple):
    """Changes of two axes while one of them is moved, means over groups."""

    own: float
    """Change of the axis that is moved, from its lowest to its highest value."""
    other: float
    """Change of the axis that should stay: in each group from its least to its greatest, whichever way and wherever in
    between, so that nothing cancels."""
    ratio: float | None
    """The second over the first; None: the axis that is moved does not change."""


def cross_talk(own: Float[np.ndarray, "G V"], other: Float[np.ndarray, "G V"]) -> CrossTalk:
    """Returns the cross-talk of G groups of V clips that differ in one axis of motion only, which rises.

    A group is what has all but that axis in common: a scene, with the same noise.

    Args:
        own: what is measured of the axis that is moved.
        other: what is measured of the other axis.
    """
    change, leak = float(np.mean(own[:, -1] - own[:, 0])), float(np.ptp(other, axis=1).mean())
    return CrossTalk(change, leak, leak / abs(change) if abs(change) > SMALLEST_CHANGE else None)
