"""CLIP (arXiv:2103.00020): texts and images in one space. Stable Diffusion 1.5 reads the text encoder of ViT-L/14.

Source: `CLIPTextModel`, `CLIPVisionModel` and `CLIPModel` of transformers, with the sizes of OpenAI's public weights.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxmotion.foundation.config_json import register
from jaxmotion.models.patches import patches, resized_positions, standardise
from jaxmotion.nn.chain import Stack
from jaxmotion.nn.feedforward import MLP, exact_gelu, quick_gelu
from jaxmotion.nn.linear import Linear
from jaxmotion.nn.transformer import EncoderLayer, LayerNorm

SHARDING = (
    (r"(^|/)tokens$", P("tensor", "fsdp")),
    (r"/(query|key|value|linear_in)/kernel$", P(None, "fsdp", "tensor")),
    (r"/(query|key|value|linear_in)/bias$", P(None, "tensor")),
    (r"/(out|linear_out)/kernel$", P(None, "tensor", "fsdp")),
    (r"(^|/)patches/kernel$", P(None, "fsdp")),
    (r"(^|/)projection/kernel$", P("fsdp")),
    (r".*", P()),
)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


@register()
@dataclasses.dataclass(frozen=True)
class CLIPTextSizes:
    """Sizes of a text encoder.

    vocabulary: number of token ids.
    length: longest text, in tokens.
    features, depth, heads, hidden: width, number of layers, attention heads, width inside the feedforward layers.
    start_token, end_token: ids before and after a text.
    pad_token: id that fills the rest; None: the end token, as in Stable Diffusion 1.5.
    activation: of the feedforward layers; OpenAI's weights have the quick GELU, OpenCLIP's the exact one.
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
    pad_token: int | None = None
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

    @property
    def empty(self) -> Int[np.ndarray, " L"]:
        """Token ids of the empty text: start, end, padding."""
        padding = self.end_token if self.pad_token is None else self.pad_token
        return np.array([self.start_token, self.end_token, *[padding] * (self.length - 2)], np.int32)


@dataclasses.dataclass(frozen=True)
class CLIPVisionSizes:
    """Sizes of an image encoder.

    image_size: side in pixels of the images to show it.
    patch: side of a patch in pixels.
    features, depth, heads, hidden, remat, activation: as in `CLIPTextSizes`.
    """

    image_size: int = 224
    patch: int = 14
    features: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    remat: str = "none"
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"


@dataclasses.dataclass(frozen=True)
class CLIPSizes:
    """Sizes of both encoders, and of the space in which they meet."""

    text: CLIPTextSizes
    vision: CLIPVisionSizes
    embedding: int


TEXT_L14 = CLIPTextSizes()
TEXT_B32 = CLIPTextSizes(features=512, heads=8, hidden=2048)
TEXT_H14 = CLIPTextSizes(features=1024, depth=23, heads=16, hidden=4096, pad_token=0, activation="gelu")
"""Of OpenCLIP, without its last layer, as Stable Diffusion 2 and ModelScope read it; padding is the first token."""
FULL = TEXT_L14
TINY = CLIPTextSizes(
    vocabulary=1024, length=16, features=64, depth=2, heads=4, hidden=128, start_token=1022, end_token=1023, spread=1.0
)
VISION_L14 = CLIPVisionSizes()
VISION_B32 = CLIPVisionSizes(patch=32, features=768, depth=12, heads=12, hidden=3072)
VISION_TINY = CLIPVisionSizes(image_size=32, patch=8, features=32, depth=2, heads=4, hidden=64)
L14 = CLIPSizes(TEXT_L14, VISION_L14, 768)
B32 = CLIPSizes(TEXT_B32, VISION_B32, 512)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


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
        return LayerNorm(name="norm_out")(_layers(sizes)(x, before))


class CLIPVision(nn.Module):
    """Normalised images (`normalise`) to tokens, and the normed first one, which stands for the whole image.

    The tokens are one of the whole, then the patches row by row, not normed (the last hidden state). Height and width
    must be multiples of a patch; they need not be those of training.
    """

    SHARDING: ClassVar = SHARDING
    sizes: CLIPVisionSizes

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        sizes = self.sizes
        x = Linear(sizes.features, bias=False, name="patches")(patches(image, sizes.patch))
        B, h, w, D = x.shape
        side, initial = sizes.image_size // sizes.patch, nn.initializers.normal(0.02)
        cls = self.param("cls", initial, (D,))
        positions = self.param("positions", initial, (1 + side**2, D))
        grid = resized_positions(positions[1:].reshape(side, side, D), (h, w), antialias=False)
        first = jnp.broadcast_to(cls + positions[0], (B, 1, D)).astype(x.dtype)
        x = jnp.concatenate([first, rearrange(x + grid.astype(x.dtype), "B h w D -> B (h w) D")], axis=1)
        x = _layers(sizes)(LayerNorm(name="norm_in")(x))
        return x, LayerNorm(name="norm_out")(x[:, 0])


class TextTower(nn.Module):
    """Token ids to the embedding of the text: what the encoder makes of the end token, projected.

    Source: section 2.4: the activations "at the [EOS] token". As in transformers that is the first end token, and
    where there is none, the first token.
    """

    SHARDING: ClassVar = SHARDING
    sizes: CLIPTextSizes
    embedding: int

    @nn.compact
    def __call__(self, text: Int[Array, "B L"]) -> Float[Array, "B E"]:
        hidden = CLIPText(self.sizes, name="encoder")(text)
        end = jnp.argmax(text == self.sizes.end_token, axis=-1)
        pooled = jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0]
        return Linear(self.embedding, bias=False, name="projection")(pooled)


class ImageTower(nn.Module):
    """Normalised images (`normalise`) to their embeddings."""

    SHARDING: ClassVar = SHARDING
    sizes: CLIPVisionSizes
    embedding: int

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
        _, pooled = CLIPVision(self.sizes, name="encoder")(image)
        return Linear(self.embedding, bias=False, name="projection")(pooled)


class CLIP(nn.Module):
    """Similarity of texts and images: the cosine of their embeddings times a learned factor of at most 100.

    Its parameters `text` and `image` are those of the two towers.

    Source: Fig. 3 and section 2.5 (the factor starts at 1 / 0.07; the public weights hold its logarithm).
    """

    SHARDING: ClassVar = SHARDING
    sizes: CLIPSizes

    @nn.compact
    def __call__(self, text: Int[Array, "N L"], image: Float[Array, "M H W 3"]) -> Float[Array, "M N"]:
        sizes = self.sizes
        texts = TextTower(sizes.text, sizes.embedding, name="text")(text)
        images = ImageTower(sizes.vision, sizes.embedding, name="image")(image)
        scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())
        return jnp.exp(scale) * unit(images) @ unit(texts).T


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Vectors of length 1, in float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def normalise(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Pixels in [-1, 1] as the encoder was trained on: with the mean and deviation of its pictures taken out."""
    return standardise(image, MEAN, STD)


def _layers(sizes: CLIPTextSizes | CLIPVisionSizes) -> Stack:
    layer = partial(EncoderLayer, sizes.heads, partial(MLP, sizes.hidden, ACTIVATIONS[sizes.activation]))
    return Stack(layer, sizes.depth, sizes.remat, name="stack")
