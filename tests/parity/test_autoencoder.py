"""Stable Diffusion's autoencoder against diffusers, on random weights in float32."""

from __future__ import annotations

import jax
import numpy as np
import torch
from diffusers import AutoencoderKL as Theirs
from einops import rearrange

from jaxmotion.convert.rename import to_torch
from jaxmotion.convert.rules.autoencoder import AUTOENCODER
from jaxmotion.models.autoencoder import AutoencoderKL, KLCodec, KLSizes

NETWORK = 1e-4
SIZES = KLSizes(features=(8, 16, 16), blocks_per_stage=2, groups=4)


def test_autoencoder(randomise, weights, distance, draw):
    theirs = randomise(
        Theirs(
            block_out_channels=SIZES.features,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=SIZES.blocks_per_stage,
            norm_num_groups=SIZES.groups,
        )
    )
    B, T = 2, 3
    x = draw(B, T, 16, 24, 3)
    params = weights(AUTOENCODER, theirs, AutoencoderKL(SIZES), x)
    posterior = theirs.encode(torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))).latent_dist
    mean, log_variance = jax.jit(lambda p, x: AutoencoderKL(SIZES).apply({"params": p}, x, method="encode_moments"))(
        params, x
    )
    clips = lambda y: rearrange(y, "(B T) C H W -> B T H W C", B=B)  # noqa: E731
    assert distance(mean, clips(posterior.mean)) < NETWORK
    assert distance(log_variance, clips(posterior.logvar)) < NETWORK

    codec = KLCodec(SIZES, frames_at_once=2)
    z = jax.jit(codec.encode)(params, x)
    assert distance(z, clips(posterior.mode()) * 0.18215) < NETWORK
    pixels = jax.jit(codec.decode)(params, z)
    assert distance(pixels, clips(theirs.decode(posterior.mode()).sample)) < NETWORK

    back = to_torch(AUTOENCODER, params)
    assert all(np.array_equal(back[name], value.numpy()) for name, value in theirs.state_dict().items())
