"""Small systems of MotionStone with random parameters: shared by the tests of its exports."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxmotion.models import t5
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.cogvideox import I2V_5B, I2V_5B_V1_5
from jaxmotion.systems.motionstone.injection import FirstFrame, ScoreEmbedding
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.systems.text import T5Tokens as T5Condition

CODEC = CausalCodec(Autoencoder3DSizes(4, (8, 8, 8, 16), blocks_per_stage=1, groups=4), tiles=None)
TEXTS = dataclasses.replace(t5.TINY, vocabulary=32128, length=6, end_token=1, pad_token=0)


def system_of(sizes, frames, **image) -> MotionStone:
    """Small, with random weights, of a public kind."""
    transformer = dataclasses.replace(
        sizes,
        depth=2,
        heads=2,
        head_features=32,
        in_channels=8,
        out_channels=4,
        text_features=TEXTS.features,
        text_length=TEXTS.length,
        time_features=24,
        grid=(2, 2, 3),
        remat="none",
        pad_to=16,
    )
    return MotionStone(
        transformer,
        CODEC,
        {
            "image": FirstFrame(**image),
            "text": T5Condition(TEXTS),
            "object": ScoreEmbedding("object", "first_half", 24),
            "camera": ScoreEmbedding("camera", "second_half", 24),
        },
        frames=frames,
        size=(32, 48),
    )


def random_params(system):
    """Small random numbers everywhere, so that no zero hides anything."""
    shapes = jax.eval_shape(system.build().init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        inputs = np.prod(leaf.shape[:-1]) / (leaf.shape[0] if "stack" in jax.tree_util.keystr(path) else 1)
        noise = rng.standard_normal(leaf.shape) / max(inputs, 4.0) ** 0.5
        return jnp.asarray(noise + ("scale" in jax.tree_util.keystr(path[-1:])), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


CASES = {"1.0": (I2V_5B, 5, {}), "1.5": (I2V_5B_V1_5, 9, {"rescale": CODEC.sizes.scaling**-2})}
