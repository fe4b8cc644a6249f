import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, run_scan, sample, timestep_spacing
from jaxmotion.diffusion.schedule import scaled_linear, zero_terminal_snr

SAMPLERS = [DDIM(20, final="clean"), DDIM(20, eta=1.0, final="clean"), DDPM(20), DPMSolverPP(20)]
PROCESSES = [
    Process(scaled_linear(), "eps"),
    Process(zero_terminal_snr(scaled_linear()), "z0"),
    Process(zero_terminal_snr(scaled_linear()), "v"),
]
Z = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
KEY = jax.random.key(1)


def knows(process, z0):
    """The network that knows the answer: whatever z_t is, its clean part is z0."""

    def denoise(zt, t):
        signal, noise = process.levels(t, zt.ndim)
        return process.target(z0, (zt - signal * z0) / noise, t)

    return denoise


def gaussian(process, variance):
    """The best possible network for latents that are Gaussian with this variance: E[z0 | z_t] is linear in z_t."""

    def denoise(zt, t):
        signal, noise = process.levels(t, zt.ndim)
        z0 = signal * variance / (signal**2 * variance + noise**2) * zt
        return process.target(z0, (zt - signal * z0) / noise, t)

    return denoise


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.prediction)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'eta', '')}")
def test_a_network_that_knows_the_answer_is_believed(sampler, process):
    answer = jax.random.normal(jax.random.key(2), Z.shape)
    np.testing.assert_allclose(sample(sampler, process, knows(process, answer), Z, KEY), answer, atol=1e-4)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(100, 0.0, "trailing", 0, "clean"), DDIM(500, 1.0, "trailing", 0, "clean"), DDPM(1000), DPMSolverPP(50)],
    ids=lambda s: type(s).__name__,
)
def test_samples_have_the_variance_of_the_data(sampler):
    process = Process(zero_terminal_snr(scaled_linear()), "v")
    start = jax.random.normal(jax.random.key(3), (20_000, 1))
    samples = sample(sampler, process, gaussian(process, 0.25), start, KEY)
    assert float(jnp.std(samples)) == pytest.approx(0.5, abs=0.02)


def test_the_second_order_solver_is_closer_to_the_flow():
    """Up to the last step, which is of first order in both."""
    process = Process(scaled_linear(), "v")
    spread = np.sqrt(process.schedule.alpha_bar * 0.25 + 1 - process.schedule.alpha_bar)
    errors = {}
    for sampler in (DPMSolverPP(20), DDIM(20, 0.0, "trailing", 0, "clean")):
        plan = sampler.plan(process)
        exact = Z * spread[plan.t[-1]] / spread[999]  # the flow of a Gaussian shrinks it by its standard deviation
        reached = run_scan(type(plan)(*(column[:-1] for column in plan)), "v", gaussian(process, 0.25), Z)
        errors[type(sampler)] = float(jnp.abs(reached - exact).max())
    assert errors[DPMSolverPP] < 0.2 * errors[DDIM]


def test_ddim_without_eta_ignores_the_key_and_with_it_does_not():
    process = Process(scaled_linear(), "v")
    network = gaussian(process, 0.25)
    for eta, same in ((0.0, True), (1.0, False)):
        a, b = (sample(DDIM(5, eta), process, network, Z, jax.random.key(seed)) for seed in (1, 2))
        assert np.array_equal(a, b) == same


def test_with_a_key_each_samples_do_not_depend_on_their_neighbours():
    process = Process(scaled_linear(), "v")
    network, keys = gaussian(process, 0.25), jax.random.split(KEY, len(Z))
    together = sample(DDPM(5), process, network, Z, keys)
    for index in range(len(Z)):
        one = slice(index, index + 1)
        np.testing.assert_allclose(sample(DDPM(5), process, network, Z[one], keys[one]), together[one], atol=1e-5)


def test_eta_one_is_ddpm():
    """arXiv:2010.02502, Sec. 4.1. Same levels, same noise: 20 divides 1000, so both use neighbouring times."""
    process = Process(scaled_linear(), "eps")
    network = gaussian(process, 0.25)
    ddim = sample(DDIM(20, 1.0, "leading", 0, "clean"), process, network, Z, KEY)
    np.testing.assert_allclose(ddim, sample(DDPM(20), process, network, Z, KEY), atol=2e-5)


def test_one_step_by_hand():
    process = Process(scaled_linear(), "eps")
    a, a_next = process.schedule.alpha_bar[[501, 1]]
    eps = 0.1 * Z
    z0 = (Z - np.sqrt(1 - a) * eps) / np.sqrt(a)
    expected = np.sqrt(a_next) * z0 + np.sqrt(1 - a_next) * eps
    plan = DDIM(2).plan(process)
    first = type(plan)(*(column[:1] for column in plan))
    np.testing.assert_allclose(run_scan(first, "eps", lambda z, t: 0.1 * z, Z), expected, rtol=1e-5)


def test_published_times():
    assert timestep_spacing(1000, 50, "leading", 1)[:3].tolist() == [981, 961, 941]
    assert timestep_spacing(1000, 50, "leading", 1)[-1] == 1
    assert timestep_spacing(1000, 50, "trailing")[:3].tolist() == [999, 979, 959]  # CogVideoX
    # arXiv:2305.08891, Table 2, counted from 0 there and here.
    assert timestep_spacing(1000, 10, "linspace").tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


@pytest.mark.parametrize("steps", [1, 3, 7, 49, 63, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_times_fall_and_stay_inside(steps, spacing):
    times = timestep_spacing(1000, steps, spacing)
    assert len(times) == steps
    assert np.all(np.diff(times) < 0)
    assert times[0] <= 999
    assert times[-1] >= 0


def test_the_network_sees_the_dtype_of_the_start_and_the_time_of_each_step():
    seen = []

    def denoise(z, t):
        assert z.dtype == jnp.bfloat16
        assert t.shape == (2,)
        jax.debug.callback(lambda t: seen.append(int(t)), t[0], ordered=True)
        return z

    out = sample(DDIM(4), Process(), denoise, Z.astype(jnp.bfloat16), KEY)
    jax.effects_barrier()
    assert out.dtype == jnp.bfloat16
    assert seen == DDIM(4).timesteps(Process()).tolist()


def test_progress_is_told_on_the_host():
    done = []
    jax.jit(lambda z: sample(DDIM(6), Process(), lambda z, t: 0.1 * z, z, KEY, lambda i: done.append(int(i))))(Z)
    jax.effects_barrier()
    assert sorted(done) == [0, 1, 2, 3, 4, 5]


def test_the_loop_is_compiled_once():
    traces = []
    sample(DDIM(50), Process(), lambda z, t: traces.append(1) or 0.1 * z, Z, KEY)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: DDIM(0), "at least 1 step"),
        (lambda: DDIM(eta=2.0), "from 0"),
        (lambda: DDIM(final="zero"), "'first' or 'clean'"),
        (lambda: DDIM(2000).timesteps(Process()), "only 1000"),
        (lambda: DDIM(1000).timesteps(Process()), "steps_offset 1"),
        (lambda: DDPM(spacing="karras").timesteps(Process()), "'karras'"),
        (lambda: run_scan(DDPM(5).plan(Process()), "eps", lambda z, t: z, Z), "random key"),
        (lambda: sample(DDPM(5), Process(), lambda z, t: z, Z, jax.random.split(KEY, 3)), "each of the 2 samples"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
