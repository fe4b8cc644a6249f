"""The diffusion process: clean latents to noisy ones, and a network's prediction back to both of its parts.

    z_t = a_t z_0 + s_t eps,    a_t = sqrt(alpha_bar_t),  s_t = sqrt(1 - alpha_bar_t)

Every place that needs z_0 or eps of a prediction goes through `to_z0_and_eps`. Times t are integers in 0..N-1, one for
each sample [B], or one for each frame [B T]: `t` has the leading axes of `z`. Arithmetic is in float32.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmotion.diffusion.schedule import Schedule
from jaxmotion.foundation.config_json import register

Prediction = Literal["eps", "z0", "v"]
PREDICTIONS: tuple[Prediction, ...] = ("eps", "z0", "v")


@register()
@dataclasses.dataclass(frozen=True)
class Process:
    """A noise schedule and the prediction type of the network: the noise, the clean latent, or the velocity v.

    v = a_t eps - s_t z_0. Source: arXiv:2202.00512, Appendix D.
    """

    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    prediction: Prediction = "eps"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"Process.prediction is {self.prediction!r}; it can be one of {PREDICTIONS}.")
        if self.prediction == "eps" and self.schedule.zero_terminal_snr:
            raise ValueError(
                "A network that predicts eps says nothing about z_0 where there is no signal. "
                "With zero_terminal_snr use prediction 'v' or 'z0'."
            )

    def corrupt(
        self, z0: Float[Array, "B *rest"], eps: Float[Array, "B *rest"], t: Int[Array, "B *lead"]
    ) -> Float[Array, "B *rest"]:
        """Returns z_t of DDPM (arXiv:2006.11239), Eq. 4."""
        signal, noise = self.levels(t, z0.ndim)
        return signal * z0 + noise * eps

    def target(
        self, z0: Float[Array, "B *rest"], eps: Float[Array, "B *rest"], t: Int[Array, "B *lead"]
    ) -> Float[Array, "B *rest"]:
        """Returns the regression target of the network at z_t."""
        if self.prediction == "eps":
            return eps
        if self.prediction == "z0":
            return z0
        signal, noise = self.levels(t, z0.ndim)
        return signal * eps - noise * z0

    def recover(
        self, zt: Float[Array, "B *rest"], t: Int[Array, "B *lead"], prediction: Float[Array, "B *rest"]
    ) -> tuple[Float[Array, "B *rest"], Float[Array, "B *rest"]]:
        """Returns (z_0, eps) implied by the network's prediction at z_t. Exact at zero terminal SNR for v and z0."""
        signal, noise = self.levels(t, zt.ndim)
        return to_z0_and_eps(self.prediction, signal, noise, zt, prediction)

    def snr(self, t: Int[Array, "..."]) -> Float[Array, "..."]:
        """Returns the signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t)."""
        alpha_bar = self.schedule.alpha_bar
        return jnp.asarray(alpha_bar / (1.0 - alpha_bar), jnp.float32)[t]

    def levels(self, t: Int[Array, "B *lead"], ndim: int) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Returns (a_t, s_t) in float32 with as many axes as the latents, ready to multiply them."""
        alpha_bar = self.schedule.alpha_bar
        tables = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
        signal, noise = (jnp.asarray(table, jnp.float32)[t] for table in tables)
        tail = (1,) * (ndim - signal.ndim)
        return signal.reshape(signal.shape + tail), noise.reshape(noise.shape + tail)


def to_z0_and_eps(
    kind: Prediction,
    signal: Float[Array, "..."],
    noise: Float[Array, "..."],
    zt: Float[Array, "..."],
    prediction: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Returns (z_0, eps) with z_t = signal * z_0 + noise * eps, from z_t and a prediction of type `kind`."""
    if kind == "eps":
        return (zt - noise * prediction) / signal, prediction
    if kind == "z0":
        return prediction, (zt - signal * prediction) / noise
    return signal * zt - noise * prediction, signal * prediction + noise * zt
