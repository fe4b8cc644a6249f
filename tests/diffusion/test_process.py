import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.process import PREDICTIONS, Process
from jaxmotion.diffusion.schedule import linear, scaled_linear, zero_terminal_snr

Z0, EPS = jax.random.normal(jax.random.key(0), (2, 8, 3, 4, 4, 2))
TIMES = jnp.asarray([0, 1, 17, 250, 500, 750, 998, 999])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [scaled_linear(), linear()])
def test_a_perfect_prediction_recovers_both_parts(prediction, schedule):
    process = Process(schedule, prediction)
    z0, eps = process.recover(process.corrupt(Z0, EPS, TIMES), TIMES, process.target(Z0, EPS, TIMES))
    # Rounding errors of z_t (1e-7) are divided by a_t >= 0.006 to get z0 and by s_t >= 0.01 to get eps.
    np.testing.assert_allclose(z0, Z0, atol=1e-7 / 0.006 * 4)
    np.testing.assert_allclose(eps, EPS, atol=1e-7 / 0.01 * 4)


@pytest.mark.parametrize("prediction", ["v", "z0"])
def test_recovery_is_exact_where_there_is_no_signal(prediction):
    process = Process(zero_terminal_snr(scaled_linear()), prediction)
    t = jnp.full((8,), 999)
    zt = process.corrupt(Z0, EPS, t)
    np.testing.assert_array_equal(zt, EPS)
    z0, eps = process.recover(zt, t, process.target(Z0, EPS, t))
    np.testing.assert_array_equal(z0, Z0)
    np.testing.assert_array_equal(eps, EPS)


def test_eps_says_nothing_where_there_is_no_signal():
    with pytest.raises(ValueError, match="use prediction 'v' or 'z0'"):
        Process(zero_terminal_snr(scaled_linear()), "eps")


def test_unknown_predictions_are_named():
    with pytest.raises(ValueError, match="'score'"):
        Process(scaled_linear(), "score")  # type: ignore[arg-type]


def test_corruption_keeps_unit_variance():
    z0, eps = jax.random.normal(jax.random.key(1), (2, 3, 100_000))
    zt = Process().corrupt(z0, eps, jnp.asarray([10, 500, 990]))
    np.testing.assert_allclose(jnp.var(zt, -1), 1.0, atol=0.02)


def test_each_frame_may_have_its_own_time():
    process = Process(scaled_linear(), "v")
    times = jax.random.randint(jax.random.key(2), (8, 3), 0, 1000)
    together = process.corrupt(Z0, EPS, times)
    for frame in range(3):
        alone = process.corrupt(Z0[:, frame], EPS[:, frame], times[:, frame])
        np.testing.assert_array_equal(together[:, frame], alone)


def test_snr_is_signal_over_noise():
    process = Process(scaled_linear())
    signal, noise = process.levels(TIMES, 1)
    np.testing.assert_allclose(process.snr(TIMES), (signal / noise) ** 2, rtol=1e-5)
