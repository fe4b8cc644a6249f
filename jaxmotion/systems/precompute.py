"""Entries of a batch that can be computed once, before training, and read from a file afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import IMAGE, MOMENTS, VIDEO
from jaxmotion.foundation.types import Array, Batch, Params, pixels_to_float
from jaxmotion.models.codec import MomentsCodec

MEMORY_FIELDS = ("tiles", "clips_at_once", "frames_at_once")
"""Fields of codecs that change no latent, only how much memory is used."""


@dataclasses.dataclass(frozen=True)
class Precompute:
    """A batch entry that is computed from a clip once.

    compute: the entry [B ...] from the parameters of `parts` and a batch of clips. Arrays of floats are stored in the
        precision of the set, numbers in float32, pictures (uint8 [H W 3]) without loss.
    parts: top-level keys of the parameters that it needs.
    settings: JSON values that decide the entry, by name; entries that share a part may share them.
    replaces: entries of a clip that training needs no longer.
    label: it is known of a clip as data might bring it, so a run need not be able to compute it again.
    sharded: the parts are so large that they are sharded over the devices; others are replicated.
    """

    compute: Callable[[Params, Batch], Array]
    parts: tuple[str, ...] = ()
    settings: Json = dataclasses.field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    label: bool = False
    sharded: bool = False


def latent_moments(codec: MomentsCodec) -> Precompute:
    """Returns how the moments of a clip's latents are computed; they replace the clip."""

    def compute(params: Params, batch: Batch) -> Array:
        return codec.moments(params.get("codec", {}), pixels_to_float(batch[VIDEO]))

    fields: Any = dataclasses.fields(codec)  # pyright: ignore[reportArgumentType]
    usual = {f.name: f.default for f in fields if f.name in MEMORY_FIELDS}
    decides: Any = dataclasses.replace(codec, **usual)  # pyright: ignore[reportArgumentType, reportType]
    return Precompute(compute, ("codec",), {"codec": config_json.to_json(decides)}, replaces=(VIDEO,))


def precompute_latents(
    codec: object, conditioned: Mapping[str, Precompute], measures: Mapping[str, Callable[[Params, Batch], Array]]
) -> dict[str, Precompute]:
    """Returns what a video diffusion model can precompute: latents, reference pictures, entries of its conditioners.

    Args:
        conditioned: entries that conditioners read and can precompute.
        measures: entries that are measured on clips; of these the reference picture is kept.

    Returns:
        by batch entry; nothing for a codec without moments, for the clips themselves would have to be kept.
    """
    if not isinstance(codec, MomentsCodec):
        return {}
    pictures = {IMAGE: Precompute(measures[IMAGE])} if IMAGE in measures else {}
    return {MOMENTS: latent_moments(codec), **conditioned, **pictures}
