"""Guidance: several predictions of one network under different conditions, combined into one.

Classifier-free guidance (arXiv:2207.12598) is the case of two conditions. With more, each step from one condition to
the next has its own scale, as in InstructPix2Pix (arXiv:2211.09800, Eq. 3):

    out = d(c_0) + sum_i s_i (d(c_i) - d(c_{i-1}))
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, PyTree

from jaxmotion.diffusion.sampler import Denoise
from jaxmotion.foundation.config_json import register

Scale = float | Array | Callable[[Int[Array, "B"]], Float[Array, "B"]]
"""A number, one for each sample [B], or a function that gives these at time t."""
Condition = TypeVar("Condition")
Term = tuple[Condition, Scale]
"""A condition (a tree of arrays with the batch on the leading axis) and its scale."""


@register("Flat")
@dataclasses.dataclass(frozen=True)
class Constant:
    """Constant guidance scale."""

    unguided: ClassVar[float] = 1.0
    """The scale under which nothing is guided."""

    def scale(self, peak: float, timesteps: Int[np.ndarray, "N"]) -> Scale:
        """Returns the scale itself."""
        return peak


@register("Rising")
@dataclasses.dataclass(frozen=True)
class CosineByStep:
    """A scale that rises from 1 to almost 1 + w: 1 + w (1 - cos(pi (i / N)^5)) / 2 in step i = 0 .. N - 1.

    Source: `DynamicCFG` of CogVideoX's SAT code, if it were given the number of the step; see `CogVideoXDynamic`.
    """

    unguided: ClassVar[float] = 0.0

    exponent: float = 5.0

    def scale(self, peak: float, timesteps: Int[np.ndarray, "N"]) -> Scale:
        """A function of the times that a sampler visits."""
        count = len(timesteps)
        return _cosine_ramp(peak, np.arange(count) / count, self.exponent, timesteps)


@register("Dynamic")
@dataclasses.dataclass(frozen=True)
class CogVideoXDynamic:
    """The scale of CogVideoX's own sampling: 1 + w (1 - cos(pi ((N - t) / N)^5)) / 2 at time t of N steps.

    t is the time of training, 999 .. 0, and not the number of a step, so with few steps the scale jumps between 1 and
    1 + w until t is near N.

    Source: `use_dynamic_cfg` of diffusers' pipelines, and SAT (THUDM/CogVideo@e519ece, sat/sgm), whose samplers pass
    num_steps - timestep to `DynamicCFG` as the step's number, which is the same. Not as there: diffusers guides only
    where w is above 1; here 1 is the limit of 1.001, and 0 is no guidance.
    """

    unguided: ClassVar[float] = 0.0

    exponent: float = 5.0

    def scale(self, peak: float, timesteps: Int[np.ndarray, "N"]) -> Scale:
        """A function of the times that a sampler visits."""
        share = (len(timesteps) - np.asarray(timesteps, np.float64)) / len(timesteps)
        return _cosine_ramp(peak, share, self.exponent, timesteps)


def _cosine_ramp(peak: float, share: Float[np.ndarray, "N"], exponent: float, timesteps: Int[np.ndarray, "N"]) -> Scale:
    """Returns the scale 1 + w (1 - cos(pi share^exponent)) / 2 as a function of the times that a sampler visits."""
    table = np.zeros(int(np.max(timesteps)) + 1, np.float32)
    table[np.asarray(timesteps)] = 1 + peak * (1 - np.cos(np.pi * share**exponent)) / 2
    return lambda t: jnp.asarray(table)[t]


def guide(
    denoise: Callable[[Float[Array, "B *rest"], Int[Array, "B"], Condition], Float[Array, "B *rest"]],
    terms: Sequence[Term[Condition]],
) -> Denoise:
    """Returns the guided denoiser: (z_t, t) -> prediction.

    Args:
        denoise: the network, (z_t, t, condition) -> prediction. It is called once on all conditions together when their
            trees and shapes agree, else once for each.
        terms: [(base condition, 1), (next condition, scale), ...]. One term alone is the plain conditional network.
            Usual order: nothing, image, image + text.
    """
    if not terms:
        raise ValueError("Guidance needs at least one (condition, scale).")
    conditions, scales = zip(*terms, strict=True)
    if isinstance(scales[0], int | float) and scales[0] != 1:
        raise ValueError(
            f"The first condition is the base that the others are measured from; its scale is 1, not {scales[0]}."
        )
    if len(terms) == 1:
        return lambda zt, t: denoise(zt, t, conditions[0])
    predict = _together if _agree(conditions) else _one_by_one

    def guided(zt: Float[Array, "B *rest"], t: Int[Array, "B"]) -> Float[Array, "B *rest"]:
        predictions = predict(denoise, zt, t, conditions)
        out = predictions[0]
        for scale, before, after in zip(scales[1:], predictions, predictions[1:], strict=False):
            out = out + _per_sample(scale, t, zt.ndim) * (after - before)
        return out.astype(predictions[0].dtype)

    return guided


def _agree(conditions: Sequence[PyTree[Array]]) -> bool:
    def outline(condition: PyTree[Array]) -> tuple:
        leaves, structure = jax.tree.flatten(condition)
        return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

    return all(outline(condition) == outline(conditions[0]) for condition in conditions[1:])


def _together(
    denoise: Callable[[Array, Array, Condition], Array], zt: Array, t: Array, conditions: Sequence[Condition]
) -> list[Array]:
    """Calls the network once, on a batch of B x K. Copies of a sample are neighbours: a sharded batch stays put."""
    count = len(conditions)
    merged = jax.tree.map(lambda *leaves: rearrange(jnp.stack(leaves, 1), "b k ... -> (b k) ..."), *conditions)
    out = denoise(jnp.repeat(zt, count, axis=0), jnp.repeat(t, count, axis=0), merged)
    return list(rearrange(out, "(b k) ... -> k b ...", k=count))


def _one_by_one(
    denoise: Callable[[Array, Array, Condition], Array], zt: Array, t: Array, conditions: Sequence[Condition]
) -> list[Array]:
    return [denoise(zt, t, condition) for condition in conditions]


def _per_sample(scale: Scale, t: Int[Array, "B"], ndim: int) -> Array:
    scale = jnp.asarray(scale(t) if callable(scale) else scale, jnp.float32)
    return scale.reshape(scale.shape + (1,) * (ndim - scale.ndim)) if scale.ndim else scale
