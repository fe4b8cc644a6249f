"""Published weights of a motion estimator's backbone: TAda2D-R50, as its authors publish it (`model_state`)."""

from __future__ import annotations

import dataclasses

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.systems.pretrained import Arrays, Pretrained
from jaxmotion.systems.system import System

BACKBONE = "backbone"
"""The part of the parameters that holds the backbone."""
MOMENTS = ("mean", "variance")
"""Names of a batch norm's constants, which published weights bring and nothing else does."""
TO_START = (
    "give it weights (--pretrained.backbone.source), or take a norm that needs none: "
    "--system.network.backbone.norm group"
)


@register()
@dataclasses.dataclass(frozen=True)
class PretrainedBackbone(Pretrained):
    """Weights of the backbone; the heads stay fresh."""

    part: str = BACKBONE

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        """Returns the weights and the moments; see the base class.

        Raises:
            CheckpointFileError: as the base class; or the network has batch norms and nothing gives their moments; or
                it has other norms than the published network.
        """
        moments = [path for path in shapes if path.startswith(f"{BACKBONE}/") and path.endswith(MOMENTS)]
        if self.source and not moments and f"{BACKBONE}/stem_bn/scale" in shapes:
            raise CheckpointFileError(
                f"{self.source} is for a network with batch norms, and this one has others; set "
                "--system.network.backbone.norm batch."
            )
        found = super().load(system, shapes, loaded)
        missing = [path for path in moments if path not in found and path not in loaded]
        if missing:
            raise CheckpointFileError(
                "The moments of a batch norm are constants here, and with random weights they say nothing "
                f"({missing[0]}); {TO_START}."
            )
        return found
