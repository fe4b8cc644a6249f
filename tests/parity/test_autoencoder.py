"""Stable Diffusion's autoencoder against diffusers, on random weights in float32."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as Theirs
from einops import rearrange
from safetensors.numpy import load_file, save_file

from jaxmotion.models.autoencoder import AutoencoderKL, KLCodec, KLSizes
from jaxmotion.weights.rules import to_jax, to_torch
from jaxmotion.weights.tables.autoencoder import AUTOENCODER, AUTOENCODER_OLD

NETWORK = 1e-4
SIZES = KLSizes(features=(8, 16, 16), blocks_per_stage=2, groups=4)
B, T = 2, 3


@pytest.fixture
def theirs(randomise):
    return randomise(
        Theirs(
            block_out_channels=SIZES.features,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=SIZES.blocks_per_stage,
            norm_num_groups=SIZES.groups,
        )
    )


def images(x):
    return torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))


def clips(x):
    return rearrange(x, "(B T) C H W -> B T H W C", B=B)


def test_autoencoder(theirs, shapes, through_files, distance, draw):
    x = draw(B, T, 16, 24, 3)
    params = through_files(AUTOENCODER, theirs, shapes(AutoencoderKL(SIZES), x))
    posterior = theirs.encode(images(x)).latent_dist
    mean, log_variance = jax.jit(lambda p, x: AutoencoderKL(SIZES).apply({"params": p}, x, method="encode_moments"))(
        params, x
    )
    assert distance(mean, clips(posterior.mean)) < NETWORK
    assert distance(log_variance, clips(posterior.logvar)) < NETWORK

    codec = KLCodec(SIZES, frames_at_once=2)
    z = jax.jit(codec.encode)(params, x)
    assert distance(z, clips(posterior.mode()) * 0.18215) < NETWORK
    pixels = jax.jit(codec.decode)(params, z)
    assert distance(pixels, clips(theirs.decode(posterior.mode()).sample)) < NETWORK


def test_older_files_hold_the_same(theirs, shapes, through_files, draw, tmp_path):
    """What our second table writes, diffusers reads as the older names, and both read as the network that was saved."""
    x = draw(1, 1, 8, 8, 3)
    params = through_files(AUTOENCODER, theirs, shapes(AutoencoderKL(SIZES), x))
    old = to_torch(AUTOENCODER_OLD, params)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(old, file, metadata={"format": "pt"})
    again = Theirs.from_pretrained(tmp_path)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in again.state_dict().items())
    assert jax.tree.all(jax.tree.map(np.array_equal, to_jax(AUTOENCODER_OLD, load_file(file), params), params))
