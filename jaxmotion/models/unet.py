"""The skeleton of convolutional U-Nets. What its blocks are made of is given where a network is assembled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Condition
from jaxmotion.nn.chain import Chain, Context, Layer, Layers, rematerialise
from jaxmotion.nn.convolution import Conv, Downsample, GroupNorm, Upsample
from jaxmotion.nn.embedding import TimeEmbedding
from jaxmotion.parallel.sharding import BATCH_AXES, constrain

Blocks = Callable[[int], Mapping[str, Layer]]
"""The named layers of each block of stage i, counted from the finest (0) to the coarsest."""


@register()
@dataclasses.dataclass(frozen=True)
class UNetSizes:
    """Sizes of a U-Net.

    in_channels, out_channels: channels of z_t and of the prediction.
    condition_channels: channels of the condition beside z_t, all together.
    features: channels of each stage, from the finest to the coarsest. Each stage has half the height and width.
    blocks_per_stage: blocks of each stage on the way down; there is one more on the way up.
    attention_stages: whether the blocks of a stage have attention.
    heads: attention heads, in every stage.
    head_features: features of a head, of networks whose stages have as many heads as fit; None: `heads` counts.
    groups: groups of the group norms.
    expansion: how many times wider the feedforward layers are inside.
    attention_kernel: which kernel computes attention (`nn/attention.py`).
    remat: which activations are kept for the backward pass (`nn/chain.py`), block by block.
    """

    in_channels: int = 4
    out_channels: int = 4
    condition_channels: int = 0
    features: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks_per_stage: int = 2
    attention_stages: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    groups: int = 32
    expansion: int = 4
    attention_kernel: str = "auto"
    remat: str = "none"
    head_features: int | None = None

    def __post_init__(self):
        if len(self.features) != len(self.attention_stages):
            raise ValueError(
                f"{len(self.features)} stages have features, but attention_stages names {len(self.attention_stages)}."
            )
        divisor = self.head_features or self.heads
        what = "features of a head" if self.head_features else "heads"
        for features in self.features:
            if features % self.groups or features % divisor:
                raise ValueError(
                    f"Each stage's features must be a multiple of the {self.groups} groups and the {divisor} {what}; "
                    f"got {features}."
                )

    def heads_of(self, stage: int) -> int:
        """Returns the number of attention heads of a stage, counted from the finest."""
        return self.features[stage] // self.head_features if self.head_features else self.heads

    @property
    def stride(self) -> int:
        """Height and width of the latents must be multiples of this."""
        return 2 ** (len(self.features) - 1)


class UNet(nn.Module):
    """Predicts from z_t, t and the condition, in the precision of z_t and the parameters.

    blocks: what the blocks of each stage are made of. The first layer takes the features of its input, whatever their
        number, to those of the stage.
    middle: the layers between the way down and the way up.
    first: the layers after the first convolution, whose result is the first skip.

    The first convolution is two parameters whose results are summed: `conv_in` over the channels of z_t, and
    `conv_condition` over those of the condition, which starts at zero and is not there when there are none. Together
    they equal one convolution over all channels, so pretrained weights of the plain network load as they are.
    """

    sizes: UNetSizes
    blocks: Blocks
    middle: Layers
    first: Layers = ()

    @nn.compact
    def __call__(
        self, zt: Float[Array, "B T h w C"], t: Num[Array, " B"], condition: Condition
    ) -> Float[Array, "B T h w C"]:
        sizes = self.sizes
        _check_input(sizes, zt, condition)
        block = rematerialise(Chain, sizes.remat)
        context = Context(time=self._time(t, condition).astype(zt.dtype), tokens=condition.tokens)

        x = Conv(sizes.features[0], name="conv_in")(zt)
        if sizes.condition_channels:
            channels = jnp.concatenate([c.astype(zt.dtype) for c in condition.channels], axis=-1)
            zeros = nn.initializers.zeros
            x = x + Conv(sizes.features[0], bias=False, kernel_init=zeros, name="conv_condition")(channels)

        if self.first:
            x = _laid_out(block(self.first, name="first")(x, context))
        skips = [x]
        last = len(sizes.features) - 1
        for stage in range(last + 1):
            for i in range(sizes.blocks_per_stage):
                x = _laid_out(block(self.blocks(stage), name=f"down_{stage}_block_{i}")(x, context))
                skips.append(x)
            if stage < last:
                x = Downsample(name=f"down_{stage}_downsample")(x)
                skips.append(x)

        x = _laid_out(block(self.middle, name="middle")(x, context))

        for up, stage in enumerate(reversed(range(last + 1))):
            for i in range(sizes.blocks_per_stage + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = _laid_out(block(self.blocks(stage), name=f"up_{up}_block_{i}")(x, context))
            if stage > 0:
                x = Upsample(name=f"up_{up}_upsample")(x)

        x = nn.silu(GroupNorm(sizes.groups, name="norm_out")(x))
        return Conv(sizes.out_channels, name="conv_out")(x)

    def _time(self, t: Num[Array, " B"], condition: Condition) -> Float[Array, "B E"]:
        features = self.sizes.features[0]
        time = TimeEmbedding(features, 4 * features, name="time_embedding")(t)
        for vector in condition.vectors:
            time = time + vector.astype(time.dtype)
        return time


def _laid_out(x: Float[Array, "B T h w C"]) -> Float[Array, "B T h w C"]:
    """Clips stay on the devices that hold their rows of the batch, from block to block."""
    return constrain(x, BATCH_AXES, None, None, None, None)


def _check_input(sizes: UNetSizes, zt: Array, condition: Condition) -> None:
    if zt.ndim != 5 or zt.shape[-1] != sizes.in_channels:
        raise ValueError(f"z_t is {list(zt.shape)}; this network needs [B T h w {sizes.in_channels}].")
    for name, size in zip(("high", "wide"), zt.shape[2:4], strict=True):
        if size % sizes.stride:
            fits = max(size // sizes.stride, 1) * sizes.stride
            raise ValueError(
                f"Latents are {size} {name}; this network needs a multiple of {sizes.stride}, e.g. {fits}."
            )
    channels = sum(c.shape[-1] for c in condition.channels)
    if channels != sizes.condition_channels:
        raise ValueError(
            f"The condition brings {channels} channels; this network was built for {sizes.condition_channels} "
            "(`condition_channels`)."
        )
    for c in condition.channels:
        if c.shape[:-1] != zt.shape[:-1]:
            raise ValueError(f"Condition channels are {list(c.shape)}; they need {list(zt.shape[:-1])} and channels.")
