"""Controls: batch entries that a person sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dial:
    """A batch entry in 1..10 that a person asks for. `whole`: it is a whole number."""

    default: float = 5.0
    whole: bool = False

    def entry(self, values: Sequence[float]) -> np.ndarray:
        """The entry of a batch."""
        return np.asarray(values, np.int32 if self.whole else np.float32)
