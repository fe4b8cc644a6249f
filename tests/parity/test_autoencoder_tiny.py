"""The tiny autoencoder against diffusers, on random weights in float32."""

from __future__ import annotations

import jax
import pytest
import torch
from diffusers import AutoencoderTiny as Theirs
from einops import rearrange

from jaxmotion.models.autoencoder_tiny import AutoencoderTiny, AutoencoderTinySizes, TinyCodec
from jaxmotion.weights.tables.autoencoder_tiny import AUTOENCODER_TINY

NETWORK = 1e-4


@pytest.mark.parametrize(
    "sizes",
    [AutoencoderTinySizes(features=8), AutoencoderTinySizes(latent_channels=16, features=8, blocks=(1, 2))],
    ids=["4 channels", "16 channels, two stages"],
)
def test_tiny_autoencoder(randomise, shapes, through_files, distance, draw, sizes):
    theirs = randomise(
        Theirs(
            latent_channels=sizes.latent_channels,
            encoder_block_out_channels=(sizes.features,) * len(sizes.blocks),
            decoder_block_out_channels=(sizes.features,) * len(sizes.blocks),
            num_encoder_blocks=sizes.blocks,
            num_decoder_blocks=sizes.blocks[::-1],
        )
    )
    B, T = 2, 3
    x = draw(B, T, 16, 24, 3)
    params = through_files(AUTOENCODER_TINY, theirs, shapes(AutoencoderTiny(sizes), x))
    codec = TinyCodec(sizes)

    def clips(y):
        return rearrange(y, "(B T) C H W -> B T H W C", B=B)

    latents = theirs.encode(torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))).latents
    z = jax.jit(codec.encode)(params, x)
    assert distance(z, clips(latents) * theirs.config.scaling_factor) < NETWORK

    wide = 4 * draw(*z.shape)  # such that the decoder's bending of large latents shows
    reference = theirs.decode(torch.tensor(rearrange(wide, "B T H W C -> (B T) C H W"))).sample
    assert distance(jax.jit(codec.decode)(params, wide), clips(reference)) < NETWORK
