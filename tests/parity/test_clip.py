"""CLIP's text encoder against transformers, on random weights in float32."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from jaxmotion.convert.rename import to_torch
from jaxmotion.convert.rules.clip import BUFFERS, CLIP_TEXT
from jaxmotion.models.clip import TINY, CLIPText


@pytest.mark.parametrize("length", [TINY.length, 9])
def test_text_encoder(randomise, weights, distance, length):
    theirs = randomise(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=TINY.vocabulary,
                hidden_size=TINY.features,
                intermediate_size=TINY.hidden,
                num_hidden_layers=TINY.depth,
                num_attention_heads=TINY.heads,
                max_position_embeddings=TINY.length,
            )
        )
    )
    text = np.random.default_rng(0).integers(0, TINY.vocabulary, (2, length)).astype(np.int32)
    params = weights(CLIP_TEXT, theirs, CLIPText(TINY), text, ignored=BUFFERS)
    hidden = jax.jit(CLIPText(TINY).apply)({"params": params}, text)
    assert distance(hidden, theirs(torch.tensor(text, dtype=torch.long)).last_hidden_state) < 1e-4

    back = to_torch(CLIP_TEXT, params)
    names = dict(theirs.named_parameters())
    assert back.keys() == {f"text_model.{name}" for name in names}  # as public files have them
    assert all(np.array_equal(back[f"text_model.{name}"], value.detach().numpy()) for name, value in names.items())
