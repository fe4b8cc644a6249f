"""Text re-weighting: how much each word matters on each frame.

Source: LivePhoto (arXiv:2312.02928), Sec. 3.5 and Fig. 3: three transformer layers and a frame-specific linear layer
after CLIP's text embeddings; a sigmoid; the weights multiply the embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Array, Batch, Condition, Params
from jaxmotion.nn.apply import apply
from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.transformer import FeedForward, LayerNorm, SelfAttention
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.latent_shape import LatentShape

SHARDING = (
    (r"(query|key|value)/kernel$", P("fsdp", "tensor")),
    (r"linear_in/kernel$", P("fsdp", None, "tensor")),
    (r"(out|linear_out)/kernel$", P("tensor", "fsdp")),
    (r".*", P()),
)


class TextReweighting(nn.Module):
    """Weights in (0, 1), one for each frame and token.

    Not specified in the paper; we use: the U-Net's own layers (pre-norm self-attention with eight heads, GEGLU
    feed-forward four times as wide inside), no dropout; no mask, so padding is weighted like any token; the last layer
    starts at zero, so that every weight starts at 0.5 (Fig. 3 shows 0.50 for words that do not matter).
    """

    frames: int
    layers: int = 3
    heads: int = 8

    @nn.compact
    def __call__(self, text: Float[Array, "B L D"]) -> Float[Array, "B T L"]:
        layer = {"attention": partial(SelfAttention, self.heads), "feedforward": FeedForward}
        context = Context(time=jnp.zeros((text.shape[0], 0)), tokens={})
        hidden = rearrange(text, "B L D -> B 1 L D")
        for index in range(self.layers):
            hidden = Chain(layer, name=f"layer_{index}")(hidden, context)
        hidden = LayerNorm(name="norm")(hidden)
        logits = nn.Dense(self.frames, kernel_init=nn.initializers.zeros, name="frame_weights")(hidden)
        return rearrange(nn.sigmoid(logits), "B 1 L T -> B T L")


@register("Reweighted", fields={"of": "base"})
@dataclasses.dataclass(frozen=True)
class ReweightedText(Conditioner):
    """Another conditioner's text tokens, each multiplied by a weight of its own on every frame."""

    absent_in_inversion: ClassVar[bool] = True
    null_is_known: ClassVar[bool] = True

    base: Conditioner
    layers: int = 3
    heads: int = 8

    @property
    def token_spec(self) -> tuple[int, int] | None:
        return self.base.token_spec

    def _network(self, latent_shape: LatentShape) -> TextReweighting:
        return TextReweighting(frames=latent_shape.frames, layers=self.layers, heads=self.heads)

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        of_key, own_key = jax.random.split(key)
        text = jnp.zeros((1, 1, self.base.tokens()["text"]))
        return {
            **self.base.init(of_key, latent_shape),
            "reweighting": self._network(latent_shape).init(own_key, text)["params"],
        }

    def sharding(self) -> Mapping[str, tuple]:
        return {**self.base.sharding(), "reweighting": SHARDING}

    def tokens(self) -> Mapping[str, int]:
        return self.base.tokens()

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        text = self.base.condition(params, batch, latent_shape, kept).tokens["text"]
        weights = apply(self._network(latent_shape), params["reweighting"], rearrange(text, "B 1 L D -> B L D"))
        return Condition(tokens={"text": weights[..., None].astype(text.dtype) * text})
