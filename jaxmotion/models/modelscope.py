"""The U-Net of ModelScope's text-to-video network, with a place for layers that a system adds.

It is Stable Diffusion's in another size, with layers over time after the image layers of every block: four convolutions
after a residual block, a transformer after a transformer, and one more transformer right after the first convolution.

Source: ModelScope Text-to-Video Technical Report (arXiv:2308.06571) and the public weights, which it matches weight by
weight (`weights/tables/modelscope.py`). They are the source of what the report leaves out: heads of 64 features,
8 heads in the first transformer whatever its input, two self-attentions over time and no positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from jaxmotion.models.stable_diffusion import SHARDING as IMAGE_SHARDING
from jaxmotion.models.unet import UNet, UNetSizes
from jaxmotion.nn.chain import Chain, Layer
from jaxmotion.nn.convolution import ResBlock, TemporalResBlock
from jaxmotion.nn.transformer import CrossAttention, FeedForward, SelfAttention, SpatialTransformer, TemporalTransformer

FULL = UNetSizes(head_features=64)
TINY = UNetSizes(features=(32, 64), blocks_per_stage=1, attention_stages=(True, True), head_features=16, groups=8)

CONTEXT_FEATURES = 1024
"""Width of the text tokens that the public weights were trained with."""
FIRST_HEADS = 8
"""Heads of the transformer after the first convolution; its width is so many times that of a head."""
TEMPORAL = ("temporal_conv", "temporal")
"""Names of the layers over time, in every block."""

SHARDING = IMAGE_SHARDING


class TransformerLayers(Protocol):
    """Makes the named layers of sequences [B G S C] of a transformer block with so many heads."""

    def __call__(self, sizes: UNetSizes, heads: int, /) -> Mapping[str, Layer]:
        """Returns them in order."""
        ...


def transformer_layers(sizes: UNetSizes, heads: int) -> dict[str, Layer]:
    """Returns the layers of a transformer block over space: attention to the frame and to the text, feedforward."""
    kernel = sizes.attention_kernel
    return {
        "space": partial(SelfAttention, heads, kernel=kernel),
        "text": partial(CrossAttention, heads, reads="text", kernel=kernel),
        "feedforward": partial(FeedForward, sizes.expansion),
    }


def temporal_transformer(sizes: UNetSizes, heads: int, features: int | None = None) -> Layer:
    """Returns a transformer over time: two self-attentions without positions, and feedforward."""
    attention = partial(SelfAttention, heads, kernel=sizes.attention_kernel)
    layers = {"time_0": attention, "time_1": attention, "feedforward": partial(FeedForward, sizes.expansion)}
    return partial(TemporalTransformer, partial(Chain, layers), sizes.groups, features)


def modelscope_unet(
    sizes: UNetSizes, transformer: TransformerLayers = transformer_layers, *, temporal: bool = True
) -> UNet:
    """Returns the U-Net.

    Args:
        transformer: makes the layers of the transformer blocks over space.
        temporal: whether the layers over time are there; without them it makes frames that do not see each other.
    """

    def over_time(layers: Mapping[str, Layer]) -> Mapping[str, Layer]:
        return layers if temporal else {}

    def resnet(stage: int, suffix: str = "") -> dict[str, Layer]:
        return {
            f"resnet{suffix}": partial(ResBlock, sizes.features[stage], sizes.groups),
            **over_time({f"temporal_conv{suffix}": partial(TemporalResBlock, sizes.groups)}),
        }

    def transformers(stage: int) -> dict[str, Layer]:
        heads = sizes.heads_of(stage)
        return {
            "transformer": partial(SpatialTransformer, partial(Chain, transformer(sizes, heads)), sizes.groups),
            **over_time({"temporal": temporal_transformer(sizes, heads)}),
        }

    def blocks(stage: int) -> dict[str, Layer]:
        return {**resnet(stage), **(transformers(stage) if sizes.attention_stages[stage] else {})}

    last = len(sizes.features) - 1
    middle = {**resnet(last, "_in"), **transformers(last), **resnet(last, "_out")}
    head_features = sizes.features[0] // sizes.heads_of(0)
    first = over_time({"temporal": temporal_transformer(sizes, FIRST_HEADS, FIRST_HEADS * head_features)})
    return UNet(sizes, blocks, tuple(middle.items()), tuple(first.items()))
