"""Modules as pure functions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxmotion.foundation.types import Params


def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """Applies a module with the given parameters. Modules here have no other state."""
    return module.apply({"params": params}, *inputs)
