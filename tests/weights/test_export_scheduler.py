"""The scheduler that is exported takes the steps that our sampler takes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.process import Process, to_z0_and_eps
from jaxmotion.diffusion.sampler import DDIM, DDPM, Coefficients, DPMSolverPP, SDEDPMSolverPP, step
from jaxmotion.diffusion.schedule import linear, scaled_linear, snr_shift, zero_terminal_snr
from jaxmotion.weights.diffusers_scheduler import scheduler_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (1, 2, 3, 3, 2)
STEP = 1e-4
"""A step over the largest value: the references keep products of 1000 factors in float32, off by some 1e-6 of
themselves, and at low noise a prediction of z_0 is divided by what is left."""

ANIMATEDIFF = Process(linear(0.00085, 0.012), "eps")
QUICKSTART = Process(zero_terminal_snr(snr_shift(linear(0.00085, 0.012), 6.0)), "z0")
VELOCITY = Process(zero_terminal_snr(scaled_linear()), "v")

CASES = {
    "the full config": (ANIMATEDIFF, DDIM(25), "DDIMScheduler"),
    "the quickstart": (
        QUICKSTART,
        DDIM(4, spacing="trailing", steps_offset=0, final="clean"),
        "CogVideoXDDIMScheduler",
    ),
    "shifted, leading": (Process(snr_shift(scaled_linear(), 3.0), "v"), DDIM(7), "CogVideoXDDIMScheduler"),
    "shifted, with noise": (QUICKSTART, DDIM(5, 0.6, "trailing", 0, "clean"), "DDIMScheduler"),
    "zero terminal SNR": (VELOCITY, DDIM(9, 0.5, "trailing", 0, "clean"), "DDIMScheduler"),
    "linspace": (ANIMATEDIFF, DDIM(11, 0.0, "linspace", 0, "clean"), "DDIMScheduler"),
    "solver": (ANIMATEDIFF, DPMSolverPP(12, "leading", 1), "DPMSolverMultistepScheduler"),
    "solver, few steps": (VELOCITY, DPMSolverPP(4), "DPMSolverMultistepScheduler"),
    "solver, shifted": (QUICKSTART, DPMSolverPP(8), "DPMSolverMultistepScheduler"),
    "of the full config of MotionStone": (
        Process(zero_terminal_snr(snr_shift(scaled_linear(), 3.0)), "v"),
        SDEDPMSolverPP(6),
        "CogVideoXDPMScheduler",
    ),
    "ancestral": (ANIMATEDIFF, DDPM(10), "DDPMScheduler"),
    "ancestral, shifted": (QUICKSTART, DDPM(6, "trailing"), "DDPMScheduler"),
}


@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process, sampler, expected = CASES[name]
    kind, config = scheduler_of(process, sampler)
    assert kind == expected
    reference = getattr(diffusers, kind).from_config(config)
    reference.set_timesteps(sampler.steps)
    plan = sampler.plan(process)
    assert reference.timesteps.tolist() == plan.t.tolist()

    rng = np.random.default_rng(0)
    z, last = rng.normal(size=SHAPE).astype(np.float32), jnp.zeros(SHAPE)
    old, before = None, None
    for i, t in enumerate(reference.timesteps):
        said, noise = rng.normal(size=(2, *SHAPE)).astype(np.float32)
        for file in ("ddpm", "dpm_cogvideox"):
            drawn = f"diffusers.schedulers.scheduling_{file}.randn_tensor"
            monkeypatch.setattr(drawn, lambda *_, noise=noise, **__: torch.from_numpy(noise))
        row = Coefficients(*(np.asarray(column[i]) for column in plan))
        eta = getattr(sampler, "eta", 0.0)
        noisy: dict[str, Any] = {"eta": eta, "variance_noise": torch.from_numpy(noise)} if eta else {}
        said_there, z_there = torch.from_numpy(said), torch.from_numpy(z)
        if kind == "CogVideoXDPMScheduler":
            theirs, old = reference.step(said_there, old, t, before, z_there, return_dict=False)
            theirs, before = theirs.numpy(), t
        else:
            theirs = reference.step(said_there, t, z_there, **noisy).prev_sample.numpy()
        z0, eps = to_z0_and_eps(process.prediction, row.signal, row.sigma, jnp.asarray(z), jnp.asarray(said))
        ours = step(row, jnp.asarray(z), z0, eps, last, noise)
        np.testing.assert_allclose(ours, theirs, atol=STEP * np.abs(theirs).max(), rtol=0)
        z, last = theirs, z0


def test_the_noise_levels_are_the_process_own() -> None:
    for process, sampler, _ in CASES.values():
        kind, config = scheduler_of(process, sampler)
        theirs = getattr(diffusers, kind).from_config(config).alphas_cumprod.numpy()
        # The solver keeps the smallest half float where there is no signal.
        np.testing.assert_allclose(theirs, process.schedule.alpha_bar, rtol=3e-5, atol=1e-7)


def test_a_sampler_that_diffusers_does_not_have() -> None:
    class Euler:
        pass

    with pytest.raises(ValueError, match="no scheduler for Euler; sample with one of DDIM, DDPM, DPMSolverPP"):
        scheduler_of(ANIMATEDIFF, Euler())
