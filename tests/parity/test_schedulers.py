"""Schedules, samplers and inversion against diffusers: one step from the same input, and whole trajectories.

The references keep their tables in float32 (a product of 1000 factors), ours are float64, so alpha_bar differs by some
1e-6 of itself. A step is held to 1e-5. Over a trajectory such differences add up: 1e-4.
"""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmotion.diffusion.inversion import inversion_plan, invert
from jaxmotion.diffusion.process import Process, to_z0_and_eps
from jaxmotion.diffusion.sampler import DDIM, DDPM, Coefficients, DPMSolverPP, SDEDPMSolverPP, sample, step
from jaxmotion.diffusion.schedule import linear, scaled_linear, snr_shift, zero_terminal_snr

SHAPE = (2, 3, 4, 4, 2)
NAMES = {"eps": "epsilon", "z0": "sample", "v": "v_prediction"}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FINAL = {True: "clean", False: "first"}


def network(z, t):
    """Some smooth function of z and t, in numpy, torch or JAX alike."""
    return 0.8 * z - 0.3 * z * z / (1 + z * z) + 0.0003 * t


def torch_network(z, t):
    return network(z, float(t))


def jax_network(z, t):
    return network(z, t.reshape(-1, 1, 1, 1, 1).astype(z.dtype))


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@jax.jit
def step_noise(key, i):
    """What `sample` draws at step i."""
    return jax.random.normal(jax.random.fold_in(key, i), SHAPE)


def step_noises(key, steps):
    return [np.asarray(step_noise(key, i)) for i in range(steps)]


@functools.partial(jax.jit, static_argnums=0)
def our_step(prediction, row, z, said, last, noise=None):
    """The latents after a step from z, and the z_0 that the network's output means."""
    z0, eps = to_z0_and_eps(prediction, row.signal, row.sigma, z, said)
    return step(row, z, z0, eps, last, noise), z0


def close(ours, theirs, tolerance):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)


def rows(plan):
    return [Coefficients(*(np.asarray(column[i]) for column in plan)) for i in range(len(plan.t))]


def follow_reference(plan, prediction, reference, z, noises=None, **kwargs):
    """Steps the reference along its own trajectory, and at each of its points takes our step from the same input."""
    assert reference.timesteps.tolist() == plan.t.tolist()
    z, last = torch.from_numpy(z), np.zeros(SHAPE, np.float32)
    for i, row in enumerate(rows(plan)):
        said = torch_network(z, row.t)
        extra = {} if noises is None else {"variance_noise": torch.from_numpy(noises[i].copy())}
        after = reference.step(said, reference.timesteps[i], z, **extra, **kwargs).prev_sample
        ours, last = our_step(prediction, row, z.numpy(), said.numpy(), last, None if noises is None else noises[i])
        close(ours, after, 1e-5)
        z = after
    return z


SCHEDULES = {
    "scaled_linear": (scaled_linear(), SD),
    "linear": (linear(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    "zero_snr": (zero_terminal_snr(scaled_linear()), {**SD, "rescale_betas_zero_snr": True}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_bar(name):
    schedule, config = SCHEDULES[name]
    reference = diffusers.DDIMScheduler(**config).alphas_cumprod.numpy()
    # float32 keeps 1e-7 of the 1 in 1 - beta, and the errors of 1000 factors add up.
    np.testing.assert_allclose(schedule.alpha_bar, reference, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("zero", [False, True])
def test_alpha_bar_of_cogvideox(scale, zero):
    reference = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=scale, rescale_betas_zero_snr=zero)
    schedule = snr_shift(scaled_linear(), scale)
    schedule = zero_terminal_snr(schedule) if zero else schedule
    np.testing.assert_allclose(schedule.alpha_bar, reference.alphas_cumprod.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("final_clean", [True, False])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)])
@pytest.mark.parametrize(("prediction", "eta", "steps"), [("eps", 0.0, 50), ("v", 0.7, 30), ("z0", 1.0, 7)])
def test_ddim(prediction, eta, steps, spacing, offset, final_clean):
    reference = diffusers.DDIMScheduler(
        **SD,
        clip_sample=False,
        prediction_type=NAMES[prediction],
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=final_clean,
    )
    reference.set_timesteps(steps)
    process = Process(scaled_linear(), prediction)
    sampler = DDIM(steps, eta, spacing, offset, FINAL[final_clean])
    key = jax.random.key(5)
    noises = step_noises(key, steps)
    expected = follow_reference(sampler.plan(process), prediction, reference, noise(0), noises, eta=eta)
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), key), expected, 1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["v", "z0"])
@pytest.mark.parametrize("eta", [0.0, 0.7])  # at 1, eps' factor is 0 and the reference has the root of a rounding error
def test_ddim_at_zero_terminal_snr(prediction, eta, spacing):
    reference = diffusers.DDIMScheduler(
        **SD,
        clip_sample=False,
        prediction_type=NAMES[prediction],
        timestep_spacing=spacing,
        rescale_betas_zero_snr=True,
    )
    reference.set_timesteps(20)
    process = Process(zero_terminal_snr(scaled_linear()), prediction)
    sampler = DDIM(20, eta, spacing, 0, "clean")
    key = jax.random.key(6)
    expected = follow_reference(sampler.plan(process), prediction, reference, noise(0), step_noises(key, 20), eta=eta)
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), key), expected, 1e-4)


def test_ddim_of_animatediff():
    """As the public motion modules are used: linear betas, linspace, whose times an offset does not move."""
    config = {**SD, "beta_schedule": "linear"}
    reference = diffusers.DDIMScheduler(**config, clip_sample=False, timestep_spacing="linspace", steps_offset=1)
    reference.set_timesteps(25)
    process = Process(linear(SD["beta_start"], SD["beta_end"]), "eps")
    sampler = DDIM(25, 0.0, "linspace", 1, "clean")
    expected = follow_reference(sampler.plan(process), "eps", reference, noise(0))
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), jax.random.key(0)), expected, 1e-4)


def test_ddim_of_cogvideox():
    reference = diffusers.CogVideoXDDIMScheduler(
        snr_shift_scale=3.0,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    reference.set_timesteps(50)
    process = Process(zero_terminal_snr(snr_shift(scaled_linear(), 3.0)), "v")
    sampler = DDIM(50, 0.0, "trailing", 0, "clean")
    expected = follow_reference(sampler.plan(process), "v", reference, noise(0))
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), jax.random.key(0)), expected, 1e-4)


@pytest.mark.parametrize(("scale", "zero"), [(1.0, True), (3.0, True), (1.0, False)])
@pytest.mark.parametrize("steps", [50, 30, 7, 2, 1])
def test_dpm_of_cogvideox(scale, zero, steps, monkeypatch):
    reference = diffusers.CogVideoXDPMScheduler(
        snr_shift_scale=scale,
        rescale_betas_zero_snr=zero,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    reference.set_timesteps(steps)
    schedule = snr_shift(scaled_linear(), scale)
    process = Process(zero_terminal_snr(schedule) if zero else schedule, "v")
    sampler = SDEDPMSolverPP(steps)
    key = jax.random.key(8)
    noises = step_noises(key, steps)
    place = {"step": 0}
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpm_cogvideox.randn_tensor",
        lambda *a, **k: torch.from_numpy(noises[place["step"]].copy()),
    )
    plan = sampler.plan(process)
    assert reference.timesteps.tolist() == plan.t.tolist()
    z, old, before = torch.from_numpy(noise(0)), None, None
    for i, row in enumerate(rows(plan)):
        place["step"] = i
        t = reference.timesteps[i]
        after, old_next = reference.step(torch_network(z, row.t), old, t, before, z)
        last = np.zeros(SHAPE, np.float32) if old is None else old.numpy()
        close(our_step("v", row, z.numpy(), torch_network(z, row.t).numpy(), last, noises[i])[0], after, 1e-5)
        z, old, before = after, old_next, t
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), key), z, 1e-4)


@pytest.mark.parametrize("final_clean", [True, False])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize(("prediction", "steps"), [("eps", 50), ("v", 30), ("z0", 7)])
def test_inversion(prediction, steps, spacing, offset, final_clean):
    if prediction == "z0" and final_clean:
        pytest.skip("undefined: tests/diffusion/test_inversion.py checks the error")
    reference = diffusers.DDIMInverseScheduler(
        **SD,
        clip_sample=False,
        prediction_type=NAMES[prediction],
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=final_clean,
    )
    reference.set_timesteps(steps)
    process = Process(scaled_linear(), prediction)
    if prediction == "z0":  # divides by sqrt(1 - alpha_bar_0) = 0.03, of which the reference's float32 has 4 digits
        reference.alphas_cumprod = torch.from_numpy(process.schedule.alpha_bar.copy())
        reference.initial_alpha_cumprod = reference.alphas_cumprod[0]
    plan = inversion_plan(process, steps, spacing, offset, FINAL[final_clean])
    expected = follow_reference(plan, prediction, reference, noise(1))
    ours = invert(process, jax_network, jnp.asarray(noise(1)), steps, spacing, offset, FINAL[final_clean])
    close(ours, expected, 1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    ("prediction", "steps"), [pytest.param("eps", 1000, marks=pytest.mark.slow), ("eps", 40), ("v", 30), ("z0", 7)]
)
def test_ddpm(prediction, steps, spacing, monkeypatch):
    reference = diffusers.DDPMScheduler(
        **SD, clip_sample=False, prediction_type=NAMES[prediction], timestep_spacing=spacing
    )
    reference.set_timesteps(steps)
    process = Process(scaled_linear(), prediction)
    sampler = DDPM(steps, spacing)
    key = jax.random.key(7)
    noises = step_noises(key, steps)
    draws = iter(noises)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: torch.from_numpy(next(draws).copy())
    )

    class WithoutNoiseArgument:
        timesteps = reference.timesteps

        @staticmethod
        def step(said, t, z, variance_noise):
            return reference.step(said, t, z)

    expected = follow_reference(sampler.plan(process), prediction, WithoutNoiseArgument, noise(0), noises)
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), key), expected, 1e-4)


@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)])
@pytest.mark.parametrize(("prediction", "steps"), [("eps", 25), ("v", 20), ("z0", 8), ("eps", 1), ("v", 2)])
def test_dpm_solver(prediction, steps, spacing, offset):
    reference = diffusers.DPMSolverMultistepScheduler(
        **SD, prediction_type=NAMES[prediction], timestep_spacing=spacing, steps_offset=offset
    )
    reference.set_timesteps(steps)
    process = Process(scaled_linear(), prediction)
    sampler = DPMSolverPP(steps, spacing, offset)
    expected = follow_reference(sampler.plan(process), prediction, reference, noise(0))
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), jax.random.key(0)), expected, 1e-4)


def test_dpm_solver_at_zero_terminal_snr():
    reference = diffusers.DPMSolverMultistepScheduler(
        **SD, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    reference.set_timesteps(20)
    process = Process(zero_terminal_snr(scaled_linear()), "v")
    sampler = DPMSolverPP(20, "trailing")
    expected = follow_reference(sampler.plan(process), "v", reference, noise(0))
    close(sample(sampler, process, jax_network, jnp.asarray(noise(0)), jax.random.key(0)), expected, 1e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_corrupt_and_target(prediction):
    reference = diffusers.DDPMScheduler(**SD)
    process = Process(scaled_linear(), prediction)
    t = np.array([3, 871])
    z0, eps = noise(2), noise(3)
    theirs = reference.add_noise(torch.from_numpy(z0), torch.from_numpy(eps), torch.from_numpy(t))
    close(process.corrupt(z0, eps, jnp.asarray(t)), theirs, 1e-5)
    if prediction == "v":
        theirs = reference.get_velocity(torch.from_numpy(z0), torch.from_numpy(eps), torch.from_numpy(t))
        close(process.target(z0, eps, jnp.asarray(t)), theirs, 1e-5)
