"""DINOv2 against transformers, on random weights in float32."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from einops import rearrange
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from jaxmotion.models.dinov2 import TINY, DINOv2
from jaxmotion.models.patches import bicubic_weights
from jaxmotion.weights.tables import dinov2 as rules

# At 40 x 24 pixels the 4 x 4 position embeddings are interpolated to 5 x 3: larger one way, smaller the other.
SHAPES = {"stored size": (32, 32), "interpolated": (40, 24)}


@pytest.mark.parametrize("size", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_image_encoder(randomise, weights, shapes, through_files, distance, draw, size, registers, gated):
    sizes = dataclasses.replace(TINY, registers=registers, gated=gated, hidden=176 if gated else 256)
    config = {
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "image_size": sizes.grid * sizes.patch,
        "patch_size": sizes.patch,
        "use_swiglu_ffn": gated,
    }
    theirs = randomise(
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **config))
        if registers
        else Dinov2Model(Dinov2Config(**config))
    )
    public, in_memory = (
        (rules.DINOV2_GATED, rules.DINOV2_GATED_IN_MEMORY) if gated else (rules.DINOV2, rules.DINOV2_IN_MEMORY)
    )
    x = draw(2, *size, 3)
    params = through_files(public, theirs, shapes(DINOv2(sizes), x))
    hidden = jax.jit(DINOv2(sizes).apply)({"params": params}, x)
    assert distance(hidden, theirs(torch.tensor(rearrange(x, "B H W C -> B C H W"))).last_hidden_state) < 1e-4

    same = weights(in_memory, theirs, DINOv2(sizes), x)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, same))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), [(37, 16), (16, 37), (4, 3), (5, 5)])
def test_bicubic_weights(antialias, old, new):
    signal = torch.eye(old)[None, None]
    resized = torch.nn.functional.interpolate(
        signal, size=(new, old), mode="bicubic", align_corners=False, antialias=antialias
    )[0, 0]
    np.testing.assert_allclose(bicubic_weights(old, new, antialias), resized.numpy(), atol=1e-6)
