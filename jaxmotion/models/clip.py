"""The text encoder of CLIP (arXiv:2103.00020); of ViT-L/14 in Stable Diffusion 1.5."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxmotion.nn.chain import Stack
from jaxmotion.nn.feedforward import MLP, quick_gelu
from jaxmotion.nn.transformer import EncoderLayer, LayerNorm

SHARDING = (
    (r"(^|/)tokens$", P("tensor", "fsdp")),
    (r"/(query|key|value|linear_in)/kernel$", P(None, "fsdp", "tensor")),
    (r"/(query|key|value|linear_in)/bias$", P(None, "tensor")),
    (r"/(out|linear_out)/kernel$", P(None, "tensor", "fsdp")),
    (r".*", P()),
)


@dataclasses.dataclass(frozen=True)
class CLIPTextSizes:
    """Sizes of a text encoder.

    vocabulary: number of token ids.
    length: longest text, in tokens.
    features, depth, heads, hidden: width, number of layers, attention heads, width inside the feedforward layers.
    start_token, end_token: ids before and after a text; the end token also fills the rest.
    spread: standard deviation of fresh token vectors. CLIP starts at 0.02; a small encoder that is trained with all the
        rest needs words that differ from the start.
    remat: which activations are kept for the backward pass (`nn/chain.py`), layer by layer.
    """

    vocabulary: int = 49408
    length: int = 77
    features: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    start_token: int = 49406
    end_token: int = 49407
    spread: float = 0.02
    remat: str = "none"


FULL = CLIPTextSizes()
TINY = CLIPTextSizes(
    vocabulary=1024, length=16, features=64, depth=2, heads=4, hidden=128, start_token=1022, end_token=1023, spread=1.0
)


class CLIPText(nn.Module):
    """Token ids to one vector per token, normed, each having seen the tokens before it (the last hidden state)."""

    SHARDING: ClassVar = SHARDING
    sizes: CLIPTextSizes

    @nn.compact
    def __call__(self, text: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        sizes, length = self.sizes, text.shape[-1]
        if length > sizes.length:
            raise ValueError(f"The text has {length} tokens; this encoder was built for up to {sizes.length}.")
        tokens = self.param("tokens", nn.initializers.normal(sizes.spread), (sizes.vocabulary, sizes.features))
        positions = self.param("positions", nn.initializers.normal(0.02), (sizes.length, sizes.features))
        x = jnp.take(tokens, text, axis=0, mode="clip") + positions[:length]
        before = jnp.tril(jnp.ones((length, length), bool))[None, None]
        layer = partial(EncoderLayer, sizes.heads, partial(MLP, sizes.hidden, quick_gelu))
        x = Stack(layer, sizes.depth, sizes.remat, name="stack")(x, before)
        return LayerNorm(name="norm_out")(x)
