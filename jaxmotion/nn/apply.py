"""Modules as pure functions."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import PyTree

from jaxmotion.foundation.types import Array, Params


def apply(module: nn.Module, params: Params, *inputs: PyTree[Array]) -> PyTree[Array]:
    """Applies a module with the given parameters. Modules here have no other state."""
    return module.apply({"params": params}, *inputs)
