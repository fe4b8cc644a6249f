"""The reference picture as channels beside the noisy latents."""

from __future__ import annotations

import dataclasses

import jax
from einops import repeat
from jaxtyping import Bool, UInt8

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE, VIDEO
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape

PICTURE_KEY = "picture_key"
"""Entry that training may add to a batch: the random key with which pictures are encoded; without it, to the mean."""
_PICTURE = 1_000_003
"""Folded into a conditioner's key, far from the masks' and the noise's."""


def first_frame(batch: Batch) -> UInt8[Array, "B H W 3"]:
    """The reference picture of a training clip."""
    return batch[VIDEO][:, 0]


@register()
@dataclasses.dataclass(frozen=True)
class ReferenceLatent(Conditioner):
    """The latent of the reference picture, repeated over the frames, as channels.

    Source: LivePhoto (arXiv:2312.02928), Sec. 3.2 and Fig. 2.
    """

    sample_posterior: bool = False
    """Whether training draws the picture's latent from the autoencoder's posterior instead of taking its mean; sampling
    always takes the mean."""

    def channels(self, codec: Codec) -> int:
        return codec.latent_channels

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        latent = latent_shape.encode(params, batch[IMAGE][:, None], batch.get(PICTURE_KEY))
        latent = keep_rows(kept, latent)
        return Condition(channels=(repeat(latent, "B 1 h w C -> B T h w C", T=latent_shape.frames),))

    def augment(self, batch: Batch, key: Array) -> Batch:
        return draw_picture(batch, key) if self.sample_posterior else batch


def draw_picture(batch: Batch, key: Array) -> Batch:
    """Returns the batch with the key by which the latents of its pictures are drawn."""
    return {**batch, PICTURE_KEY: jax.random.fold_in(key, _PICTURE)}
