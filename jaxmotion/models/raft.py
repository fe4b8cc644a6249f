"""RAFT: dense optical flow by looking up all pairs of patches again and again.

Source: "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (arXiv:2003.12039), section 3, and the public code
of its authors, whose checkpoints load by `convert.rules.raft`.

The look-up is written as two products with the weights of linear interpolation, which gives the same numbers as
sampling (nothing beyond the edges) and is quick on every device.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from jaxmotion.models.tadaconv import BatchNorm
from jaxmotion.nn.linear import UNIFORM

STRIDE = 8
"""Pixels between the places for which a flow is found; frames must have sides that are multiples of it."""
LEVELS = 4
SMALLEST = STRIDE * 2 ** (LEVELS - 1)
"""Pixels a side that the coarsest level of the pyramid needs."""


@dataclasses.dataclass(frozen=True)
class RAFTSizes:
    """The sizes of a RAFT."""

    bottleneck: bool
    """The small encoders' blocks have 1 x 1 convolutions around the 3 x 3 one."""
    stages: tuple[int, int, int]
    """Widths of the encoders."""
    features: int
    hidden: int
    context: int
    radius: int
    context_norm: Literal["batch", "none"]
    correlation: tuple[int, ...]
    """Widths of the convolutions that read the look-up."""
    flow: tuple[int, int]
    """Widths of the convolutions that read the flow."""
    motion: int
    head: int
    separable: bool
    """The recurrent unit looks along rows, then along columns, instead of at squares."""
    convex: bool
    """Fine flow is a learned mean of coarse neighbours, instead of bilinear."""
    iterations: int = 12

    def build(self) -> RAFT:
        """The network of these sizes."""
        return RAFT(self)


SMALL = RAFTSizes(
    bottleneck=True,
    stages=(32, 64, 96),
    features=128,
    hidden=96,
    context=64,
    radius=3,
    context_norm="none",
    correlation=(96,),
    flow=(64, 32),
    motion=80,
    head=128,
    separable=False,
    convex=False,
)
"""990,162 parameters."""
LARGE = RAFTSizes(
    bottleneck=False,
    stages=(64, 96, 128),
    features=256,
    hidden=128,
    context=128,
    radius=4,
    context_norm="batch",
    correlation=(256, 192),
    flow=(128, 64),
    motion=126,
    head=256,
    separable=True,
    convex=True,
)
"""5,257,536 trained parameters."""


class Convolution(nn.Module):
    """A convolution of images that keeps their size at stride 1."""

    features: int
    size: tuple[int, int] = (3, 3)
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        kernel = self.param("kernel", UNIFORM, (*self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        padding = [(side // 2, side // 2) for side in self.size]
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (self.stride,) * 2, padding, None, None, layout)
        return y + bias.astype(x.dtype)


class Normed(nn.Module):
    """A convolution and the norm after it; `instance` norms every channel of every image."""

    features: int
    norm: Literal["instance", "batch", "none"]
    size: tuple[int, int] = (3, 3)
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        y = Convolution(self.features, self.size, self.stride, name="conv")(x)
        if self.norm == "batch":
            return BatchNorm(name="norm")(y)
        if self.norm == "instance":
            y = y - y.mean((1, 2), keepdims=True)
            return y * jax.lax.rsqrt(jnp.square(y).mean((1, 2), keepdims=True) + 1e-5)
        return y


class Residual(nn.Module):
    """Two convolutions, or three around a bottleneck; plus the input."""

    features: int
    stride: int
    norm: Literal["instance", "batch", "none"]
    bottleneck: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        inner = self.features // 4
        layers = (
            [(inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1)]
            if self.bottleneck
            else [(self.features, 3, self.stride), (self.features, 3, 1)]
        )
        y = x
        for number, (features, size, stride) in enumerate(layers, 1):
            y = nn.relu(Normed(features, self.norm, (size, size), stride, name=f"layer{number}")(y))
        if self.stride > 1:
            x = Normed(self.features, self.norm, (1, 1), self.stride, name="downsample")(x)
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Frames to features at an eighth of their size."""

    features: int
    norm: Literal["instance", "batch", "none"]
    sizes: RAFTSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        stages = self.sizes.stages
        x = nn.relu(Normed(stages[0], self.norm, (7, 7), 2, name="stem")(x))
        for number, features in enumerate(stages, 1):
            for index in range(2):
                stride = 2 if number > 1 and index == 0 else 1
                name = f"stage{number}_{index}"
                x = Residual(features, stride, self.norm, self.sizes.bottleneck, name=name)(x)
        return Convolution(self.features, (1, 1), name="out")(x)


class Gates(nn.Module):
    """A convolutional gated recurrent unit. Source: arXiv:2003.12039, Eq. 3-6."""

    features: int
    size: tuple[int, int]

    @nn.compact
    def __call__(self, h: Float[Array, "B H W D"], x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        both = jnp.concatenate([h, x], -1)
        update = nn.sigmoid(Convolution(self.features, self.size, name="z")(both))
        reset = nn.sigmoid(Convolution(self.features, self.size, name="r")(both))
        new = nn.tanh(Convolution(self.features, self.size, name="q")(jnp.concatenate([reset * h, x], -1)))
        return (1 - update) * h + update * new


class Update(nn.Module):
    """One iteration: look up around the flow, move the hidden state, add to the flow."""

    sizes: RAFTSizes

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], context: Array, pyramid: tuple[Array, ...]):
        sizes = self.sizes
        hidden, flow = carry
        y = look_up(pyramid, flow, sizes.radius)
        for number, features in enumerate(sizes.correlation, 1):
            size = (1, 1) if number == 1 else (3, 3)
            y = nn.relu(Convolution(features, size, name=f"correlation{number}")(y))
        z = nn.relu(Convolution(sizes.flow[0], (7, 7), name="flow1")(flow))
        z = nn.relu(Convolution(sizes.flow[1], name="flow2")(z))
        motion = nn.relu(Convolution(sizes.motion, name="motion")(jnp.concatenate([y, z], -1)))
        x = jnp.concatenate([context, motion, flow], -1)
        for number, size in enumerate([(1, 5), (5, 1)] if sizes.separable else [(3, 3)], 1):
            hidden = Gates(sizes.hidden, size, name=f"gates{number}")(hidden, x)
        step = nn.relu(Convolution(sizes.head, name="head1")(hidden))
        return (hidden, flow + Convolution(2, name="head2")(step)), None


class RAFT(nn.Module):
    """Two frames [B H W 3], 0..255, to the flow from the first to the second [B H W 2]: pixels right and down."""

    sizes: RAFTSizes

    @nn.compact
    def __call__(self, first: Float[Array, "B H W 3"], second: Float[Array, "B H W 3"]) -> Float[Array, "B H W 2"]:
        sizes = self.sizes
        check_size(*first.shape[1:3])
        frames = jnp.stack([first, second]).astype(jnp.float32) / 127.5 - 1
        batch = first.shape[0]
        features = Encoder(sizes.features, "instance", sizes, name="features")(frames.reshape(-1, *frames.shape[2:]))
        pyramid = correlations(features[:batch], features[batch:])
        context = Encoder(sizes.hidden + sizes.context, sizes.context_norm, sizes, name="context")(frames[0])
        hidden, context = nn.tanh(context[..., : sizes.hidden]), nn.relu(context[..., sizes.hidden :])
        scanned = nn.scan(
            Update,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=sizes.iterations,
        )
        start = (hidden, jnp.zeros((*hidden.shape[:3], 2)))
        (hidden, flow), _ = scanned(sizes, name="update")(start, context, pyramid)
        if not sizes.convex:
            return STRIDE * _stretch(flow)
        weights = nn.relu(Convolution(256, name="mask1")(hidden))
        return convex_mean(STRIDE * flow, 0.25 * Convolution(9 * STRIDE**2, (1, 1), name="mask2")(weights))


def correlations(first: Float[Array, "B h w D"], second: Float[Array, "B h w D"]) -> tuple[Array, ...]:
    """Products of all pairs of features [B h w y x], and their means over squares of 2, 4 and 8 places of the second.

    Source: arXiv:2003.12039, Eq. 1.
    """
    pairs = jnp.einsum("Bhwd,Byxd->Bhwyx", first, second, precision="highest") / jnp.sqrt(first.shape[-1])
    pyramid = [pairs]
    for _ in range(LEVELS - 1):
        height, width = (size // 2 * 2 for size in pyramid[-1].shape[-2:])
        cut = pyramid[-1][..., :height, :width]
        pyramid.append(rearrange(cut, "B h w (y i) (x j) -> B h w y x i j", i=2, j=2).mean((-1, -2)))
    return tuple(pyramid)


def look_up(pyramid: tuple[Array, ...], flow: Float[Array, "B h w 2"], radius: int) -> Float[Array, "B h w D"]:
    """Returns the correlations of every level around the places to which the flow leads, columns before rows.

    Source: arXiv:2003.12039, section 3.2.
    """
    _, h, w, _ = flow.shape
    at = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), -1) + flow
    around = jnp.arange(-radius, radius + 1)
    found = []
    for level, pairs in enumerate(pyramid):
        weights = []
        for axis, size in ((0, pairs.shape[-1]), (1, pairs.shape[-2])):
            place = at[..., axis, None] / 2**level + around
            weights.append(jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(size))))
        seen = jnp.einsum("Bhwyx,Bhwix->Bhwyi", pairs, weights[0])
        seen = jnp.einsum("Bhwyi,Bhwjy->Bhwij", seen, weights[1])
        found.append(seen.reshape(*seen.shape[:3], -1))
    return jnp.concatenate(found, -1)


def convex_mean(flow: Float[Array, "B h w 2"], logits: Float[Array, "B h w D"]) -> Float[Array, "B H W 2"]:
    """Every fine pixel's mean of the nine coarse neighbours, with weights that add up to 1. Source: section 3.3."""
    _, h, w, _ = flow.shape
    weights = jax.nn.softmax(rearrange(logits, "B h w (n i j) -> B h w i j n", n=9, i=STRIDE, j=STRIDE), -1)
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = jnp.stack([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -2)
    return rearrange(jnp.einsum("Bhwijn,Bhwnc->Bhwijc", weights, near), "B h w i j c -> B (h i) (w j) c")


def check_size(height: int, width: int) -> None:
    """Raises ValueError unless frames of that size can be looked at."""
    if height % STRIDE or width % STRIDE or min(height, width) < 2 * SMALLEST:
        raise ValueError(
            f"RAFT looks at frames whose sides are multiples of {STRIDE} and at least {2 * SMALLEST} pixels; these are"
            f" {width} x {height}."
        )


def _stretch(flow: Float[Array, "B h w 2"]) -> Float[Array, "B H W 2"]:
    """Bilinear, with the corners' middles in the corners."""
    for axis in (1, 2):
        size = flow.shape[axis]
        place = jnp.linspace(0, size - 1, STRIDE * size)
        weights = jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(size)))
        flow = jnp.moveaxis(jnp.tensordot(weights, flow, (1, axis)), 0, axis)
    return flow
