"""Networks as lists of named layers, and the context that every layer of a video network receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import flax.struct
import jax
from jaxtyping import Array, Float

Layer = Callable[..., nn.Module]
"""Makes a layer when given its name: `functools.partial(CrossAttention, heads=8, reads="text")`.

Layers learn the number of features from their input, so one such value serves all stages of a network."""

Layers = tuple[tuple[str, Layer], ...]
"""Named layers as pairs. A module holds them so, because Flax sorts the keys of a dict when it transforms a module."""


class Context(flax.struct.PyTreeNode):
    """Inputs of a layer beside the features that it transforms.

    time:   embedding of the diffusion time, condition vectors included.                   [B E]
    tokens: sequences by name, per frame or (second axis 1) shared by all frames of a clip. Each [B T|1 L D].
    """

    time: Float[Array, "B E"]
    tokens: Mapping[str, Float[Array, "B T L D"]]


class Chain(nn.Module):
    """Applies named layers in order. The names become the names of the parameters.

    An inserted layer changes no name of the layers around it, so weights of the shorter chain load into the longer one.
    """

    layers: Mapping[str, Layer] | Layers

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(dict(self.layers).items()))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "*axes"], context: Context) -> Float[Array, "*axes"]:
        for name, layer in dict(self.layers).items():
            x = layer(name=name)(x, context)
        return x


class Stack(nn.Module):
    """Applies `depth` layers of one kind in order, compiled once: their parameters are stacked on a new first axis.

    Each layer is called with x and the stack's further arguments, which all layers share.
    """

    layer: Layer
    depth: int
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "*axes"], *rest) -> Float[Array, "*axes"]:
        def step(layer: nn.Module, x: Array, _: None) -> tuple[Array, None]:
            return layer(x, *rest), None

        scan = nn.scan(
            rematerialise(step, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = scan(self.layer(name="layers"), x, None)
        return x


def rematerialise(module: Callable, policy: str) -> Callable:
    """Returns a module class, or a function of a module, under a rematerialisation (activation checkpointing) policy.

    Args:
        policy: "none" keeps every activation for the backward pass; "full" keeps only the inputs of the module and
            recomputes the rest; "dots" also keeps the results of matrix products and convolutions, which are the
            expensive ones to recompute.
    """
    if policy == "none":
        return module
    if policy == "full":
        return nn.remat(module)
    if policy == "dots":
        return nn.remat(module, policy=_keep_products)
    raise ValueError(f'Unknown remat policy "{policy}"; known are "none", "full" and "dots".')


def _keep_products(primitive, *_, **__) -> bool:
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)
