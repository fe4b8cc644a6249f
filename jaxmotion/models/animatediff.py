"""AnimateDiff's motion module: attention over time, inserted into a network for images (arXiv:2307.04725)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from jaxmotion.nn.axes import over_time
from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.convolution import GroupNorm
from jaxmotion.nn.linear import ZEROS, Linear
from jaxmotion.nn.transformer import FeedForward, SelfAttention

MotionNorm = Literal["clip", "frame"]
"""What the norm of a motion module averages over: the whole clip (diffusers) or each frame (AnimateDiff's own code)."""
NORM_AXES: dict[MotionNorm, tuple[int, ...]] = {"clip": (-4, -3, -2), "frame": (-3, -2)}


class MotionModule(nn.Module):
    """x + two self-attentions over the frames of each pixel and a feedforward layer, between two linear layers.

    The last linear layer starts at zero, so a new module changes nothing.

    Source: AnimateDiff (arXiv:2307.04725, section 4.2) and its code.
    Not specified in the paper; we use: the group norm averages over the whole clip, as diffusers does; AnimateDiff's
    own code takes each frame alone (`NORM_AXES`).

    frames: longest clip, 24 in the first public weights and 32 in later ones. No parameter depends on it.
    attentions: number of self-attentions.
    expansion: how many times wider the feedforward layer is inside.
    """

    heads: int = 8
    groups: int = 32
    frames: int = 32
    attentions: int = 2
    expansion: int = 4
    norm_axes: tuple[int, ...] = NORM_AXES["clip"]

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], context: Context) -> Float[Array, "B T H W C"]:
        if x.shape[1] > self.frames:
            raise ValueError(f"The clip has {x.shape[1]} frames; the motion modules take up to {self.frames}.")
        time = {f"time_{i}": partial(SelfAttention, self.heads, positions=self.frames) for i in range(self.attentions)}
        layers = {**time, "feedforward": partial(FeedForward, self.expansion)}
        h = GroupNorm(self.groups, epsilon=1e-6, axes=self.norm_axes, name="norm")(x)
        h = Linear(x.shape[-1], name="proj_in")(h)
        h = over_time(Chain(layers, name="block"), h, context)
        return x + Linear(x.shape[-1], kernel_init=ZEROS, name="proj_out")(h)
