"""Stable Diffusion's U-Net and AnimateDiff's motion modules against diffusers, on random weights in float32."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange, repeat

from jaxmotion.convert.rename import to_torch
from jaxmotion.convert.rules import stable_diffusion as rules
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import stable_diffusion_unet, transformer_layers
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.convolution import ResBlock
from jaxmotion.nn.transformer import SpatialTransformer
from jaxmotion.types import Condition

LAYER, NETWORK = 1e-5, 1e-4
B, T, H, W, L, D = 2, 3, 8, 12, 5, 24
SIZES = UNetSizes(features=(16, 32, 32), blocks_per_stage=2, attention_stages=(True, True, False), heads=4, groups=4)


def images(x):
    """[B T H W C] to torch's [(B T) C H W]."""
    return torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))


def clips(x):
    """The way back."""
    return rearrange(x, "(B T) C H W -> B T H W C", T=T)


@pytest.mark.parametrize("features", [16, 32])
def test_resnet(randomise, weights, distance, draw, features):
    theirs = randomise(ResnetBlock2D(in_channels=16, out_channels=features, temb_channels=20, groups=4, eps=1e-5))
    x, time = draw(B, T, H, W, 16), draw(B, 20)
    ours, context = ResBlock(features, groups=4), Context(time=jnp.asarray(time), tokens={})
    params = weights(rules.RESNET, theirs, ours, x, context)
    y = jax.jit(ours.apply)({"params": params}, x, context)
    assert distance(y, clips(theirs(images(x), torch.tensor(repeat(time, "B E -> (B T) E", T=T))))) < LAYER


def test_spatial_transformer(randomise, weights, distance, draw):
    theirs = randomise(Transformer2DModel(4, 4, in_channels=16, norm_num_groups=4, cross_attention_dim=D))
    x, text = draw(B, T, H, W, 16), draw(B, 1, L, D)
    ours = SpatialTransformer(partial(Chain, transformer_layers(SIZES)), groups=4)
    context = Context(time=jnp.zeros((B, 0)), tokens={"text": jnp.asarray(text)})
    params = weights(rules.TRANSFORMER, theirs, ours, x, context)
    y = jax.jit(ours.apply)({"params": params}, x, context)
    reference = theirs(images(x), torch.tensor(repeat(text, "B 1 L D -> (B T) L D", T=T))).sample
    assert distance(y, clips(reference)) < LAYER


def test_motion_module(randomise, weights, distance, draw):
    theirs = randomise(
        AnimateDiffTransformer3D(
            num_attention_heads=4,
            attention_head_dim=4,
            in_channels=16,
            norm_num_groups=4,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=8,
        )
    )
    x = draw(B, T, H, W, 16)
    ours, context = MotionModule(heads=4, groups=4, frames=8), Context(time=jnp.zeros((B, 0)), tokens={})
    params = weights(rules.MOTION_MODULE, theirs, ours, x, context, ignored=["transformer_blocks.0.pos_embed.pe"])
    y = jax.jit(ours.apply)({"params": params}, x, context)
    assert distance(y, clips(theirs(images(x), num_frames=T))) < LAYER


def test_unet(randomise, weights, distance, draw):
    theirs = randomise(
        UNet2DConditionModel(
            block_out_channels=SIZES.features,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=SIZES.heads,  # diffusers' name for the number of heads
            cross_attention_dim=D,
            norm_num_groups=SIZES.groups,
        )
    )
    ours = stable_diffusion_unet(SIZES)
    zt, t, text = draw(B, T, H, W, 4), np.array([3, 981], np.int32), draw(B, 1, L, D)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    params = weights(rules.UNET, theirs, ours, zt, t, condition)
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    frames = partial(repeat, T=T)
    reference = theirs(
        images(zt), torch.tensor(frames(t, "B -> (B T)")), torch.tensor(frames(text, "B 1 L D -> (B T) L D"))
    ).sample
    assert distance(y, clips(reference)) < NETWORK

    back = to_torch(rules.UNET, params)
    assert back.keys() == theirs.state_dict().keys()
    assert all(np.array_equal(back[name], value.numpy()) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("middle", [False, True], ids=["v1 and v3, without middle", "v2, with middle"])
def test_unet_with_motion_modules(randomise, weights, distance, draw, middle):
    sizes = dataclasses.replace(SIZES, features=(16, 32), blocks_per_stage=1, attention_stages=(True, False))
    adapter = MotionAdapter(
        block_out_channels=sizes.features,
        motion_layers_per_block=1,
        motion_num_attention_heads=SIZES.heads,
        motion_norm_num_groups=SIZES.groups,
        motion_max_seq_length=8,
        use_motion_mid_block=middle,
    )
    theirs = randomise(
        UNetMotionModel(
            block_out_channels=sizes.features,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            layers_per_block=1,
            num_attention_heads=SIZES.heads,
            cross_attention_dim=D,
            norm_num_groups=SIZES.groups,
            motion_num_attention_heads=SIZES.heads,
            motion_max_seq_length=8,
            use_motion_mid_block=middle,
        )
    )
    motion = {"motion": partial(MotionModule, SIZES.heads, SIZES.groups, frames=8)}
    ours = stable_diffusion_unet(sizes, after_block=motion, after_middle=motion if middle else {})
    zt, t, text = draw(B, T, H, W, 4), np.array([3, 981], np.int32), draw(B, 1, L, D)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    table = (*rules.UNET, *rules.MOTION)
    params = weights(table, theirs, ours, zt, t, condition, ignored=rules.MOTION_BUFFERS)
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    reference = theirs(
        torch.tensor(rearrange(zt, "B T H W C -> B C T H W")),
        torch.tensor(t),
        torch.tensor(repeat(text, "B 1 L D -> (B T) L D", T=T)),
    ).sample
    assert distance(y, rearrange(reference, "B C T H W -> B T H W C")) < NETWORK

    ours_only = {name for name in to_torch(table, params) if "motion_modules" in name}
    assert ours_only == set(dict(adapter.named_parameters()))
