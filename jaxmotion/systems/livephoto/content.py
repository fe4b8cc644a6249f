"""The content encoder: patch tokens of the reference picture, read by gated cross-attention in every block.

Source: LivePhoto (arXiv:2312.02928), Sec. 3.3 and Fig. 2: frozen DINOv2, patch tokens, one learnable linear layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE
from jaxmotion.foundation.types import Array, Batch, Condition, Params, pixels_to_float
from jaxmotion.models.dinov2 import DINOv2, DINOv2Sizes, normalise
from jaxmotion.nn.apply import apply
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape


@register()
@dataclasses.dataclass(frozen=True)
class ContentTokens(Conditioner):
    """DINOv2 patch tokens through a linear layer, shared by all frames, as tokens `content`.

    Not specified in the paper; we use: ViT-B/14 at 224 px; the picture is resized without keeping its aspect; no class
    token ("patch tokens" only); the same tokens for all frames; never dropped.
    """

    encoder: DINOv2Sizes
    features: int
    """Width of the tokens that the cross-attention layers read."""

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        encoder_key, linear_key = jax.random.split(key)
        size = self.encoder.image_size
        pixels = jnp.zeros((1, size, size, 3))
        return {
            "content_encoder": DINOv2(self.encoder).init(encoder_key, pixels)["params"],
            "content": nn.Dense(self.features).init(linear_key, jnp.zeros((1, self.encoder.features)))["params"],
        }

    def sharding(self) -> Mapping[str, tuple]:
        return {"content_encoder": DINOv2.SHARDING, "content": ((r"kernel$", P("fsdp", "tensor")), (r"bias$", P()))}

    def tokens(self) -> Mapping[str, int]:
        return {"content": self.features}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        images, size = pixels_to_float(batch[IMAGE]), self.encoder.image_size
        images = jax.image.resize(images, (images.shape[0], size, size, 3), "bicubic", antialias=True)
        weights = params["content_encoder"]
        images = normalise(images).astype(jax.tree.leaves(weights)[0].dtype)
        hidden = apply(DINOv2(self.encoder), weights, images)
        patches = hidden[:, 1 + self.encoder.registers :]
        content = apply(nn.Dense(self.features), params["content"], patches)
        return Condition(tokens={"content": rearrange(keep_rows(kept, content), "B L D -> B 1 L D")})
