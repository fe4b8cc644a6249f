"""Prior inversion: sampling starts from noise that already leans towards the reference picture.

Source: LivePhoto (arXiv:2312.02928), Sec. 3.3, Eq. 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from jaxmotion.diffusion.sampling import InitialNoise
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Array


@register()
@dataclasses.dataclass(frozen=True)
class PriorInversion(InitialNoise):
    """z_T^n becomes alpha^n Inv(r_0) + (1 - alpha^n) z_T^n, alpha^n linear over the frames.

    A plain interpolation, as printed: it is not variance-preserving.

    Not specified in the paper; we use: Inv is DDIM inversion of the reference latent, repeated over the frames, by the
    trained denoiser itself with the empty caption and no guidance. With strengths of 0 it is not run.
    """

    first: float = 0.033
    """alpha of the first frame."""
    last: float = 0.016
    """alpha of the last frame."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.first <= 1.0 and 0.0 <= self.last <= 1.0):
            raise ValueError(f"Prior strengths lie in [0, 1]; got first {self.first} and last {self.last}.")

    def start(
        self, noise: Float[Array, "B T h w C"], inverted: Callable[[], Float[Array, "B T h w C"]]
    ) -> Float[Array, "B T h w C"]:
        """Returns the latents that sampling starts from."""
        if self.first == self.last == 0.0:
            return noise
        alpha = jnp.linspace(self.first, self.last, noise.shape[1])[:, None, None, None]
        return alpha * inverted() + (1.0 - alpha) * noise
