"""T5's encoder against transformers, on random weights in float32."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from jaxmotion.models.t5 import TINY, T5Encoder, distance_classes
from jaxmotion.weights.tables.t5 import SHARED_AGAIN, T5, t5_config


def test_encoder(randomise, shapes, through_files, distance):
    """Heads wider in all than the tokens, and padding that is read like any other token, as CogVideoX reads it."""
    sizes = dataclasses.replace(TINY, head_features=24)
    theirs = randomise(T5EncoderModel(T5Config(**t5_config(sizes))))
    text = np.random.default_rng(0).integers(2, sizes.vocabulary, (2, sizes.length), dtype=np.int32)
    text[1, 5:] = 0
    params = through_files(T5, theirs, shapes(T5Encoder(sizes), text), SHARED_AGAIN)
    ours = jax.jit(T5Encoder(sizes).apply)({"params": params}, text)
    assert distance(ours, theirs(torch.tensor(text, dtype=torch.long)).last_hidden_state) < 1e-5


@pytest.mark.parametrize(("length", "buckets", "farthest"), [(226, 32, 128), (40, 8, 20)])
def test_classes_of_distances(length, buckets, farthest):
    relative = torch.arange(length)[None] - torch.arange(length)[:, None]
    theirs = T5Attention._relative_position_bucket(relative, True, buckets, farthest)
    np.testing.assert_array_equal(distance_classes(length, buckets, farthest), theirs.numpy())
