"""The training loss: squared error of the prediction, unreduced, then weighted by time and averaged for each sample."""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Float, Int

from jaxmotion.diffusion.process import Process
from jaxmotion.foundation.config_json import register


class Weighting(Protocol):
    """Weighting of the squared error by the diffusion time."""

    def weights(self, process: Process, t: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
        """Returns the factor of the squared error at time t, for the prediction type of the process."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class Uniform:
    """Weight 1 at every time: the simple loss of DDPM (arXiv:2006.11239, Eq. 14)."""

    def weights(self, process: Process, t: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
        """Returns ones."""
        return jnp.ones(t.shape, jnp.float32)


@register()
@dataclasses.dataclass(frozen=True)
class MinSNR:
    """Weight min(SNR, gamma) on the error of z_0. Source: arXiv:2303.09556, Sec. 3.4.

    In other terms: an error e of eps is an error e / sqrt(SNR) of z_0, one of v is e / sqrt(SNR + 1).
    """

    gamma: float = 5.0

    def __post_init__(self):
        if self.gamma <= 0:
            raise ValueError(f"MinSNR.gamma must be > 0 (the paper uses 5); got {self.gamma}.")

    def weights(self, process: Process, t: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
        """Returns min(SNR, gamma), divided by the factor from squared errors of z_0 to those of the prediction."""
        snr = process.snr(t)
        if process.prediction == "eps":
            return jnp.minimum(1.0, self.gamma / snr)
        if process.prediction == "z0":
            return jnp.minimum(snr, self.gamma)
        return jnp.minimum(snr, self.gamma) / (snr + 1.0)


def squared_error(prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """(prediction - target)^2 in float32, unreduced."""
    return jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32))


def diffusion_loss(
    process: Process,
    weighting: Weighting,
    prediction: Float[Array, "B *rest"],
    z0: Float[Array, "B *rest"],
    eps: Float[Array, "B *rest"],
    t: Int[Array, "B *lead"],
) -> Float[Array, "B"]:
    """Returns the weighted mean squared error of each sample, of the network's prediction at corrupt(z0, eps, t)."""
    error = squared_error(prediction, process.target(z0, eps, t))
    weights = weighting.weights(process, t)
    weights = weights.reshape(weights.shape + (1,) * (error.ndim - weights.ndim))
    return reduce(weights * error, "b ... -> b", "mean")
