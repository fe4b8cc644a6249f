"""Conditioners: what turns entries of a batch into a `Condition` for the denoiser.

A conditioner is a frozen dataclass, so it is its own config. It reads the same batch entry whether that entry was
measured on a training clip or asked for by a person, and it knows nothing about training: dropping a condition is an
edit of the batch (`drop`, `null`), made by `Droppable`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.systems.latent_shape import Canvas
from jaxmotion.systems.precompute import Precompute


class Conditioner:
    """Base of all conditioners; the defaults describe one that has no weights, brings nothing and drops nothing."""

    @property
    def captions(self) -> tuple[int, int] | None:
        """(vocabulary, length) of the token ids it reads; None when it reads none."""
        return None

    def init(self, key: Array, canvas: Canvas) -> Params:
        """Parameters of the parts this conditioner owns, by part name (a top-level key of the parameter tree)."""
        return {}

    def sharding(self) -> Mapping[str, tuple]:
        """For each part that `init` makes, its table of (path pattern, PartitionSpec)."""
        return {}

    def channels(self, codec: Codec) -> int:
        """How many channels it puts beside z_t."""
        return 0

    def precomputable(self) -> Mapping[str, Precompute]:
        """Returns how entries that it reads are computed once, before training; see `System.precomputable`."""
        return {}

    def tokens(self) -> Mapping[str, int]:
        """The token sequences it brings and their feature sizes."""
        return {}

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        """The condition of a batch. `params` is the whole parameter tree."""
        raise NotImplementedError(f"{type(self).__name__} must say what condition it makes.")

    def drop(self, batch: Batch, key: Array) -> Batch:
        """The batch as training should see it: with some of this conditioner's entries replaced by `null`."""
        return batch

    def null(self, batch: Batch) -> Batch:
        """The batch with this conditioner's entries replaced by 'nothing was asked for'."""
        return batch


@register()
@dataclasses.dataclass(frozen=True)
class Droppable(Conditioner):
    """Another conditioner whose entries are replaced by its null with a probability, clip by clip, while training."""

    of: Conditioner
    probability: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"A drop probability lies in [0, 1]; got {self.probability}.")

    @property
    def captions(self) -> tuple[int, int] | None:
        return self.of.captions

    def init(self, key: Array, canvas: Canvas) -> Params:
        return self.of.init(key, canvas)

    def sharding(self) -> Mapping[str, tuple]:
        return self.of.sharding()

    def channels(self, codec: Codec) -> int:
        return self.of.channels(codec)

    def tokens(self) -> Mapping[str, int]:
        return self.of.tokens()

    def precomputable(self) -> Mapping[str, Precompute]:
        return self.of.precomputable()

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        return self.of.condition(params, batch, canvas)

    def drop(self, batch: Batch, key: Array) -> Batch:
        nulled = self.of.null(batch)
        changed = [name for name in batch if nulled[name] is not batch[name]]
        rows = batch[changed[0]].shape[0]
        dropped = jax.random.bernoulli(key, self.probability, (rows,))

        def choose(name: str) -> Array:
            mask = dropped.reshape((rows,) + (1,) * (batch[name].ndim - 1))
            return jnp.where(mask, nulled[name], batch[name])

        return {**batch, **{name: choose(name) for name in changed}}

    def null(self, batch: Batch) -> Batch:
        return self.of.null(batch)
