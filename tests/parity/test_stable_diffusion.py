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
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.types import Condition
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import stable_diffusion_unet, transformer_layers
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.convolution import ResBlock
from jaxmotion.nn.transformer import SpatialTransformer
from jaxmotion.weights.rules import Rule, split_input
from jaxmotion.weights.tables import stable_diffusion as rules

LAYER, NETWORK = 1e-5, 1e-4
B, T, H, W, L, D = 2, 3, 8, 12, 5, 24
SIZES = UNetSizes(features=(16, 32, 32), blocks_per_stage=2, attention_stages=(True, True, False), heads=4, groups=4)

TEN_CHANNELS = (
    Rule("conv_in.weight", ("conv_in/kernel", "conv_condition/kernel"), split_input(4)),
    *(rule for rule in rules.UNET if rule.names != ("conv_in.weight",)),
)


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


def their_unet(sizes):
    attention = sizes.attention_stages
    return UNet2DConditionModel(
        block_out_channels=sizes.features,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        layers_per_block=sizes.blocks_per_stage,
        attention_head_dim=sizes.heads,  # diffusers' name for the number of heads
        cross_attention_dim=D,
        norm_num_groups=sizes.groups,
    )


@dataclasses.dataclass(frozen=True)
class Motion:
    """What differs between the published motion modules."""

    frames: int
    middle: bool

    def unet(self, sizes):
        layers = {"motion": partial(MotionModule, sizes.heads, sizes.groups, frames=self.frames)}
        return stable_diffusion_unet(sizes, after_block=layers, after_middle=layers if self.middle else {})


VERSIONS = {"v1": Motion(24, middle=False), "v2": Motion(32, middle=True), "v3": Motion(32, middle=False)}
SMALL = dataclasses.replace(SIZES, features=(16, 32), blocks_per_stage=1, attention_stages=(True, False))


def test_unet(randomise, shapes, through_files, distance, draw):
    theirs, ours = randomise(their_unet(SIZES)), stable_diffusion_unet(SIZES)
    zt, t, text = draw(B, T, H, W, 4), np.array([3, 981], np.int32), draw(B, 1, L, D)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    params = through_files(rules.UNET, theirs, shapes(ours, zt, t, condition))
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    frames = partial(repeat, T=T)
    reference = theirs(
        images(zt), torch.tensor(frames(t, "B -> (B T)")), torch.tensor(frames(text, "B 1 L D -> (B T) L D"))
    ).sample
    assert distance(y, clips(reference)) < NETWORK


def of_clips(theirs, zt, t, text):
    """Their prediction for [B T H W C]."""
    y = theirs(
        torch.tensor(rearrange(zt, "B T H W C -> B C T H W")),
        torch.tensor(t),
        torch.tensor(repeat(text, "B 1 L D -> (B T) L D", T=T)),
    ).sample
    return rearrange(y, "B C T H W -> B T H W C")


@pytest.mark.parametrize("motion", VERSIONS.values(), ids=VERSIONS)
def test_unet_with_a_motion_adapter(randomise, shapes, through_files, distance, draw, motion):
    """Two files, of Stable Diffusion and of the motion modules, make one network on either side, and then one file."""
    unet = randomise(their_unet(SMALL))
    adapter = randomise(
        MotionAdapter(
            block_out_channels=SMALL.features,
            motion_layers_per_block=SMALL.blocks_per_stage,
            motion_num_attention_heads=SMALL.heads,
            motion_norm_num_groups=SMALL.groups,
            motion_max_seq_length=motion.frames,
            use_motion_mid_block=motion.middle,
        ),
        seed=1,
    )
    ours = motion.unet(SMALL)
    zt, t, text = draw(B, T, H, W, 4), np.array([3, 981], np.int32), draw(B, 1, L, D)
    condition = Condition(tokens={"text": jnp.asarray(text)})
    like = shapes(ours, zt, t, condition)
    parts = {True: {}, False: {}}  # by whether the leaf is part of a motion module
    for path, leaf in flatten_dict(like).items():
        parts["motion" in path][path] = leaf
    base = through_files(rules.UNET, unet, unflatten_dict(parts[False]))
    modules = through_files(rules.MOTION, adapter, unflatten_dict(parts[True]), rules.MOTION_BUFFERS)
    params = unflatten_dict({**flatten_dict(base), **flatten_dict(modules)})
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    theirs = UNetMotionModel.from_unet2d(unet, adapter).eval()
    assert distance(y, of_clips(theirs, zt, t, text)) < NETWORK

    whole = through_files((*rules.UNET, *rules.MOTION), theirs, like, rules.MOTION_BUFFERS)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, params))


def test_unet_of_clips_with_ten_input_channels(randomise, shapes, through_files, distance, draw):
    """Their one convolution over all channels is ours over z_t and ours over the condition."""
    motion, sizes = VERSIONS["v3"], dataclasses.replace(SMALL, condition_channels=6)
    ours = motion.unet(sizes)
    theirs = randomise(
        UNetMotionModel(
            in_channels=10,
            block_out_channels=SMALL.features,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            layers_per_block=SMALL.blocks_per_stage,
            num_attention_heads=SMALL.heads,
            cross_attention_dim=D,
            norm_num_groups=SMALL.groups,
            motion_num_attention_heads=SMALL.heads,
            motion_max_seq_length=motion.frames,
            use_motion_mid_block=motion.middle,
        )
    )
    x, t, text = draw(B, T, H, W, 10), np.array([3, 981], np.int32), draw(B, 1, L, D)
    zt, reference, frame, level = np.split(x, [4, 8, 9], axis=-1)
    condition = Condition(tuple(map(jnp.asarray, (reference, frame, level))), {"text": jnp.asarray(text)})
    like = shapes(ours, zt, t, condition)
    params = through_files((*TEN_CHANNELS, *rules.MOTION), theirs, like, rules.MOTION_BUFFERS)
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    assert distance(y, of_clips(theirs, x, t, text)) < NETWORK
