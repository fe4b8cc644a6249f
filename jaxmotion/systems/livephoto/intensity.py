"""LivePhoto's motion intensity: the SSIM of neighbouring frames, sorted into ten levels, and the maps that carry it.

Source: LivePhoto (arXiv:2312.02928), Sec. 3.4, Eq. 4 and 5; Sec. 3.2 and Fig. 2 for the two one-channel maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from einops import repeat
from jaxtyping import Bool, Float, Int, UInt8

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.video.ssim import ssim

LEVEL = "level"
"""Entry, int32 [B], 1..10: the motion level."""
LEVELS = 10


def ssim_intensity(video: UInt8[Array, "B T H W 3"]) -> Float[Array, " B"]:
    """I of Eq. 4: the sum of the T-1 SSIMs of neighbouring frames divided by T, as printed.

    High means still: a clip that does not move has (T-1)/T, a clip of unrelated frames is near 0.

    Not specified in the paper; we use: SSIM on RGB (averaged over the channels) at the size the clip is trained at,
    with the usual 11-pixel Gaussian window.
    """
    frames = jnp.asarray(video, jnp.float32) / 255.0
    return jnp.sum(ssim(frames[:, :-1], frames[:, 1:]), axis=1) / video.shape[1]


def bin_edges(
    intensities: Float[np.ndarray, " N"], rule: Literal["equal-count", "equal-width"] = "equal-count"
) -> tuple[float, ...]:
    """The nine edges, ascending, that sort intensities into ten levels.

    Not specified in the paper; we use: equal-count (each level holds a tenth of the training clips); equal-width
    between the smallest and the largest intensity is the other value.

    Raises:
        ValueError: fewer clips than levels, or so many equal intensities that two edges would coincide.
    """
    if len(intensities) < LEVELS:
        raise ValueError(f"Ten levels cannot be measured on {len(intensities)} clips; give at least {LEVELS}.")
    inner = np.linspace(0.0, 1.0, LEVELS + 1)[1:-1]
    if rule == "equal-count":
        edges = np.quantile(intensities, inner)
    else:
        low, high = np.min(intensities), np.max(intensities)
        edges = low + (high - low) * inner
    if np.any(np.diff(edges) <= 0.0):
        raise ValueError(
            "Two of the level edges coincide: too many clips move by exactly the same amount "
            f"(edges {np.round(edges, 4).tolist()}). Measure on more varied clips or use the rule 'equal-width'."
        )
    return tuple(float(edge) for edge in edges)


def level_of(intensity: Float[Array, " B"], edges: tuple[float, ...]) -> Int[Array, " B"]:
    """Level 1..10 of an intensity: 1 is the stillest tenth (highest SSIM), 10 moves most (lowest SSIM)."""
    return LEVELS - jnp.searchsorted(jnp.asarray(edges), intensity).astype(jnp.int32)


@register()
@dataclasses.dataclass(frozen=True)
class FrameMap(Conditioner):
    """One channel that holds n/(T-1) all over frame n: 0 on the first frame, 1 on the last. Source: Sec. 3.2."""

    def channels(self, codec: Codec) -> int:
        return 1

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        ramp = jnp.linspace(0.0, 1.0, latent_shape.frames)
        ramps = repeat(ramp, "T -> B T h w 1", B=kept.shape[0], h=latent_shape.height, w=latent_shape.width)
        return Condition(channels=(keep_rows(kept, ramps),))


@register()
@dataclasses.dataclass(frozen=True)
class LevelMap(Conditioner):
    """One channel filled with the motion level, the same on all frames. Source: Sec. 3.4."""

    edges: tuple[float, ...] = ()
    """The nine SSIM edges between the levels; empty until they are measured on the training set."""
    rule: Literal["equal-count", "equal-width"] = "equal-count"
    """How the edges are placed."""
    clips: int = 1000
    """How many training clips the edges are measured on."""
    scale: float = 1.0
    """Factor of the level number. Not specified in the paper; we use 1, the raw number 1..10."""

    def __post_init__(self) -> None:
        if self.edges and (len(self.edges) != LEVELS - 1 or any(np.diff(self.edges) <= 0)):
            raise ValueError(f"Ten levels have nine ascending edges; got {self.edges}.")

    def channels(self, codec: Codec) -> int:
        return 1

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        level = keep_rows(kept, batch[LEVEL].astype(jnp.float32) * self.scale)
        shape = {"T": latent_shape.frames, "h": latent_shape.height, "w": latent_shape.width}
        return Condition(channels=(repeat(level, "B -> B T h w 1", **shape),))

    def measure_edges(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> tuple[float, ...]:
        """The edges measured on batches of training clips (as many as there are, up to `clips`)."""
        intensities: list[float] = []
        for batch in clips:
            intensities.extend(np.asarray(ssim_intensity(batch)).tolist())
            if len(intensities) >= self.clips:
                break
        return bin_edges(np.asarray(intensities[: self.clips]), self.rule)
