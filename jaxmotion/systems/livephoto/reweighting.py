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

from jaxmotion.foundation.config_json import Json, register
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
    """Weights in (0, 2 `initial`), one for each frame and token.

    Not specified in the paper; we use: the U-Net's own layers (pre-norm self-attention with eight heads, GEGLU
    feed-forward four times as wide inside), no dropout; no mask, so padding is weighted like any token; the last layer
    starts at zero, so that every weight starts at `initial`. At 1 the frozen U-Net reads the text that it was trained
    on; at 0.5 the weights are the sigmoid alone, as in Fig. 3, which shows 0.50 for words that do not matter.
    """

    frames: int
    layers: int = 3
    heads: int = 8
    initial: float = 1.0

    @nn.compact
    def __call__(self, text: Float[Array, "B L D"]) -> Float[Array, "B T L"]:
        layer = {"attention": partial(SelfAttention, self.heads), "feedforward": FeedForward}
        context = Context(time=jnp.zeros((text.shape[0], 0)), tokens={})
        hidden = rearrange(text, "B L D -> B 1 L D")
        for index in range(self.layers):
            hidden = Chain(layer, name=f"layer_{index}")(hidden, context)
        hidden = LayerNorm(name="norm")(hidden)
        logits = nn.Dense(self.frames, kernel_init=nn.initializers.zeros, name="frame_weights")(hidden)
        return rearrange(2 * self.initial * nn.sigmoid(logits), "B 1 L T -> B T L")


def _keep_sigmoid(values: Json) -> Json:
    """Earlier versions had the sigmoid alone, whose weights start at 0.5."""
    return {"initial_weight": 0.5, **values}


@register("Reweighted", fields={"of": "base"}, upgrade=_keep_sigmoid)
@dataclasses.dataclass(frozen=True)
class ReweightedText(Conditioner):
    """Another conditioner's text tokens, each multiplied by a weight of its own on every frame."""

    absent_in_inversion: ClassVar[bool] = True
    null_is_known: ClassVar[bool] = True

    base: Conditioner
    layers: int = 3
    heads: int = 8
    initial_weight: float = 1.0
    """The weight of every word before training; weights reach from 0 to twice this. 1: the frozen network reads the
    text as it is; 0.5: the sigmoid alone."""

    def __post_init__(self) -> None:
        if not self.initial_weight > 0:
            raise ValueError(f"The weights of words start above 0; initial_weight is {self.initial_weight}.")

    @property
    def token_spec(self) -> tuple[int, int] | None:
        return self.base.token_spec

    def _network(self, latent_shape: LatentShape) -> TextReweighting:
        return TextReweighting(latent_shape.frames, self.layers, self.heads, self.initial_weight)

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
