from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from jaxmotion.foundation.types import pixels_to_float, pixels_to_uint8
from jaxmotion.models import autoencoder_tiny
from jaxmotion.models.autoencoder import TINY, AutoencoderKL, KLCodec
from jaxmotion.models.autoencoder_tiny import TinyCodec
from jaxmotion.models.space_to_depth import SpaceToDepth
from tests.support.quick_keys import quick_key

X = jax.random.uniform(jax.random.key(0), (2, 3, 16, 24, 3), minval=-1.0)
CODECS = [SpaceToDepth(2), SpaceToDepth(4), SpaceToDepth(8), KLCodec(TINY), TinyCodec(autoencoder_tiny.TINY)]


def fresh(codec):
    return jax.jit(codec.init)(quick_key(0))


@pytest.mark.parametrize("codec", CODECS)
def test_latents_have_the_promised_size_and_frames_do_not_see_each_other(codec):
    params = fresh(codec)
    encode = jax.jit(codec.encode)
    z = encode(params, X)
    assert z.shape == (2, 3, 16 // codec.spatial_compression, 24 // codec.spatial_compression, codec.latent_channels)
    assert jax.eval_shape(codec.decode, params, z).shape == X.shape
    changed = encode(params, X.at[:, 1].multiply(0.5)) != z
    np.testing.assert_array_equal(changed.any((0, 2, 3, 4)), [False, True, False])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_space_to_depth_is_exact_and_orthonormal(factor):
    codec = SpaceToDepth(factor)
    z = codec.encode({}, X)
    np.testing.assert_allclose(codec.decode({}, z), X, atol=2e-6)
    np.testing.assert_allclose((z**2).sum(), codec.scale**2 * (X**2).sum(), rtol=1e-5)


def test_the_first_latents_are_a_small_picture():
    z = SpaceToDepth(4).encode({}, X)
    small = X.reshape(2, 3, 4, 4, 6, 4, 3).mean((3, 5))
    np.testing.assert_allclose(z[..., :3], 4 * 1.75 * small, atol=1e-5)


def test_latents_of_photographs_have_about_unit_variance():
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    clip = jnp.stack([pixels_to_float(photo[:256, :256]) for photo in photos])[None]
    assert 0.5 < (SpaceToDepth(4).encode({}, clip) ** 2).mean() < 2.0


def test_a_sample_is_the_mean_and_its_deviation():
    codec = KLCodec(TINY)
    params = fresh(codec)
    mean = codec.encode(params, X)
    samples = jax.jit(jax.vmap(lambda key: codec.encode(params, X, key)))(jax.random.split(jax.random.key(1), 64))
    z, log_variance = AutoencoderKL(TINY).apply({"params": params}, X, method="encode_moments")
    deviation = TINY.scaling * jnp.exp(0.5 * log_variance)
    np.testing.assert_allclose(mean, TINY.scaling * z, rtol=1e-6)
    normal = (samples - mean) / deviation
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02


def test_a_few_frames_at_once_give_the_same():
    whole = KLCodec(TINY)
    params = fresh(whole)
    z = jax.jit(whole.encode)(params, X)
    pixels = jax.jit(whole.decode)(params, z)
    for frames_at_once in (1, 4):
        parts = KLCodec(TINY, frames_at_once)
        np.testing.assert_allclose(jax.jit(parts.encode)(params, X), z, atol=1e-6)
        np.testing.assert_allclose(jax.jit(parts.decode)(params, z), pixels, atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
def test_wrong_sizes_are_refused(codec):
    with pytest.raises(
        ValueError, match=f"Frames are 15 px high; the codec needs a multiple of {codec.spatial_compression}"
    ):
        codec.encode({}, X[:, :, :15])
    with pytest.raises(ValueError, match=r"a codec needs \[B T H W 3\]"):
        codec.encode({}, X[0])


def test_pixels_of_16_bits_are_rounded_once():
    x = jnp.linspace(-1.1, 1.1, 1001).astype(jnp.bfloat16)
    expected = np.rint(np.clip(np.asarray(x, np.float64) * 127.5 + 127.5, 0, 255))
    np.testing.assert_array_equal(jax.jit(pixels_to_uint8)(x), expected)
