"""Low-rank factors (LoRA) of kernels: initialisation, use beside a kernel, merging, and their layout by paths.

Source: LoRA (arXiv:2106.09685), section 4.1.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree

from jaxmotion.foundation.types import Array, Params, Shaped

Axis = TypeVar("Axis")
LORA, DOWN, UP = "lora", "down", "up"
"""The part of the parameter tree that holds the factors, and the two factors of a kernel."""


class AdaptedKernel(flax.struct.PyTreeNode):
    """A kernel in the place of a parameter, with the factors of its change beside it: x W + (x down) up.

    Rounded to bfloat16, W + down up would be W wherever the change is below 1/256 of it, as most of a LoRA is. `Linear`
    and `Conv` add the two results instead. Another layer that takes it as an array gets the sum, in float32. `kernel`
    comes first: Flax compares the shape of a parameter with that of its first array.
    """

    kernel: Array
    down: Array
    up: Array

    def __jax_array__(self) -> Array:
        stacked = self.down.ndim + self.up.ndim - 2 > self.kernel.ndim
        return self.kernel.astype(jnp.float32) + _product(stacked, self.down, self.up)

    def astype(self, dtype: DTypeLike) -> Array:
        """Returns the sum in this type."""
        return self.__jax_array__().astype(dtype)


def attach(params: Params, lora: Params, factor: float | Array) -> dict[str, PyTree[Array]]:
    """Returns `params` with an `AdaptedKernel` for each kernel that `lora` has factors for; `factor` goes into `up`."""

    def beside(path: str, kernel: Array, down: Array, up: Array) -> AdaptedKernel:
        return AdaptedKernel(kernel, down, (factor * up.astype(jnp.float32)).astype(up.dtype))

    return _with_kernels(params, lora, beside)


def merge(
    params: Params, lora: Params, factor: float | Array, dtype: DTypeLike | None = None
) -> dict[str, PyTree[Array]]:
    """Returns `params` with factor * down up added to each kernel that `lora` has factors for.

    The sum is made in float32 and rounded once, to `dtype`; by default to the precision of the kernel.
    """

    def together(path: str, kernel: Array, down: Array, up: Array) -> Array:
        return (kernel.astype(jnp.float32) + factor * product(path, down, up)).astype(dtype or kernel.dtype)

    return _with_kernels(params, lora, together)


def _with_kernels(
    params: Params, lora: Params, adapt: Callable[[str, Array, Array, Array], PyTree[Array]]
) -> dict[str, PyTree[Array]]:
    """Returns `params` with adapt(path, kernel, down, up) for each kernel that `lora` has factors for."""
    flat: dict[str, PyTree[Array]] = flatten_dict(params, keep_empty_nodes=True, sep="/")  # pyright: ignore[reportAssignmentType]
    for path, down, up in pairs(lora):
        if path not in flat:
            raise ValueError(f"There are LoRA factors for {path!r}, but no such kernel.")
        kernel, down, up = jnp.asarray(flat[path]), jnp.asarray(down), jnp.asarray(up)
        change = jax.eval_shape(functools.partial(product, path), down, up)
        if change.shape != kernel.shape:
            raise ValueError(f"The LoRA factors of {path!r} make {change.shape}; the kernel is {kernel.shape}.")
        flat[path] = adapt(path, kernel, down, up)
    return unflatten_dict(flat, sep="/")


def product(path: str, down: Float[Array, "*C R"], up: Float[Array, "R *D"]) -> Float[Array, "*C *D"]:
    """Returns the product of the factors of the kernel at `path`, in float32."""
    return _product(is_stacked(path), down, up)


def _product(stacked: bool, down: Array, up: Array) -> Array:
    multiply = functools.partial(jnp.tensordot, axes=1, precision=jax.lax.Precision.HIGHEST)
    multiply = jax.vmap(multiply) if stacked else multiply
    return multiply(jnp.asarray(down, jnp.float32), jnp.asarray(up, jnp.float32))


def pairs(lora: Params) -> list[tuple[str, Array, Array]]:
    """Returns (path of a kernel, down, up) for all factors of a `lora` part."""
    flat: dict[str, Array] = flatten_dict(lora, sep="/")  # pyright: ignore[reportAssignmentType]
    kernels = dict.fromkeys(path.rpartition("/")[0] for path in flat)
    wanted = {f"{path}/{role}" for path in kernels for role in (DOWN, UP)}
    if wanted != flat.keys():
        odd = ", ".join(sorted(wanted ^ flat.keys())[:5])
        raise ValueError(f"LoRA factors come in pairs, {DOWN!r} and {UP!r} under the path of a kernel; see {odd}.")
    return [(path, flat[f"{path}/{DOWN}"], flat[f"{path}/{UP}"]) for path in kernels]


def choose_kernels(params: Params, paths: Iterable[str]) -> dict[str, Array]:
    """Returns the kernels that the patterns match, by path. Raises ValueError for a pattern that matches none."""
    flat: dict[str, Array] = flatten_dict(params, sep="/")  # pyright: ignore[reportAssignmentType]
    kernels = {path: leaf for path, leaf in flat.items() if path.endswith("/kernel") and leaf.ndim > 1}
    for pattern in paths:
        if not any(re.search(pattern, path) for path in kernels):
            shown = ", ".join(list(kernels)[:5])
            raise ValueError(f"The LoRA path {pattern!r} matches no kernel. Kernels look like: {shown}.")
    return {path: leaf for path, leaf in kernels.items() if any(re.search(pattern, path) for pattern in paths)}


def fresh(kernels: Mapping[str, Shaped], rank: int, key: Array) -> Params:
    """Returns fresh factors for kernels (or their shapes) by path: down random, up zero.

    Source: arXiv:2106.09685 has A Gaussian and B zero. Not specified in the paper; we use: down uniform in plus
    or minus 1 / sqrt(its inputs), as PEFT starts it (Kaiming's uniform initialisation with a = sqrt(5)).
    """
    factors = {}
    for (path, kernel), each in zip(kernels.items(), jax.random.split(key, len(kernels)), strict=True):
        layers, inputs, outputs = sides(path, kernel.shape)
        if rank > max(math.prod(inputs), math.prod(outputs)):
            raise ValueError(
                f"The LoRA rank {rank} is larger than both sides of {path!r}, {math.prod(inputs)} and "
                f"{math.prod(outputs)}. Choose a smaller rank, or leave this kernel out of the paths."
            )
        bound = math.prod(inputs) ** -0.5
        factors[f"{path}/{DOWN}"] = jax.random.uniform(each, (*layers, *inputs, rank), minval=-bound, maxval=bound)
        factors[f"{path}/{UP}"] = jnp.zeros((*layers, rank, *outputs))
    return unflatten_dict(factors, sep="/")


def sides(path: str, axes: Sequence[Axis]) -> tuple[tuple[Axis, ...], tuple[Axis, ...], tuple[Axis, ...]]:
    """Returns (layers, inputs, outputs) of a kernel, from one value for each of its axes, such as its shape.

    `nn.chain.Stack` calls its layers `layers` and keeps them on the first axis. A linear layer has one axis of inputs
    and any number of outputs; a convolution has one axis of outputs.
    """
    layers = int(is_stacked(path))
    inputs = 1 if len(axes) - layers < 4 else len(axes) - layers - 1
    return tuple(axes[:layers]), tuple(axes[layers : layers + inputs]), tuple(axes[layers + inputs :])


def is_stacked(path: str) -> bool:
    """Returns whether a kernel holds the layers of an `nn.chain.Stack` on its first axis."""
    return "/layers/" in path
