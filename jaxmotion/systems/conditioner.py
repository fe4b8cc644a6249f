"""Conditioners: what turns entries of a batch into a `Condition` for the denoiser.

A conditioner is a frozen dataclass, so it is its own config. It reads the same batch entry whether that entry was
measured on a training clip or asked for by a person, and it knows nothing about training: dropping a condition is an
edit of the batch (`drop`, `null`), made by `Droppable`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import (
    IMAGE,
    MOMENTS,
    TEXT,
    TEXT_FEATURES,
    VIDEO,
    Array,
    Batch,
    Condition,
    Params,
    pixels_to_float,
)
from jaxmotion.models.clip import CLIPText, CLIPTextSizes
from jaxmotion.models.t5 import T5Encoder, T5Sizes
from jaxmotion.nn.apply import apply


class Codec(Protocol):
    """Pixels to latents and back. Implementations are in `models/autoencoder.py`."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def factor(self) -> int:
        """How many pixels one latent position spans, in height and in width."""
        ...

    def latent_frames(self, frames: int) -> int:
        """How many latents so many frames are."""
        ...

    @property
    def sharding(self) -> tuple[tuple[str, Any], ...]:
        """(regular expression on paths of its parameters, PartitionSpec); the first match wins."""
        ...

    def init(self, key: Array) -> Params:
        """Random parameters; an empty dict when there are none."""
        ...

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B t h w C"]:
        """Latents of pixels in [-1, 1], scaled to about unit variance: their mean, or a sample when a key is given."""
        ...

    def decode(self, params: Params, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels in [-1, 1] of latents."""
        ...


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The clip that is being denoised: how many latents it is, how large they are, and the codec between.

    multiple: the number of latents is brought to a multiple of this, by copies of the first one before it.
    """

    codec: Codec
    latents: int
    height: int
    width: int
    multiple: int = 1

    @property
    def length(self) -> int:
        """How many latents are denoised together."""
        return self.latents + self.copies

    @property
    def copies(self) -> int:
        """How many copies of the first latent stand before it."""
        return -self.latents % self.multiple

    def of(self, batch: Batch) -> Canvas:
        """That of a batch's clips, whose length and size may be others."""
        if MOMENTS in batch:
            latents, height, width = batch[MOMENTS].shape[1:4]
        else:
            frames, height, width = batch[VIDEO].shape[1:4]
            latents = self.codec.latent_frames(frames)
            height, width = height // self.codec.factor, width // self.codec.factor
        return dataclasses.replace(self, latents=latents, height=height, width=width)

    def encode(self, params: Params, pixels: Array, key: Array | None = None) -> Float[Array, "B t h w C"]:
        """Latents of uint8 frames [B T H W 3], without copies; `params` is the whole tree."""
        return self.codec.encode(params.get("codec", {}), pixels_to_float(pixels), key)

    def filled(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T h w C"]:
        """Latents with the copies of the first one before it."""
        return jnp.concatenate([*[z[:, :1]] * self.copies, z], axis=1)


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

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        latent = canvas.encode(params, batch[IMAGE][:, None])
        return Condition(channels=(repeat(latent, "B 1 h w C -> B T h w C", T=canvas.length),))


@register()
@dataclasses.dataclass(frozen=True)
class TextTokens(Conditioner):
    """The last hidden state of CLIP's text encoder, shared by all frames, as tokens `text`. Null: the empty caption."""

    encoder: CLIPTextSizes

    @property
    def captions(self) -> tuple[int, int]:
        return self.encoder.vocabulary, self.encoder.length

    def init(self, key: Array, canvas: Canvas) -> Params:
        ids = jnp.zeros((1, self.encoder.length), jnp.int32)
        return {"text_encoder": CLIPText(self.encoder).init(key, ids)["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {"text_encoder": CLIPText.SHARDING}

    def tokens(self) -> Mapping[str, int]:
        return {"text": self.encoder.features}

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        hidden = apply(CLIPText(self.encoder), params["text_encoder"], batch[TEXT])
        return Condition(tokens={"text": rearrange(hidden, "B L D -> B 1 L D")})

    def null(self, batch: Batch) -> Batch:
        start, end = self.encoder.start_token, self.encoder.end_token
        empty = jnp.full((self.encoder.length,), end, jnp.int32).at[0].set(start)
        return {**batch, TEXT: jnp.broadcast_to(empty, batch[TEXT].shape)}


@register()
@dataclasses.dataclass(frozen=True)
class T5Tokens(Conditioner):
    """The last hidden state of T5's encoder, padding and all, as tokens `text`. Null: the empty caption.

    Source: CogVideoX (arXiv:2408.06072), section 2.2, and its code, which masks no padding.
    """

    encoder: T5Sizes

    @property
    def captions(self) -> tuple[int, int]:
        return self.encoder.vocabulary, self.encoder.length

    def init(self, key: Array, canvas: Canvas) -> Params:
        ids = jnp.zeros((1, self.encoder.length), jnp.int32)
        return {"text_encoder": T5Encoder(self.encoder).init(key, ids)["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {"text_encoder": T5Encoder.SHARDING}

    def tokens(self) -> Mapping[str, int]:
        return {"text": self.encoder.features}

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        if TEXT_FEATURES not in batch:
            hidden = self.encode(params, batch[TEXT])
        else:  # of a prepared set; those of dropped captions are not numbers
            known = batch[TEXT_FEATURES]
            nothing = self.encode(params, self._empty[None]).astype(known.dtype)
            hidden = jnp.where(jnp.isnan(known[:, :1, :1]), nothing, known)
        return Condition(tokens={"text": rearrange(hidden, "B L D -> B 1 L D")})

    def encode(self, params: Params, text: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """What the encoder makes of token ids."""
        return apply(T5Encoder(self.encoder), params["text_encoder"], text)

    def null(self, batch: Batch) -> Batch:
        nulled = {**batch, TEXT: jnp.broadcast_to(self._empty, batch[TEXT].shape)}
        if TEXT_FEATURES in batch:
            nulled[TEXT_FEATURES] = jnp.full_like(batch[TEXT_FEATURES], jnp.nan)
        return nulled

    @property
    def _empty(self) -> Int[Array, " L"]:
        """The token ids of the empty caption."""
        padding = jnp.full((self.encoder.length,), self.encoder.pad_token, jnp.int32)
        return padding.at[0].set(self.encoder.end_token)


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
