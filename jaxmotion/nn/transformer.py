"""Residual layers of transformers.

Layers of sequences: x is [B G S C], `G` sequences of length `S` per clip that do not see each other (`nn/axes.py`).
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmotion.nn.attention import Attention
from jaxmotion.nn.axes import over_space, over_time
from jaxmotion.nn.chain import Context, Layer, Layers
from jaxmotion.nn.convolution import GroupNorm
from jaxmotion.nn.embedding import position_sinusoid
from jaxmotion.nn.feedforward import GatedMLP
from jaxmotion.nn.linear import ZEROS, LayerNorm, Linear


class SelfAttention(nn.Module):
    """x + attention of each sequence to itself.

    positions: if above 0, sines and cosines of the position are added to the attention's input, and this is the
        greatest length that the layer accepts.
    """

    heads: int
    positions: int = 0
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B G S C"], context: Context) -> Float[Array, "B G S C"]:
        h = LayerNorm(name="norm")(x)
        if self.positions:
            if x.shape[2] > self.positions:
                raise ValueError(
                    f"A sequence of {x.shape[2]} is longer than the {self.positions} positions of a layer."
                )
            h = h + position_sinusoid(self.positions, x.shape[-1])[: x.shape[2]].astype(h.dtype)
        return x + Attention(self.heads, kernel=self.kernel, name="attention")(h)


class CrossAttention(nn.Module):
    """x + attention to the tokens that the context has under the name `reads`.

    Tokens shared by all frames, [B 1 L D], are projected once per clip. Tokens per sequence, [B G L D], are seen only
    by their own sequence.
    """

    heads: int
    reads: str
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B G S C"], context: Context) -> Float[Array, "B G S C"]:
        return x + _attention_to_tokens(x, context, self.heads, self.reads, self.kernel)


class GatedCrossAttention(nn.Module):
    """x + tanh(gate) * attention to the tokens named `reads`. The gate starts at 0, so a new layer changes nothing.

    Source: the gate of Flamingo (arXiv:2204.14198, section 2.2) and GLIGEN (arXiv:2301.07093, Eq. 8).
    projected: whether the tokens pass a linear layer to the width of x before they are keys and values.
    start: value that the gate's tanh starts at; 0 <= start < 1.
    """

    heads: int
    reads: str
    kernel: str = "auto"
    projected: bool = False
    start: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B G S C"], context: Context) -> Float[Array, "B G S C"]:
        gate = _gate(self, self.start, x)
        if self.projected:
            tokens = Linear(x.shape[-1], name="project")(_tokens(context, self.reads, x))
            context = context.replace(tokens={**context.tokens, self.reads: tokens})
        return x + gate * _attention_to_tokens(x, context, self.heads, self.reads, self.kernel)


class GatedSelfAttention(nn.Module):
    """x + tanh(gate) * attention of x and the tokens named `reads` to each other, of which the part of x is kept.

    The tokens pass a linear layer to the width of x. The gate starts at 0, so a new layer changes nothing.

    Source: GLIGEN (arXiv:2301.07093, Eq. 8).
    start: value that the gate's tanh starts at; 0 <= start < 1.
    """

    heads: int
    reads: str
    kernel: str = "auto"
    start: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B G S C"], context: Context) -> Float[Array, "B G S C"]:
        gate = _gate(self, self.start, x)
        tokens = Linear(x.shape[-1], name="project")(_tokens(context, self.reads, x))
        tokens = jnp.broadcast_to(tokens, (*x.shape[:2], *tokens.shape[2:]))
        together = LayerNorm(name="norm")(jnp.concatenate([x, tokens], axis=2))
        return x + gate * Attention(self.heads, kernel=self.kernel, name="attention")(together)[:, :, : x.shape[2]]


class GatedFeedForward(nn.Module):
    """x + tanh(gate) * GEGLU of the normed x. The gate starts at 0, so a new layer changes nothing.

    Source: GLIGEN's code, after its gated self-attention.
    start: value that the gate's tanh starts at; 0 <= start < 1.
    """

    expansion: int = 4
    start: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], context: Context) -> Float[Array, "... C"]:
        h = LayerNorm(name="norm")(x)
        return x + _gate(self, self.start, x) * GatedMLP(self.expansion * x.shape[-1], name="mlp")(h)


class GatedBranches(nn.Module):
    """x + the sum of tanh(gate) * branch(x) over branches that do not see each other. The gates start at 0.

    branches: by name; each returns features like x, and has a gate of its own.
    """

    branches: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B G S C"], context: Context) -> Float[Array, "B G S C"]:
        total = x
        for name, branch in self.branches:
            total = total + _gate(self, 0.0, x, f"{name}_gate") * branch(name=name)(x, context)
        return total


class FeedForward(nn.Module):
    """x + GEGLU of the normed x, `expansion` times as wide inside."""

    expansion: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], context: Context) -> Float[Array, "... C"]:
        h = LayerNorm(name="norm")(x)
        return x + GatedMLP(self.expansion * x.shape[-1], name="mlp")(h)


class EncoderLayer(nn.Module):
    """Pre-norm transformer encoder layer on tokens: x + attention(norm(x)), then x + mlp(norm(x)).

    Source: "On Layer Normalization in the Transformer Architecture" (arXiv:2002.04745), as in CLIP and DINOv2.
    mlp: makes the feedforward layer, which keeps the width.
    scaled: each of the two results is first multiplied by a learned vector (LayerScale, arXiv:2103.17239).
    """

    heads: int
    mlp: Layer
    epsilon: float = 1e-5
    scaled: bool = False
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "#B #H L L"] | None = None) -> Float[Array, "B L D"]:
        h = LayerNorm(self.epsilon, name="norm_attention")(x)
        h = Attention(self.heads, bias=True, kernel=self.kernel, name="attention")(h, mask=mask)
        x = x + self._scale("scale_attention", h)
        h = self.mlp(name="mlp")(LayerNorm(self.epsilon, name="norm_mlp")(x))
        return x + self._scale("scale_mlp", h)

    def _scale(self, name: str, x: Array) -> Array:
        return x * self.param(name, nn.initializers.ones, x.shape[-1:]) if self.scaled else x


class SpatialTransformer(nn.Module):
    """x + a layer of sequences, usually a chain, over the pixels of each frame, between two linear layers.

    Source: the spatial transformer of latent diffusion (arXiv:2112.10752, section 3.3), one block deep.
    """

    block: Layer
    groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], context: Context) -> Float[Array, "B T H W C"]:
        h = GroupNorm(self.groups, epsilon=1e-6, name="norm")(x)
        h = Linear(x.shape[-1], name="proj_in")(h)
        h = over_space(self.block(name="block"), h, context)
        return x + Linear(x.shape[-1], name="proj_out")(h)


class TemporalTransformer(nn.Module):
    """x + a layer of sequences, usually a chain, over the frames of each pixel, between two linear layers.

    The last linear layer starts at zero, so a new layer changes nothing.

    Source: the temporal transformer of ModelScope's text-to-video network (arXiv:2308.06571, section 3.3) and its code.
    features: width between the linear layers; None: that of the input.
    axes: what the norm averages over beside the channels of a group; by default the whole clip.
    """

    block: Layer
    groups: int = 32
    features: int | None = None
    axes: tuple[int, ...] = (-4, -3, -2)

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], context: Context) -> Float[Array, "B T H W C"]:
        h = GroupNorm(self.groups, epsilon=1e-6, axes=self.axes, name="norm")(x)
        h = Linear(self.features or x.shape[-1], name="proj_in")(h)
        h = over_time(self.block(name="block"), h, context)
        return x + Linear(x.shape[-1], kernel_init=ZEROS, name="proj_out")(h)


def _gate(layer: nn.Module, start: float, x: Array, name: str = "gate") -> Array:
    """Returns tanh of a parameter of the calling layer, in the precision of x."""
    return jnp.tanh(layer.param(name, nn.initializers.constant(math.atanh(start)), ())).astype(x.dtype)


def _tokens(context: Context, reads: str, x: Float[Array, "B G S C"]) -> Float[Array, "B G L D"]:
    """Returns the tokens named `reads` in the precision of x, [B G|1 L D].

    Raises:
        ValueError: the condition has no such tokens, or not for these clips.
    """
    if reads not in context.tokens:
        raise ValueError(f'A layer reads the tokens "{reads}", but the condition has {sorted(context.tokens)}.')
    tokens = context.tokens[reads].astype(x.dtype)
    B, G = x.shape[:2]
    if tokens.ndim != 4 or tokens.shape[0] != B or tokens.shape[1] not in (1, G):
        raise ValueError(
            f'The tokens "{reads}" are {list(tokens.shape)}; this layer needs [{B} {G} L D], '
            f"or [{B} 1 L D] when all frames share them."
        )
    return tokens


def _attention_to_tokens(
    x: Float[Array, "B G S C"], context: Context, heads: int, reads: str, kernel: str
) -> Float[Array, "B G S C"]:
    """Attention of normed x to the tokens named `reads`, as submodules `norm` and `attention` of the calling layer."""
    tokens = _tokens(context, reads, x)
    B, _, _, C = x.shape
    h = LayerNorm(name="norm")(x).reshape(B, tokens.shape[1], -1, C)
    return Attention(heads, kernel=kernel, name="attention")(h, tokens).reshape(x.shape)
