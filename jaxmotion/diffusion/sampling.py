"""How clips are sampled: sampler, guidance scales and initial noise, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from jaxmotion.diffusion.guidance import Dynamic, Flat, Rising
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, SDEDPMSolverPP
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import TEXT
from jaxmotion.foundation.types import Array


@register()
@dataclasses.dataclass(frozen=True)
class Noise:
    """Sampling starts from the Gaussian noise itself."""

    def start(self, noise: Array, inverted: Callable[[], Array]) -> Array:
        """The noise; `inverted` is not called."""
        return noise


@register()
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How clips are sampled."""

    sampler: DDIM | DPMSolverPP | SDEDPMSolverPP | DDPM = DDIM()
    """The update rule and its number of steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale on the text; 1 is the plain conditional prediction."""
    start: Any = Noise()
    """What the first step starts from: `Noise` or LivePhoto's `PriorInversion`."""
    inversion_steps: int = 25
    """Steps of the DDIM inversion, when the start asks for one."""
    others: tuple[tuple[str, float], ...] = ()
    """Guidance scales on other conditions by their names, such as (("object", 2.0),); each one that is not 1 takes one
    more evaluation of the network in every step, unless it is that of the condition before it."""
    curve: Flat | Rising | Dynamic = Flat()
    """How the scales run over the steps."""

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"The inversion needs at least one step; got {self.inversion_steps}.")

    def scales(self, known: Collection[str]) -> dict[str, float]:
        """The scales that are not 1, by the names of conditions, the text first.

        Raises:
            ValueError: one is of a condition that is not among the known ones.
        """
        scales = {TEXT: self.guidance, **dict(self.others)}
        unknown = [name for name, scale in scales.items() if name not in known and name != TEXT]
        if unknown:
            raise ValueError(f"There is no condition {unknown[0]!r} to guide; this system has {', '.join(known)}.")
        return {name: scale for name, scale in scales.items() if scale != 1.0 and name in known}
