"""Running a module as the pure function it is."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxmotion.foundation.types import Params


def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """What the module makes of its inputs under these parameters. Networks here have no other state."""
    return module.apply({"params": params}, *inputs)
