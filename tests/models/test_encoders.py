"""CLIP and DINOv2: what they see, and what they refuse. That they are right is in tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import image_utils

from jaxmotion.foundation.types import pixels_to_float
from jaxmotion.models import clip, dinov2


def test_a_token_does_not_see_later_ones():
    encoder = clip.CLIPText(clip.TINY)
    text = jax.random.randint(jax.random.key(0), (2, 6), 0, 1000)
    params = encoder.init(jax.random.key(0), text)
    changed = encoder.apply(params, text) != encoder.apply(params, text.at[:, 3].add(1))
    np.testing.assert_array_equal(changed.any((0, 2)), np.arange(6) >= 3)


def test_the_embedding_of_a_text_is_read_at_its_first_end_token():
    tower = clip.TextTower(clip.TINY, 24)
    text = jax.random.randint(jax.random.key(0), (2, 6), 0, 1000).at[:, 3:].set(clip.TINY.end_token)
    params = jax.jit(tower.init)(jax.random.key(0), text)
    embedding = jax.jit(tower.apply)(params, text)
    np.testing.assert_array_equal(jax.jit(tower.apply)(params, text.at[:, 4:].set(7)), embedding)
    assert (jax.jit(tower.apply)(params, text.at[:, 2].add(1)) != embedding).any(-1).all()


def test_texts_and_images_are_compared_by_direction_only():
    sizes = clip.CLIPSizes(clip.TINY, clip.VISION_TINY, 24)
    text, image = jnp.full((2, 5), clip.TINY.end_token), jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
    params = jax.jit(clip.CLIP(sizes).init)(jax.random.key(0), text, image)["params"]
    logits_of = jax.jit(clip.CLIP(sizes).apply)
    logits = logits_of({"params": params}, text, image)
    np.testing.assert_allclose(jnp.exp(params["logit_scale"]), 1 / 0.07, rtol=1e-6)
    assert (jnp.abs(logits) <= 1 / 0.07).all()
    for tower in ("text", "image"):
        longer = {**params[tower], "projection": {"kernel": 3 * params[tower]["projection"]["kernel"]}}
        same = logits_of({"params": {**params, tower: longer}}, text, image)
        np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="The text has 17 tokens; this encoder was built for up to 16"):
        jax.eval_shape(clip.CLIPText(clip.TINY).init, jax.random.key(0), jnp.zeros((1, 17), jnp.int32))


@pytest.mark.parametrize(
    "encoder", [dinov2.DINOv2(dinov2.TINY), clip.CLIPVision(clip.VISION_TINY)], ids=["DINOv2", "CLIP"]
)
def test_images_that_are_no_whole_patches_are_refused(encoder):
    with pytest.raises(ValueError, match=r"The image is 30 px wide; the encoder needs a multiple of 8, e.g. 24"):
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 32, 30, 3)))


@pytest.mark.parametrize("model", [dinov2, clip], ids=["DINOv2", "CLIP"])
def test_normalised_pixels_have_the_mean_of_the_training_pictures_taken_out(model):
    mean = 2 * jnp.array(model.MEAN) - 1
    np.testing.assert_allclose(model.normalise(mean), 0.0, atol=1e-6)
    np.testing.assert_allclose(model.normalise(mean + 2 * jnp.array(model.STD)), 1.0, atol=1e-6)


def test_pixels_are_normalised_as_the_public_preprocessing_does():
    """`preprocessor_config.json` of the public weights: these constants on pixels in [0, 1]."""
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    for model, name in ((clip, "OPENAI_CLIP"), (dinov2, "IMAGENET_DEFAULT")):
        mean, std = getattr(image_utils, f"{name}_MEAN"), getattr(image_utils, f"{name}_STD")
        np.testing.assert_allclose(
            model.normalise(pixels_to_float(image)), (image / 255 - np.array(mean)) / np.array(std), atol=1e-5
        )
