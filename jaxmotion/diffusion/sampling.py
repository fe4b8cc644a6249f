"""Sampling settings: sampler, guidance scales and initial noise, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from jaxtyping import Float

from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant, CosineByStep
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, SDEDPMSolverPP
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import TEXT
from jaxmotion.foundation.types import Array


class InitialNoise:
    """Base of the configs of the latents that the first denoising step starts from."""

    def start(
        self, noise: Float[Array, "B T h w C"], inverted: Callable[[], Float[Array, "B T h w C"]]
    ) -> Float[Array, "B T h w C"]:
        """Returns z_T.

        Args:
            noise: Gaussian noise.
            inverted: runs the DDIM inversion of the reference latent, repeated over the frames; not called when unused.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what sampling starts from.")


@register()
@dataclasses.dataclass(frozen=True)
class Noise(InitialNoise):
    """Sampling starts from the Gaussian noise itself."""

    def start(
        self, noise: Float[Array, "B T h w C"], inverted: Callable[[], Float[Array, "B T h w C"]]
    ) -> Float[Array, "B T h w C"]:
        """Returns the noise; `inverted` is not called."""
        return noise


@register(fields={"others": "guidance_scales", "curve": "guidance_schedule", "start": "initial_noise"})
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    sampler: DDIM | DPMSolverPP | SDEDPMSolverPP | DDPM = DDIM()
    """The update rule and its number of steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale on the text; 1 is the plain conditional prediction."""
    initial_noise: InitialNoise = Noise()
    """The latents that the first step starts from."""
    inversion_steps: int = 25
    """Steps of the DDIM inversion, when the initial noise asks for one."""
    guidance_scales: tuple[tuple[str, float], ...] = ()
    """Guidance scales on other conditions by their names, such as (("object", 2.0),); each one that is not 1 takes one
    more evaluation of the network in every step, unless it is that of the condition before it."""
    guidance_schedule: Constant | CosineByStep | CogVideoXDynamic = Constant()
    """Schedule of the guidance scales over the steps."""

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"The inversion needs at least one step; got {self.inversion_steps}.")

    def scales(self, known: Collection[str]) -> dict[str, float]:
        """Returns the scales that are not 1, by the names of conditions, the text first.

        Raises:
            ValueError: one is of a condition that is not among the known ones.
        """
        scales = {TEXT: self.guidance, **dict(self.guidance_scales)}
        unknown = [name for name, scale in scales.items() if name not in known and name != TEXT]
        if unknown:
            raise ValueError(f"There is no condition {unknown[0]!r} to guide; this system has {', '.join(known)}.")
        return {name: scale for name, scale in scales.items() if scale != 1.0 and name in known}
