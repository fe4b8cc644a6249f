"""Weights of the motion estimator that scores training clips: the motion meter of this package, or a file like it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import jaxmotion
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.systems.pretrained import Arrays, PretrainedSource
from jaxmotion.systems.system import System
from jaxmotion.weights.tensor_files import open_tensors

METER = "meter"
"""The part of the parameters that holds the motion estimator."""
PACKAGED = "packaged"
PACKAGED_FILE = Path(jaxmotion.__file__).parent / "meter" / "weights" / "motion_meter.safetensors"


@register()
@dataclasses.dataclass(frozen=True)
class PretrainedMeter(PretrainedSource):
    """A motion meter's weights, for an estimator whose weights no other source gives."""

    source: str = PACKAGED
    """`packaged`: the motion meter of this package; or a file of weights like it; empty: fresh."""

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        """Returns the weights in float32, whatever the file has; see the base class."""
        needed = {path: tuple(shape.shape) for path, shape in shapes.items() if path.startswith(f"{METER}/")}
        if not self.source or not needed or needed.keys() <= loaded.keys():
            return {}
        checkpoint = open_tensors(PACKAGED_FILE if self.source == PACKAGED else Path(self.source))
        found = {f"{METER}/{path}": np.asarray(checkpoint[path], np.float32) for path in checkpoint}
        if needed != {path: array.shape for path, array in found.items()}:
            raise CheckpointFileError(
                f"The system's motion estimator is not of the size of the one in {checkpoint.path}; give a file of its "
                "own size."
            )
        return found

    def describe(self, system: System, shapes: Arrays) -> str:
        found = self.load(system, shapes, {})
        return f"{self.source}: {len(found)} arrays" if found else ""
