"""CogVideoX's autoencoder against diffusers, on random weights in float32: where chunks end, and in tiles."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from einops import rearrange

from jaxmotion.models import autoencoder3d
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec, Tiles, chunks
from jaxmotion.weights.rules import to_jax, to_torch
from jaxmotion.weights.tables.autoencoder3d import AUTOENCODER3D
from jaxmotion.weights.tensor_files import open_tensors

SIZES = Autoencoder3DSizes(latent_channels=4, features=(8, 8, 16), blocks_per_stage=1, groups=4)
STAGES = {"down_block_types": ("CogVideoXDownBlock3D",) * 3, "up_block_types": ("CogVideoXUpBlock3D",) * 3}


def channels_first(x):
    return torch.tensor(np.asarray(rearrange(x, "B T H W C -> B C T H W")))


def channels_last(x):
    return rearrange(x, "B C T H W -> B T H W C")


@pytest.fixture(scope="module")
def both(randomise, tmp_path_factory):
    """(their autoencoder, our codec, its parameters from the files that theirs saves)."""
    theirs = randomise(
        AutoencoderKLCogVideoX(
            block_out_channels=SIZES.features,
            latent_channels=SIZES.latent_channels,
            layers_per_block=SIZES.blocks_per_stage,
            norm_num_groups=SIZES.groups,
            sample_height=32,
            sample_width=40,
            **STAGES,
        )
    )
    folder = tmp_path_factory.mktemp("vae")
    theirs.save_pretrained(folder)
    tensors = open_tensors(folder)
    codec = CausalCodec(SIZES, tiles=Tiles(16, 20))
    params = to_jax(AUTOENCODER3D, tensors, jax.eval_shape(codec.init, jax.random.key(0)))
    back = to_torch(AUTOENCODER3D, params)
    assert back.keys() == set(tensors)
    assert all(np.array_equal(array, np.asarray(tensors[name])) for name, array in back.items())
    return theirs, codec, params


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_encode(both, distance, draw, frames):
    theirs, codec, params = both
    x = draw(2, frames, 16, 12, 3)
    ours = jax.jit(codec.moments)(params, x)
    with torch.no_grad():
        moments = theirs.encode(channels_first(x)).latent_dist.parameters
    assert distance(ours, channels_last(moments)) < 1e-5
    mean = channels_last(theirs.encode(channels_first(x)).latent_dist.mode())
    assert distance(codec.sample_moments(ours), mean * SIZES.scaling) < 1e-5


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_decode(both, distance, draw, latents):
    theirs, codec, params = both
    z = draw(2, latents, 4, 3, SIZES.latent_channels)
    with torch.no_grad():
        reference = channels_last(theirs.decode(channels_first(z) / SIZES.scaling).sample)
    assert distance(jax.jit(codec.decode)(params, z), reference) < 1e-5
    pieces = list(codec.stream(params, z))
    assert [piece.shape[1] for piece in pieces][1:] == [8] * (len(pieces) - 1)
    assert distance(jnp.concatenate(pieces, axis=1), reference) < 1e-5


def test_tiles(both, distance, draw):
    """Frames of 36 x 32 in tiles of 16 x 20: some tiles are cut short by the border."""
    theirs, codec, params = both
    x, z = draw(1, 5, 36, 32, 3), draw(1, 3, 9, 8, SIZES.latent_channels)
    theirs.enable_tiling()
    try:
        with torch.no_grad():
            moments = theirs.encode(channels_first(x)).latent_dist.parameters
            pixels = theirs.decode(channels_first(z) / SIZES.scaling).sample
    finally:
        theirs.disable_tiling()
    assert distance(codec.encode_tiled(params, x), channels_last(moments)) < 1e-5
    assert distance(jnp.concatenate(list(codec.stream(params, z)), axis=1), channels_last(pixels)) < 1e-5


@pytest.mark.slow
def test_one_tile_is_remembered_on_the_device(both, draw, monkeypatch):
    """What those of the other tiles have seen waits on the host; pixels have the type of the weights."""
    _, codec, params = both
    whole, seen = autoencoder3d._compiled_chunk, []

    def watched(sizes, method, params, piece, tails):
        seen.append({type(tail) for tail in tails.values()})
        return whole(sizes, method, params, piece, tails)

    monkeypatch.setattr(autoencoder3d, "_compiled_chunk", watched)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    pieces = list(codec.stream(half, draw(1, 5, 9, 8, SIZES.latent_channels)))
    assert {piece.dtype for piece in pieces} == {jnp.dtype(jnp.bfloat16)}
    tiles = len(seen) // len(pieces)
    assert tiles > 1
    assert all(kinds == set() for kinds in seen[:tiles])
    assert all(kinds == {np.ndarray} for kinds in seen[tiles:])


def test_clip_by_clip(both, distance, draw):
    theirs, codec, params = both
    alone = dataclasses.replace(codec, clips_at_once=1)
    z = draw(3, 2, 4, 3, SIZES.latent_channels)
    with torch.no_grad():
        reference = channels_last(theirs.decode(channels_first(z) / SIZES.scaling).sample)
    assert distance(jax.jit(alone.decode)(params, z), reference) < 1e-5


def test_chunks_end_where_the_public_code_ends_them():
    assert [(c.start, c.stop) for c in chunks(49, 8)] == [(0, 9)] + [(s, s + 8) for s in range(9, 49, 8)]
    assert [(c.start, c.stop) for c in chunks(13, 2)] == [(0, 3)] + [(s, s + 2) for s in range(3, 13, 2)]
    assert [(c.start, c.stop) for c in chunks(5, 8)] == [(0, 5)]
