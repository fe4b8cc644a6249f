import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.inversion import invert
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, sample
from jaxmotion.diffusion.schedule import scaled_linear, zero_terminal_snr

Z0 = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))


def gaussian(process, variance):
    """The best possible network for Gaussian latents of this variance."""

    def denoise(zt, t):
        signal, noise = process.levels(t, zt.ndim)
        z0 = signal * variance / (signal**2 * variance + noise**2) * zt
        return process.target(z0, (zt - signal * z0) / noise, t)

    return denoise


@pytest.mark.parametrize("prediction", ["eps", "z0", "v"])
def test_ddim_comes_back_to_where_inversion_began(prediction):
    process = Process(scaled_linear(), prediction)
    denoise = gaussian(process, 0.25)
    errors = []
    for steps in (50, 200):
        start = invert(process, denoise, Z0, steps)
        errors.append(float(jnp.abs(sample(DDIM(steps), process, denoise, start, jax.random.key(0)) - Z0).max()))
    assert errors[1] < 0.07
    assert errors[1] < 0.4 * errors[0]  # first order: about a quarter of the error at four times the steps


def test_a_constant_eps_is_inverted_exactly():
    process = Process(scaled_linear(), "eps")
    eps = jax.random.normal(jax.random.key(1), Z0.shape)
    end = process.schedule.alpha_bar[981]
    expected = np.sqrt(end) * Z0 + np.sqrt(1 - end) * eps
    np.testing.assert_allclose(invert(process, lambda z, t: eps, Z0, first="clean"), expected, atol=1e-5)
    start = invert(process, lambda z, t: eps, Z0)
    back = sample(DDIM(50), process, lambda z, t: eps, start, jax.random.key(0))
    np.testing.assert_allclose(back, Z0, atol=1e-4)


def test_inversion_of_gaussian_data_is_standard_noise():
    process = Process(zero_terminal_snr(scaled_linear()), "v")
    data = 0.5 * jax.random.normal(jax.random.key(2), (20_000, 1))
    noise = invert(process, gaussian(process, 0.25), data, 200, "trailing", 0)
    assert float(jnp.std(noise)) == pytest.approx(1.0, abs=0.03)


def test_z0_cannot_be_inverted_from_a_clean_latent():
    with pytest.raises(ValueError, match="'first'"):
        invert(Process(scaled_linear(), "z0"), lambda z, t: z, Z0, first="clean")
