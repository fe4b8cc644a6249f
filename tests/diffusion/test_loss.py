import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.loss import MinSNR, Uniform, diffusion_loss, squared_error
from jaxmotion.diffusion.process import PREDICTIONS, Process
from jaxmotion.diffusion.schedule import scaled_linear, zero_terminal_snr

Z0, EPS, ERROR = jax.random.normal(jax.random.key(0), (3, 5, 2, 4, 4, 1))
T = jnp.asarray([0, 100, 400, 800, 999])


def as_prediction(process, z0, zt):
    """What a network says that believes in z0."""
    signal, noise = process.levels(T, zt.ndim)
    return process.target(z0, (zt - signal * z0) / noise, T)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_costs_nothing(prediction):
    process = Process(scaled_linear(), prediction)
    target = process.target(Z0, EPS, T)
    for weighting in (Uniform(), MinSNR()):
        np.testing.assert_array_equal(diffusion_loss(process, weighting, target, Z0, EPS, T), np.zeros(5))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_same_error_alike_whatever_is_predicted(prediction):
    """A wrong belief about z0 costs min(SNR, gamma) of its square. Source: arXiv:2303.09556, Sec. 3.4."""
    process = Process(scaled_linear(), prediction)
    zt = process.corrupt(Z0, EPS, T)
    said = as_prediction(process, Z0 + 0.1 * ERROR, zt)
    expected = jnp.minimum(process.snr(T), 5.0) * jnp.mean((0.1 * ERROR) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(diffusion_loss(process, MinSNR(5.0), said, Z0, EPS, T), expected, rtol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_uniform_is_the_mean_squared_error(prediction):
    process = Process(scaled_linear(), prediction)
    said = process.target(Z0, EPS, T) + 0.1 * ERROR
    expected = jnp.mean((0.1 * ERROR) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(diffusion_loss(process, Uniform(), said, Z0, EPS, T), expected, rtol=1e-4)


def test_weights_by_hand():
    alpha_bar = scaled_linear().alpha_bar[np.asarray(T)]
    snr = alpha_bar / (1 - alpha_bar)
    expected = {"eps": np.minimum(snr, 5) / snr, "z0": np.minimum(snr, 5), "v": np.minimum(snr, 5) / (snr + 1)}
    for prediction, weights in expected.items():
        np.testing.assert_allclose(MinSNR(5.0).weights(Process(scaled_linear(), prediction), T), weights, rtol=1e-5)


def test_weights_are_finite_without_signal():
    for prediction in ("v", "z0"):
        weights = MinSNR().weights(Process(zero_terminal_snr(scaled_linear()), prediction), T)
        assert np.isfinite(weights).all()


def test_each_frame_may_have_its_own_time():
    process = Process(scaled_linear(), "v")
    times = jnp.stack([T, T[::-1]], 1)
    said = process.target(Z0, EPS, times) + ERROR
    frames = [MinSNR().weights(process, times[:, f]) * jnp.mean(ERROR[:, f] ** 2, axis=(1, 2, 3)) for f in (0, 1)]
    expected = (frames[0] + frames[1]) / 2
    np.testing.assert_allclose(diffusion_loss(process, MinSNR(), said, Z0, EPS, times), expected, rtol=1e-4)


def test_half_precision_predictions_are_compared_in_float32():
    assert squared_error(jnp.ones((2,), jnp.bfloat16), jnp.full((2,), 1.001)).dtype == jnp.float32


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match="> 0"):
        MinSNR(0.0)
