"""The reference picture as channels beside the noisy latents."""

from __future__ import annotations

import dataclasses

from einops import repeat
from jaxtyping import Bool, UInt8

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE, VIDEO
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape


def first_frame(batch: Batch) -> UInt8[Array, "B H W 3"]:
    """The reference picture of a training clip."""
    return batch[VIDEO][:, 0]


@register()
@dataclasses.dataclass(frozen=True)
class ReferenceLatent(Conditioner):
    """The latent of the reference picture, repeated over the frames, as channels.

    Source: LivePhoto (arXiv:2312.02928), Sec. 3.2 and Fig. 2.
    """

    def channels(self, codec: Codec) -> int:
        return codec.latent_channels

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        latent = keep_rows(kept, latent_shape.encode(params, batch[IMAGE][:, None]))
        return Condition(channels=(repeat(latent, "B 1 h w C -> B T h w C", T=latent_shape.frames),))
