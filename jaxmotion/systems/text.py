"""Captions as tokens: CLIP's and T5's text encoders as conditioners."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import TEXT, TEXT_FEATURES
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.models.clip import CLIPText, CLIPTextSizes
from jaxmotion.models.t5 import T5Encoder, T5Sizes
from jaxmotion.nn.apply import apply
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.precompute import Precompute


@register()
@dataclasses.dataclass(frozen=True)
class TextTokens(Conditioner):
    """The last hidden state of CLIP's text encoder, shared by all frames, as tokens `text`. Null: the empty caption."""

    absent_in_inversion: ClassVar[bool] = True
    null_is_known: ClassVar[bool] = True

    encoder: CLIPTextSizes

    @property
    def token_spec(self) -> tuple[int, int]:
        return self.encoder.vocabulary, self.encoder.length

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        ids = jnp.zeros((1, self.encoder.length), jnp.int32)
        return {"text_encoder": CLIPText(self.encoder).init(key, ids)["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {"text_encoder": CLIPText.SHARDING}

    def tokens(self) -> Mapping[str, int]:
        return {"text": self.encoder.features}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        text = jnp.where(kept[:, None], batch[TEXT], self.encoder.empty)
        hidden = apply(CLIPText(self.encoder), params["text_encoder"], text)
        return Condition(tokens={"text": rearrange(hidden, "B L D -> B 1 L D")})


@register()
@dataclasses.dataclass(frozen=True)
class T5Tokens(Conditioner):
    """The last hidden state of T5's encoder, padding and all, as tokens `text`. Null: the empty caption, or zeros.

    Source: CogVideoX (arXiv:2408.06072), section 2.2, and its code, which masks no padding.
    """

    absent_in_inversion: ClassVar[bool] = True
    null_is_known: ClassVar[bool] = True

    encoder: T5Sizes
    null: Literal["empty_caption", "zeros"] = "empty_caption"
    """What stands for no text: T5's features of the empty caption, as diffusers' pipelines have it, or zeros, as SAT
    trains and samples. With zeros, training on a prepared set needs no T5, and loads none."""

    def __post_init__(self) -> None:
        if self.null not in ("empty_caption", "zeros"):
            raise ValueError(f"T5Tokens.null is {self.null!r}; it can be 'empty_caption' or 'zeros'.")

    @property
    def token_spec(self) -> tuple[int, int]:
        return self.encoder.vocabulary, self.encoder.length

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        ids = jnp.zeros((1, self.encoder.length), jnp.int32)
        return {"text_encoder": T5Encoder(self.encoder).init(key, ids)["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {"text_encoder": T5Encoder.SHARDING}

    def tokens(self) -> Mapping[str, int]:
        return {"text": self.encoder.features}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        known = batch.get(TEXT_FEATURES)
        if self.null == "zeros":
            hidden = keep_rows(kept, self.encode(params, batch[TEXT]) if known is None else known)
        elif known is None:
            hidden = self.encode(params, jnp.where(kept[:, None], batch[TEXT], self.empty))
        else:  # precomputed: only the empty caption is encoded here
            nothing = self.encode(params, self.empty[None]).astype(known.dtype)
            hidden = jnp.where(kept[:, None, None], known, nothing)
        return Condition(tokens={"text": rearrange(hidden, "B L D -> B 1 L D")})

    def idle_parts(self, entries: Collection[str]) -> frozenset[str]:
        read = self.null != "zeros" or TEXT_FEATURES not in entries
        return frozenset() if read else frozenset({"text_encoder"})

    def precomputable(self) -> Mapping[str, Precompute]:
        """The features of the captions. T5 is large, so its parameters are sharded."""
        settings = {"text": config_json.to_json(dataclasses.replace(self, null="empty_caption"))}  # changes no record
        features = Precompute(
            lambda params, batch: self.encode(params, batch[TEXT]), ("text_encoder",), settings, sharded=True
        )
        return {TEXT_FEATURES: features}

    def encode(self, params: Params, text: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Returns the last hidden state for token ids."""
        return apply(T5Encoder(self.encoder), params["text_encoder"], text)

    @property
    def empty(self) -> Int[Array, " L"]:
        """The token ids of the empty caption."""
        padding = jnp.full((self.encoder.length,), self.encoder.pad_token, jnp.int32)
        return padding.at[0].set(self.encoder.end_token)
