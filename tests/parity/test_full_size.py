"""Networks at their published sizes against diffusers and transformers, on random weights in float32.

One copy of the weights at a time: the reference computes, saves itself and is gone before ours are read from its files.
"""

from __future__ import annotations

import dataclasses
import resource
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from einops import rearrange

from jaxmotion.foundation.types import Condition
from jaxmotion.models import autoencoder, autoencoder3d, causal_codec, clip, cogvideox, dinov2, stable_diffusion, t5
from jaxmotion.models.stable_diffusion import stable_diffusion_unet
from jaxmotion.weights.rules import to_jax
from jaxmotion.weights.tables.autoencoder import AUTOENCODER
from jaxmotion.weights.tables.autoencoder3d import AUTOENCODER3D
from jaxmotion.weights.tables.clip import CLIP_TEXT_BARE
from jaxmotion.weights.tables.cogvideox import COGVIDEOX
from jaxmotion.weights.tables.dinov2 import DINOV2
from jaxmotion.weights.tables.stable_diffusion import UNET
from jaxmotion.weights.tables.t5 import T5, t5_config
from jaxmotion.weights.tensor_files import open_tensors

pytestmark = pytest.mark.slow
NETWORK = 1e-4
MEMORY = 24 * 2**20  # KiB


@pytest.fixture(autouse=True)
def within_memory():
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MEMORY


@pytest.fixture
def computed(randomise, tmp_path):
    """What a network of torch computes. Its weights are left in files and are no longer in memory."""

    def compute(make, run):
        module = randomise(make())
        module.save_pretrained(tmp_path)
        with torch.inference_mode():
            return run(module)

    return compute


@pytest.fixture
def read(shapes, tmp_path):
    """The weights that were left, as parameters of a network of ours."""
    return lambda rules, ours, *inputs: to_jax(rules, open_tensors(tmp_path), shapes(ours, *inputs))


def images(x):
    return torch.tensor(rearrange(x, "... H W C -> (...) C H W"))


def test_unet_of_stable_diffusion(computed, read, distance, draw):
    """At 256 x 256 pixels."""
    zt, t, text = draw(1, 2, 32, 32, 4), np.array([501], np.int32), draw(1, 1, 77, 768)
    theirs = computed(
        partial(diffusers.UNet2DConditionModel, cross_attention_dim=768),
        lambda unet: unet(images(zt), torch.tensor(501), torch.tensor(text[0]).expand(2, -1, -1)).sample,
    )
    ours, condition = stable_diffusion_unet(stable_diffusion.FULL), Condition(tokens={"text": jnp.asarray(text)})
    params = read(UNET, ours, zt, t, condition)
    y = jax.jit(ours.apply)({"params": params}, zt, t, condition)
    assert distance(rearrange(y, "B T h w C -> (B T) C h w"), theirs) < NETWORK


def test_autoencoder(computed, read, distance, draw):
    x, sizes = draw(1, 1, 128, 128, 3), autoencoder.FULL
    latents, pixels = computed(
        partial(
            diffusers.AutoencoderKL,
            block_out_channels=sizes.features,
            down_block_types=["DownEncoderBlock2D"] * len(sizes.features),
            up_block_types=["UpDecoderBlock2D"] * len(sizes.features),
            layers_per_block=sizes.blocks_per_stage,
        ),
        lambda vae: ((z := vae.encode(images(x)).latent_dist.mode()), vae.decode(z).sample),
    )
    codec = autoencoder.KLCodec(sizes)
    params = read(AUTOENCODER, autoencoder.AutoencoderKL(sizes), x)
    z = jax.jit(codec.encode)(params, x)
    assert distance(rearrange(z, "B T h w C -> (B T) C h w"), latents * sizes.scaling) < NETWORK
    y = jax.jit(codec.decode)(params, rearrange(sizes.scaling * latents.numpy(), "B C h w -> B 1 h w C"))
    assert distance(rearrange(y, "B T h w C -> (B T) C h w"), pixels) < NETWORK


def test_text_encoder_of_stable_diffusion(computed, read, distance):
    sizes = clip.FULL
    config = transformers.CLIPTextConfig(
        hidden_size=sizes.features, num_attention_heads=sizes.heads, intermediate_size=sizes.hidden
    )
    text = np.random.default_rng(0).integers(0, sizes.vocabulary, (2, sizes.length)).astype(np.int32)
    theirs = computed(
        partial(transformers.CLIPTextModel, config), lambda encoder: encoder(torch.tensor(text)).last_hidden_state
    )
    params = read(CLIP_TEXT_BARE, clip.CLIPText(sizes), text)
    assert distance(jax.jit(clip.CLIPText(sizes).apply)({"params": params}, text), theirs) < NETWORK


def test_dinov2(computed, read, distance, draw):
    x, sizes = draw(2, 224, 224, 3), dinov2.BASE
    config = transformers.Dinov2Config(image_size=sizes.grid * sizes.patch, patch_size=sizes.patch)
    theirs = computed(partial(transformers.Dinov2Model, config), lambda encoder: encoder(images(x)).last_hidden_state)
    params = read(DINOV2, dinov2.DINOv2(sizes), x)
    assert distance(jax.jit(dinov2.DINOv2(sizes).apply)({"params": params}, x), theirs) < NETWORK


def cogvideox_of(sizes):
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=sizes.heads,
        num_layers=sizes.depth,
        in_channels=sizes.in_channels,
        use_rotary_positional_embeddings=sizes.positions != "sines",
        use_learned_positional_embeddings=sizes.positions == "rotary_and_learned",
    )


@pytest.mark.parametrize("name", ["2B, whole", "5B-I2V, one block"])
def test_cogvideox(computed, read, shapes, distance, draw, name):
    """All of 2B on a small clip, and a block of 5B-I2V on a clip of its own size, whose places it has learned."""
    whole = name.startswith("2B")
    sizes = cogvideox.T2V_2B if whole else dataclasses.replace(cogvideox.I2V_5B, depth=1)
    shape = (3, 16, 24) if whole else (13, 60, 90)
    zt, text, t = draw(1, *shape, sizes.in_channels), draw(1, 1, 226, 4096), np.array([500])
    rotations = None
    if not whole:
        rotations = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 13)

    def run(module):
        latents = torch.tensor(rearrange(zt, "B T h w C -> B T C h w"))
        said = module(latents, torch.tensor(text[:, 0]), torch.tensor(t), image_rotary_emb=rotations).sample
        return rearrange(said, "B T C h w -> B T h w C")

    theirs = computed(lambda: cogvideox_of(sizes), run)
    network = cogvideox.CogVideoX(sizes)
    condition = Condition(tokens={"text": text})
    params = read(COGVIDEOX, network, zt, t, condition)
    assert ("positions" in params) != whole
    assert distance(jax.jit(network.apply)({"params": params}, zt, t, condition), theirs) < NETWORK


def test_cogvideox_autoencoder(computed, distance, draw, tmp_path):
    codec = causal_codec.CausalCodec(autoencoder3d.FULL)
    x, z = draw(1, 9, 48, 64, 3), draw(1, 3, 6, 8, 16)

    def run(module):
        first = lambda x: torch.tensor(rearrange(x, "B T H W C -> B C T H W"))  # noqa: E731
        last = lambda x: rearrange(x, "B C T H W -> B T H W C")  # noqa: E731
        return last(module.encode(first(x)).latent_dist.parameters), last(module.decode(first(z) / 0.7).sample)

    moments, pixels = computed(diffusers.AutoencoderKLCogVideoX, run)
    params = to_jax(AUTOENCODER3D, open_tensors(tmp_path), jax.eval_shape(codec.init, jax.random.key(0)))
    assert distance(jax.jit(codec.moments)(params, x), moments) < NETWORK
    assert distance(jax.jit(codec.decode)(params, z), pixels) < NETWORK


def test_t5(computed, read, distance):
    """Four of the 24 layers of XXL, at full width: all of them and their copy do not fit the memory."""
    sizes = dataclasses.replace(t5.XXL, depth=4)
    text = np.random.default_rng(0).integers(0, 32000, (1, 226), dtype=np.int32)
    config = transformers.T5Config(**t5_config(sizes))
    ids = torch.tensor(text, dtype=torch.long)
    theirs = computed(lambda: transformers.T5EncoderModel(config), lambda module: module(ids).last_hidden_state)
    params = read(T5, t5.T5Encoder(sizes), text)
    assert distance(jax.jit(t5.T5Encoder(sizes).apply)({"params": params}, text), theirs) < NETWORK
