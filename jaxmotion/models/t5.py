"""The text encoder of T5 v1.1 (arXiv:1910.10683, arXiv:2002.05202), which CogVideoX reads at its largest size.

Source: `T5EncoderModel` of transformers and the README of the public T5 v1.1 checkpoints.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxmotion.foundation.config_json import register
from jaxmotion.nn.chain import Stack
from jaxmotion.nn.feedforward import GatedMLP, tanh_gelu
from jaxmotion.nn.linear import Linear, RMSNorm

SHARDING = (
    (r"(^|/)tokens$", P("tensor", ("fsdp", "context"))),
    (r"/(query|key|value)/kernel$", P(None, ("fsdp", "context"), "tensor")),
    (r"/linear_in/kernel$", P(None, ("fsdp", "context"), None, "tensor")),
    (r"/(out|linear_out)/kernel$", P(None, "tensor", ("fsdp", "context"))),
    (r".*", P()),
)


@register()
@dataclasses.dataclass(frozen=True)
class T5Sizes:
    """Sizes of an encoder.

    vocabulary: number of token ids.
    length: tokens of a text, with its end and padding, which is read like any other token.
    features, depth, heads, head_features, hidden: width, layers, attention heads, their width, width inside the
        feedforward layers.
    buckets, farthest: distances between tokens fall into so many classes, half of them each way; all that are as far
        as `farthest` or farther share one.
    spread: standard deviation of fresh token vectors.
    end_token, pad_token: ids that end a text and fill it up. The empty text is an end and padding.
    remat: which activations are kept for the backward pass (`nn/chain.py`), layer by layer.
    """

    vocabulary: int = 32128
    length: int = 226
    features: int = 4096
    depth: int = 24
    heads: int = 64
    head_features: int = 64
    hidden: int = 10240
    buckets: int = 32
    farthest: int = 128
    spread: float = 1.0
    end_token: int = 1
    pad_token: int = 0
    remat: str = "none"


XXL = T5Sizes()
TINY = T5Sizes(
    vocabulary=1024,
    length=16,
    features=64,
    depth=2,
    heads=4,
    head_features=16,
    hidden=128,
    end_token=1022,
    pad_token=1023,
)


class T5Encoder(nn.Module):
    """Token ids to one vector per token, normed, each having seen all others (the last hidden state)."""

    SHARDING: ClassVar = SHARDING
    sizes: T5Sizes

    @nn.compact
    def __call__(self, text: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        sizes, length = self.sizes, text.shape[-1]
        tokens = self.param("tokens", nn.initializers.normal(sizes.spread), (sizes.vocabulary, sizes.features))
        distances = self.param("distances", nn.initializers.normal(0.02), (sizes.buckets, sizes.heads))
        classes = distance_classes(length, sizes.buckets, sizes.farthest)
        bias = rearrange(jnp.take(distances, classes, axis=0), "S L H -> 1 H S L")
        x = jnp.take(tokens, text, axis=0, mode="clip")
        layer = partial(T5Layer, sizes.heads, sizes.head_features, sizes.hidden)
        return RMSNorm(name="norm_out")(Stack(layer, sizes.depth, sizes.remat, name="stack")(x, bias))


class T5Layer(nn.Module):
    """x + attention(norm(x)), then x + gated mlp(norm(x)); nothing has a bias but the attention's scores.

    Source: arXiv:1910.10683, section 2.1 (scores are not divided by the root of the width); GEGLU of arXiv:2002.05202.
    """

    heads: int
    head_features: int
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], bias: Float[Array, "1 H L L"]) -> Float[Array, "B L D"]:
        h = RMSNorm(name="norm_attention")(x)
        width = self.heads * self.head_features
        parts = (Linear(width, bias=False, name=name)(h) for name in ("query", "key", "value"))
        query, key, value = (rearrange(part, "B L (H D) -> B L H D", H=self.heads) for part in parts)
        scores = jnp.einsum("bshd,blhd->bhsl", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias.astype(jnp.float32), axis=-1).astype(value.dtype)
        y = rearrange(jnp.einsum("bhsl,blhd->bshd", weights, value), "B L H D -> B L (H D)")
        x = x + Linear(x.shape[-1], bias=False, name="out")(y)
        mlp = GatedMLP(self.hidden, tanh_gelu, gate_first=True, bias=False, name="mlp")
        return x + mlp(RMSNorm(name="norm_mlp")(x))


def distance_classes(length: int, buckets: int, farthest: int) -> Int[np.ndarray, "S L"]:
    """The class of the distance from each token (row) to each other (column).

    Source: arXiv:1910.10683, section 2.1: tokens before and after apart; near distances one by one, the others in
    classes that widen as their logarithm does.
    """
    each = buckets // 2
    near = each // 2
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    far = np.abs(distance)
    # in single precision, as the public code computes it: some distances lie on the edge of a class
    scaled = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(near)) / np.float32(np.log(farthest / near))
    wide = near + (scaled.astype(np.float32) * np.float32(each - near)).astype(np.int64)
    return np.where(distance > 0, each, 0) + np.where(far < near, far, np.minimum(wide, each - 1))
