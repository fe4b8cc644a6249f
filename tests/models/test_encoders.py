"""CLIP's text encoder and DINOv2: what they refuse. That they are right is in tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.models import clip, dinov2


def test_a_token_does_not_see_later_ones():
    encoder = clip.CLIPText(clip.TINY)
    text = jax.random.randint(jax.random.key(0), (2, 6), 0, 1000)
    params = encoder.init(jax.random.key(0), text)
    changed = encoder.apply(params, text) != encoder.apply(params, text.at[:, 3].add(1))
    np.testing.assert_array_equal(changed.any((0, 2)), np.arange(6) >= 3)


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="The text has 17 tokens; this encoder was built for up to 16"):
        jax.eval_shape(clip.CLIPText(clip.TINY).init, jax.random.key(0), jnp.zeros((1, 17), jnp.int32))


def test_images_that_are_no_whole_patches_are_refused():
    with pytest.raises(ValueError, match=r"The image is 30 px wide; the encoder needs a multiple of 8, e.g. 24"):
        jax.eval_shape(dinov2.DINOv2(dinov2.TINY).init, jax.random.key(0), jnp.zeros((1, 32, 30, 3)))


def test_normalised_pixels_have_the_mean_of_imagenet_taken_out():
    grey = 2 * jnp.array(dinov2.MEAN) - 1
    np.testing.assert_allclose(dinov2.normalise(grey), 0.0, atol=1e-6)
    np.testing.assert_allclose(dinov2.normalise(grey + 2 * jnp.array(dinov2.STD)), 1.0, atol=1e-6)
