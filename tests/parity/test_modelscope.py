"""ModelScope's text-to-video U-Net against diffusers, on random weights in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange

from jaxmotion.foundation.types import Condition
from jaxmotion.models.modelscope import modelscope_unet, temporal_transformer
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.chain import Context
from jaxmotion.nn.convolution import TemporalResBlock
from jaxmotion.weights.tables import modelscope as rules

LAYER, NETWORK = 1e-5, 1e-4
B, T, H, W, L, D = 2, 3, 8, 12, 5, 24
SIZES = UNetSizes(features=(16, 32), blocks_per_stage=1, attention_stages=(True, False), groups=4, head_features=8)


def images(x):
    """[B T H W C] to torch's [(B T) C H W]."""
    return torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))


def clips(x):
    """The way back."""
    return rearrange(x, "(B T) C H W -> B T H W C", T=T)


@pytest.fixture
def context():
    return Context(time=jnp.zeros((B, 0)), tokens={})


def test_temporal_convolutions(randomise, weights, distance, draw, context):
    theirs, x = randomise(TemporalConvLayer(16, 16, dropout=0.1, norm_num_groups=4)), draw(B, T, H, W, 16)
    ours = TemporalResBlock(groups=4)
    params = weights(rules.TEMPORAL_CONV, theirs, ours, x, context)
    y = jax.jit(ours.apply)({"params": params}, x, context)
    assert distance(y, clips(theirs(images(x), num_frames=T))) < LAYER


def test_the_first_transformer_is_wider_inside(randomise, weights, distance, draw, context):
    theirs = randomise(TransformerTemporalModel(8, 4, in_channels=16, norm_num_groups=4))
    x, ours = draw(B, T, H, W, 16), temporal_transformer(SIZES, heads=8, features=32)()
    params = weights(rules.TEMPORAL, theirs, ours, x, context)
    y = jax.jit(ours.apply)({"params": params}, x, context)
    assert distance(y, clips(theirs(images(x), num_frames=T).sample)) < LAYER


def test_unet(randomise, shapes, through_files, distance, draw):
    attention = SIZES.attention_stages
    theirs = randomise(
        UNet3DConditionModel(
            block_out_channels=SIZES.features,
            down_block_types=tuple("CrossAttnDownBlock3D" if has else "DownBlock3D" for has in attention),
            up_block_types=tuple("CrossAttnUpBlock3D" if has else "UpBlock3D" for has in reversed(attention)),
            layers_per_block=SIZES.blocks_per_stage,
            attention_head_dim=SIZES.head_features,
            cross_attention_dim=D,
            norm_num_groups=SIZES.groups,
        )
    )
    ours = modelscope_unet(SIZES)
    zt, t, text = draw(B, T, H, W, 4), np.array([3, 981], np.int32), draw(B, 1, L, D)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    params = through_files(rules.UNET, theirs, shapes(ours, zt, t, condition))
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    reference = theirs(
        torch.tensor(rearrange(zt, "B T H W C -> B C T H W")), torch.tensor(t), torch.tensor(text[:, 0])
    ).sample
    assert distance(y, rearrange(reference, "B C T H W -> B T H W C")) < NETWORK


def test_a_fresh_layer_over_time_changes_nothing(draw, context):
    x = draw(B, T, H, W, 16)
    for layer in (TemporalResBlock(groups=4), temporal_transformer(SIZES, heads=2)()):
        params = jax.jit(layer.init)(jax.random.key(0), x, context)
        assert np.array_equal(jax.jit(layer.apply)(params, x, context), x)
