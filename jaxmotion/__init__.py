"""Image-to-video with the amount of motion that was asked for, in JAX and Flax.

The names below are imported when they are first used, so that `import jaxmotion` is quick and touches no device:

    import jaxmotion
    run = jaxmotion.open_run("runs/mine")
    reading = jaxmotion.estimate_motion(clip, fps=24)

The configs of the systems are here too, each under its own name.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmotion.meter.meter import estimate_motion
    from jaxmotion.runs.experiment import Experiment, load
    from jaxmotion.runs.trained import TrainedRun, open_run
    from jaxmotion.sampling.request import Request

__version__ = "0.1.0"

_PUBLIC = {
    "open_run": "runs.trained:open_run",
    "TrainedRun": "runs.trained:TrainedRun",
    "Experiment": "runs.experiment:Experiment",
    "load": "runs.experiment:load",
    "Request": "sampling.request:Request",
    "estimate_motion": "meter.meter:estimate_motion",
}
"""Public names and where they are defined."""

__all__ = ["Experiment", "Request", "TrainedRun", "estimate_motion", "load", "open_run"]


def __getattr__(name: str) -> Any:
    place = _PUBLIC.get(name) or _public_systems().get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, *_public_systems()])


def _public_systems() -> dict[str, str]:
    """Public names of the systems and where they are defined, as the folder of each says."""
    found = {}
    for folder in pkgutil.iter_modules(importlib.import_module(f"{__name__}.systems").__path__):
        if folder.ispkg:
            names = getattr(importlib.import_module(f"{__name__}.systems.{folder.name}"), "PUBLIC", {})
            found |= {name: f"systems.{folder.name}.{module}:{name}" for name, module in names.items()}
    return found
