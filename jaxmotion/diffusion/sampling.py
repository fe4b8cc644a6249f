"""Sampling settings: sampler, guidance scales and initial noise, as one value."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Self

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
    """Classifier-free guidance scale on the text; 1 is the plain conditional prediction. With a schedule that rises it
    goes from 1 to 1 + this, and 0 is the plain prediction."""
    initial_noise: InitialNoise = Noise()
    """The latents that the first step starts from."""
    inversion_steps: int | None = None
    """Steps of the DDIM inversion, when the initial noise asks for one; None: as many as the sampler takes."""
    guidance_scales: tuple[tuple[str, float], ...] = ()
    """Guidance scales on other conditions by their names, such as (("object", 2.0),), of those that training has left
    out of some clips; each takes one more evaluation of the network in every step, unless it is that of the condition
    before it, or it is 1 and so are those before it."""
    guidance_schedule: Constant | CosineByStep | CogVideoXDynamic = Constant()
    """Schedule of the guidance scales over the steps."""

    def __post_init__(self) -> None:
        if self.inversion_steps is not None and self.inversion_steps < 1:
            raise ValueError(f"The inversion needs at least one step; got {self.inversion_steps}.")
        for name, scale in ((TEXT, self.guidance), *self.guidance_scales):
            if not math.isfinite(scale):
                raise ValueError(f"A guidance scale is a number, such as 7.5; got {scale} for {name!r}.")

    def count_inversion_steps(self) -> int:
        """Returns the number of steps of the DDIM inversion."""
        return self.sampler.steps if self.inversion_steps is None else self.inversion_steps

    def with_steps(self, steps: int) -> Self:
        """Returns these settings with another number of denoising steps; an inversion takes the same share of them."""
        inversion = self.inversion_steps
        if inversion is not None:
            inversion = max(1, round(inversion * steps / self.sampler.steps))
        return dataclasses.replace(
            self, sampler=dataclasses.replace(self.sampler, steps=steps), inversion_steps=inversion
        )

    def scales(self, guidable: Mapping[str, bool]) -> dict[str, float]:
        """Returns the scales of the conditions that are guided, by their names, the text first.

        The first ones are left out while they guide nothing. After another, a scale of 1 still adds its condition: the
        steps before it are made without that, and so they are when the scale is 1.001.

        Args:
            guidable: for each condition, whether the network knows what its absence means.

        Raises:
            ValueError: one is of a condition that cannot be guided, or that is not there.
        """
        scales = {TEXT: self.guidance, **dict(self.guidance_scales)}
        choice = f"this system can guide {', '.join(name for name, can in guidable.items() if can) or 'none'}"
        for name, _ in self.guidance_scales:
            if not guidable.get(name, True):
                raise ValueError(
                    f"Guidance leads away from the prediction without {name!r}, which this network has never learned: "
                    f"training left {name!r} out of no clip. As it is, {choice}; to guide {name!r}, train with a share "
                    f"of it in the system's dropout, such as {{{name!r}: 0.1}}."
                )
            if name not in guidable:
                raise ValueError(f"There is no condition {name!r} to guide; {choice}.")
        named = [(name, scale) for name, scale in scales.items() if guidable.get(name)]
        return dict(itertools.dropwhile(lambda each: each[1] == self.guidance_schedule.unguided, named))
