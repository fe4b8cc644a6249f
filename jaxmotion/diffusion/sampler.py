"""Samplers: from noise to a clean latent in few steps.

Each step of every sampler here is linear in what is known at that step,

    z_next = k_z z + k_z0 z_0 + k_eps eps + k_last z_0' + k_noise n,

with z_0 and eps implied by the network's prediction, z_0' the z_0 of the step before, n fresh Gaussian noise. So a
sampler is a frozen value whose `plan` is the table of these coefficients, computed once in float64 by the formulas of
its paper; `step` applies one row; `sample` scans over the rows.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxmotion.diffusion.process import Prediction, Process, to_z0_and_eps
from jaxmotion.foundation.config_json import register

Spacing = Literal["leading", "trailing", "linspace"]
Denoise = Callable[[Float[Array, "B *rest"], Int[Array, "B"]], Float[Array, "B *rest"]]
"""(z_t, t) -> the network's prediction, in the terms of the process it was trained under."""


class Coefficients(NamedTuple):
    """Coefficients of the update rule, one row for each step: arrays [steps] in a plan, scalars in a row of it."""

    t: np.ndarray | Array  # int32: the time that the network receives
    signal: np.ndarray | Array  # a and s of the level that z is at: z = a z_0 + s eps
    sigma: np.ndarray | Array
    z: np.ndarray | Array  # the k_* of the module's formula
    z0: np.ndarray | Array
    eps: np.ndarray | Array
    last: np.ndarray | Array
    noise: np.ndarray | Array


class Sampler(Protocol):
    """Interface of samplers: the table of steps."""

    def timesteps(self, process: Process) -> np.ndarray:
        """int32 [steps], falling."""
        ...

    def plan(self, process: Process) -> Coefficients:
        """Returns the coefficients of every step."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models. The defaults are the scheduler that ships with Stable Diffusion 1.5.

    eta: 0 is deterministic, 1 adds as much noise as DDPM.
    final: the level that the last step goes to: `first` is that of t = 0 (as Stable Diffusion does), `clean` has no
        noise.

    Source: arXiv:2010.02502, Eq. 12 and 16. The level a step goes to is t - N // steps, as in diffusers' DDIMScheduler;
    with linspace, or when steps does not divide N, that is close to the next time but not it.
    """

    steps: int = 50
    eta: float = 0.0
    spacing: Spacing = "leading"
    steps_offset: int = 1
    final: Literal["first", "clean"] = "first"

    def __post_init__(self):
        _check_steps(self.steps)
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"DDIM.eta is {self.eta}; it runs from 0 (deterministic) to 1 (as noisy as DDPM).")
        if self.final not in ("first", "clean"):
            raise ValueError(f"DDIM.final is {self.final!r}; it can be 'first' or 'clean'.")

    def timesteps(self, process: Process) -> np.ndarray:
        """int32 [steps], falling."""
        return timestep_spacing(process.schedule.steps, self.steps, self.spacing, self.steps_offset)

    def plan(self, process: Process) -> Coefficients:
        """Eq. 12: z_next = a' z_0 + sqrt(s'^2 - sigma^2) eps + sigma n, with sigma of Eq. 16."""
        t = self.timesteps(process)
        here = process.schedule.alpha_bar[t]
        there = previous_alpha_bar(process, t, self.steps, self.final)
        sigma = self.eta * np.sqrt((1 - there) / (1 - here) * (1 - here / there))
        eps = np.sqrt(np.maximum(1 - there - sigma**2, 0.0))
        return make_coefficients(t, here, z0=np.sqrt(there), eps=eps, noise=sigma)


@register()
@dataclasses.dataclass(frozen=True)
class DDPM:
    """Ancestral sampling with the variance of the true posterior ("fixed small").

    Source: arXiv:2006.11239, Eq. 6 and 7, between neighbouring times of any spacing; the last step ends at no noise.
    """

    steps: int = 1000
    spacing: Spacing = "leading"
    steps_offset: int = 0

    def __post_init__(self):
        _check_steps(self.steps)

    def timesteps(self, process: Process) -> np.ndarray:
        """int32 [steps], falling."""
        return timestep_spacing(process.schedule.steps, self.steps, self.spacing, self.steps_offset)

    def plan(self, process: Process) -> Coefficients:
        """Returns the posterior's mean in terms of z_0 and z_t, and its standard deviation."""
        t = self.timesteps(process)
        here = process.schedule.alpha_bar[t]
        there = np.append(here[1:], 1.0)
        alpha = here / there
        z0 = np.sqrt(there) * (1 - alpha) / (1 - here)
        z = np.sqrt(alpha) * (1 - there) / (1 - here)
        return make_coefficients(t, here, z=z, z0=z0, noise=np.sqrt((1 - there) / (1 - here) * (1 - alpha)))


@register()
@dataclasses.dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ (2M, midpoint): second order from the two latest predictions of z_0, deterministic.

    Source: arXiv:2211.01095, Algorithm 2; as in diffusers' DPMSolverMultistepScheduler the first and the last step are
    first order, the last one ends at no noise, and N is divided into steps + 1 parts (leading, linspace).
    """

    steps: int = 25
    spacing: Spacing = "trailing"
    steps_offset: int = 0

    def __post_init__(self):
        _check_steps(self.steps)

    def timesteps(self, process: Process) -> np.ndarray:
        """int32 [steps], falling."""
        train_steps = process.schedule.steps
        if self.spacing == "trailing":
            return timestep_spacing(train_steps, self.steps, self.spacing, self.steps_offset)
        return timestep_spacing(train_steps, self.steps + 1, self.spacing, self.steps_offset)[:-1]

    def plan(self, process: Process) -> Coefficients:
        """z_next = (s'/s) z + a' (1 - e^-h) D, D = z_0 + (h / 2 h_last) (z_0 - z_0'), h the growth of log(a / s)."""
        t = self.timesteps(process)
        # Without signal log(a / s) is -inf; diffusers takes the smallest half float there, and so does this.
        here = np.maximum(process.schedule.alpha_bar[t], _LEAST_SIGNAL)
        there = np.append(here[1:], 1.0)
        signal, sigma, sigma_next = np.sqrt(here), np.sqrt(1 - here), np.sqrt(1 - there)
        z = sigma_next / sigma
        growth = np.sqrt(there) - signal * z  # a' (1 - e^-h), without an infinite h at the last step
        half_log_snr = np.log(signal / sigma)
        h = np.diff(half_log_snr)
        bend = np.zeros_like(here)
        bend[1:-1] = 0.5 * h[1:] / h[:-1]
        return make_coefficients(t, here, z=z, z0=growth * (1 + bend), last=-growth * bend)


@register()
@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP:
    """SDE-DPM-Solver++ (2M): second order from the two latest predictions of z_0, with fresh noise in every step.

    Source: arXiv:2211.01095, Appendix B, as in CogVideoX's scheduler of diffusers: trailing times, the level a step
    goes to is t - N // steps, the first step and one that goes below t = 0 (to no noise) are first order.
    """

    steps: int = 50

    spacing: ClassVar[Spacing] = "trailing"
    steps_offset: ClassVar[int] = 0

    def __post_init__(self):
        _check_steps(self.steps)

    def timesteps(self, process: Process) -> np.ndarray:
        """int32 [steps], falling."""
        return timestep_spacing(process.schedule.steps, self.steps, self.spacing)

    def plan(self, process: Process) -> Coefficients:
        """z_next = (s'/s) e^-h z + a' (1 - e^-2h) D + s' sqrt(1 - e^-2h) n, D = z_0 + (h / 2 h_last) (z_0 - z_0').

        h is the growth of log(a / s). It is infinite from a level without signal and to one without noise; what stands
        here are the limits.
        """
        t = self.timesteps(process)
        here = process.schedule.alpha_bar[t]
        there = previous_alpha_bar(process, t, self.steps, "clean")
        shrunk = here * (1 - there) / ((1 - here) * there)  # e^-2h
        z = np.sqrt(shrunk * (1 - there) / (1 - here))
        growth = np.sqrt(there) * (1 - shrunk)
        bend = np.zeros_like(here)
        second = (t - process.schedule.steps // self.steps >= 0) & (np.arange(len(t)) > 0)
        with np.errstate(divide="ignore"):  # after a level without signal there is nothing to bend
            levels = (0.5 * np.log(a[second] / (1 - a[second])) for a in (here, np.roll(here, 1), there))
            level, last, following = levels
        bend[second] = 0.5 * (following - level) / (level - last)
        noise = np.sqrt((1 - there) * (1 - shrunk))
        return make_coefficients(t, here, z=z, z0=growth * (1 + bend), last=-growth * bend, noise=noise)


def sample(
    sampler: Sampler,
    process: Process,
    denoise: Denoise,
    z_start: Float[Array, "B *rest"],
    key: Key[Array, "*B"],
    on_step: Callable[[int], None] | None = None,
) -> Float[Array, "B *rest"]:
    """Returns the clean latent that the sampler reaches from `z_start` (Gaussian noise; no scaling is needed).

    Args:
        denoise: the network with its conditions and guidance. It sees z in the dtype of z_start; the steps themselves
            are in float32.
        key: for the noise that the steps add; step i draws from fold_in(key, i). With one key for each sample [B], the
            result of a sample does not depend on its neighbours in the batch. Unused by deterministic samplers.
        on_step: called on the host with the number of each finished step, 0..steps-1 (for progress bars).
    """
    return run_scan(sampler.plan(process), process.prediction, denoise, z_start, key, on_step)


def run_scan(
    plan: Coefficients,
    prediction: Prediction,
    denoise: Denoise,
    z_start: Float[Array, "B *rest"],
    key: Key[Array, "*B"] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Array, "B *rest"]:
    """Takes every step of a plan in one `lax.scan` and returns where it ends."""
    remembers = bool(np.any(plan.last))
    draw = _noise(plan, key, z_start.shape)

    def body(carry, xs):
        z, last = carry
        index, row = xs
        t = jnp.full(z.shape[:1], row.t, jnp.int32)
        output = denoise(z.astype(z_start.dtype), t).astype(jnp.float32)
        z0, eps = to_z0_and_eps(prediction, row.signal, row.sigma, z, output)
        z = step(row, z, z0, eps, last, draw(index))
        if on_step is not None:
            jax.debug.callback(on_step, index)
        return (z, z0 if remembers else None), None

    z = z_start.astype(jnp.float32)
    rows = Coefficients(*(jnp.asarray(column) for column in plan))
    (z, _), _ = jax.lax.scan(body, (z, jnp.zeros_like(z) if remembers else None), (jnp.arange(len(plan.t)), rows))
    return z.astype(z_start.dtype)


def step(
    row: Coefficients,
    z: Float[Array, "B *rest"],
    z0: Float[Array, "B *rest"],
    eps: Float[Array, "B *rest"],
    last: Float[Array, "B *rest"] | None = None,
    noise: Float[Array, "B *rest"] | None = None,
) -> Float[Array, "B *rest"]:
    """Applies one row of a plan: the module's formula. `last` and `noise` are None where no row uses them."""
    z = jnp.asarray(row.z) * z + row.z0 * z0 + row.eps * eps
    if last is not None:
        z = z + row.last * last
    if noise is not None:
        z = z + row.noise * noise
    return z


def timestep_spacing(train_steps: int, steps: int, spacing: Spacing, offset: int = 0) -> np.ndarray:
    """Returns the training times that a sampler visits, int32 [steps], falling. `offset` is added to `leading` times.

    Source: arXiv:2305.08891, Table 2, with the rounding of diffusers.
    """
    if steps > train_steps:
        raise ValueError(f"{steps} sampling steps were asked for, but the schedule has only {train_steps}.")
    if spacing == "leading":
        times = np.arange(steps)[::-1] * (train_steps // steps) + offset
    elif spacing == "trailing":
        times = np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1
    elif spacing == "linspace":
        times = np.linspace(0, train_steps - 1, steps).round()[::-1]
    else:
        raise ValueError(f"The spacing is {spacing!r}; it can be 'leading', 'trailing' or 'linspace'.")
    if times[0] >= train_steps or times[-1] < 0:
        raise ValueError(
            f"steps_offset {offset} pushes the times of {steps} steps out of 0..{train_steps - 1}; "
            f"use an offset of 0 or fewer steps."
        )
    return times.astype(np.int32)


def previous_alpha_bar(process: Process, t: np.ndarray, steps: int, final: str) -> np.ndarray:
    """Returns alpha_bar at t - N // steps, and below t = 0 that of no noise (`clean`) or of t = 0 (`first`)."""
    alpha_bar = process.schedule.alpha_bar
    before = t - process.schedule.steps // steps
    return np.where(before >= 0, alpha_bar[np.maximum(before, 0)], 1.0 if final == "clean" else alpha_bar[0])


_LEAST_SIGNAL = 2.0**-24


def _noise(plan: Coefficients, key: Array | None, shape: tuple[int, ...]) -> Callable[[Array], Array | None]:
    """Returns a function from the number of a step to its noise, or to None where the whole plan adds none."""
    if not np.any(plan.noise):
        return lambda index: None
    if key is None:
        raise ValueError("This plan adds noise, so it needs a random key.")
    if key.ndim == 0:
        return lambda index: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
    if key.shape != shape[:1]:
        raise ValueError(f"There is one random key or one for each of the {shape[0]} samples; got {key.shape}.")
    alone = jax.vmap(lambda one, index: jax.random.normal(jax.random.fold_in(one, index), shape[1:]), in_axes=(0, None))
    return lambda index: alone(key, index)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"A sampler needs at least 1 step; got {steps}.")


def make_coefficients(t: np.ndarray, here: np.ndarray, **columns: np.ndarray) -> Coefficients:
    """Returns the plan with its columns in float32, and zeros for those not given."""
    levels = {"signal": np.sqrt(here), "sigma": np.sqrt(1 - here)}
    zeros = dict.fromkeys(("z", "z0", "eps", "last", "noise"), np.zeros(len(t)))
    return Coefficients(
        t=t, **{name: column.astype(np.float32) for name, column in {**levels, **zeros, **columns}.items()}
    )
