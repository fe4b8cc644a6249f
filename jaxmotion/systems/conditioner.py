"""Conditioners: what turns entries of a batch into a `Condition` for the denoiser.

A conditioner is a frozen dataclass, so it is its own config. It reads the same batch entry whether that entry was
measured on a training clip or set by a person. Whether it counts is a mask over the rows of the batch, `kept`: dropping
a condition in training and the null branch of guidance are that mask, and each conditioner has one of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Bool

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.precompute import Precompute


class Conditioner:
    """Base of all conditioners; the defaults describe one that has no weights and brings nothing."""

    absent_in_inversion: ClassVar[bool] = False
    """Whether DDIM inversion of the picture runs without this condition, as with captions and motion scores."""

    null_is_known: ClassVar[bool] = False
    """Whether its absence means something to a network that was never trained without it, as the empty caption does to
    public ones. Others can be guided only if training drops them."""

    only_measures: ClassVar[bool] = False
    """Whether it only makes entries that others read and brings no condition, so there is nothing to drop or guide."""

    @property
    def token_spec(self) -> tuple[int, int] | None:
        """(vocabulary, length) of the token ids it reads; None when it reads none."""
        return None

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        """Parameters of the parts this conditioner owns, by part name (a top-level key of the parameter tree)."""
        return {}

    def sharding(self) -> Mapping[str, tuple]:
        """For each part that `init` makes, its table of (path pattern, PartitionSpec)."""
        return {}

    def channels(self, codec: Codec) -> int:
        """Returns the number of channels that it puts beside z_t."""
        return 0

    def precomputable(self) -> Mapping[str, Precompute]:
        """Returns how entries that it reads are computed once, before training; see `System.precomputable`."""
        return {}

    def idle_parts(self, entries: Collection[str]) -> frozenset[str]:
        """Returns its parts that no training step reads on data with these entries; see `System.idle_parts`."""
        return frozenset()

    def tokens(self) -> Mapping[str, int]:
        """The token sequences it brings and their feature sizes."""
        return {}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        """Returns the condition of a batch.

        Args:
            params: the whole parameter tree.
            kept: False for rows whose condition must be as if nothing had been said.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what condition it makes.")

    def augment(self, batch: Batch, key: Array) -> Batch:
        """Returns the batch as training should see it, such as with noise on the picture; unchanged by default.

        Args:
            key: must be split or folded before it is used, for the mask of this conditioner is drawn from it as well.
        """
        return batch


def keep_rows(kept: Bool[Array, " B"], values: Array) -> Array:
    """Returns values [B ...] with zeros in the rows that are not kept."""
    return jnp.where(kept.reshape(-1, *(1,) * (values.ndim - 1)), values, jnp.zeros((), values.dtype))


def separate_dropout(values: Json) -> Json:
    """Returns a system's JSON values with the rates of dropping apart from its conditioners.

    Earlier versions wrapped a conditioner that was dropped: {"class": "Droppable", "of": ..., "probability": 0.1}.
    """
    conditioners, dropout = dict(values["conditioners"]), dict(values.get("dropout", {}))
    for name, part in conditioners.items():
        if part["class"].rpartition(":")[2] == "Droppable":
            conditioners[name], dropout[name] = part["of"], part["probability"]
    return {**values, "conditioners": conditioners, "dropout": dropout}
