"""CogVideoX's transformer against diffusers, on random weights in float32, in all public variants."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed, get_3d_sincos_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from einops import rearrange

from jaxmotion.foundation.types import Condition
from jaxmotion.models import cogvideox
from jaxmotion.models.cogvideox import PUBLIC, CogVideoX, CogVideoXSizes, sine_positions
from jaxmotion.weights.tables.cogvideox import COGVIDEOX, COGVIDEOX_1_5

BASE = (8, 12)
"""Height and width of the latents of training, in these tests."""
CASES = {
    "2B": ("CogVideoX-2b", (3, 8, 12)),
    "2B, another size": ("CogVideoX-2b", (4, 6, 4)),
    "5B": ("CogVideoX-5b", (3, 8, 12)),
    "5B, another size": ("CogVideoX-5b", (2, 12, 8)),
    "5B-I2V": ("CogVideoX-5b-I2V", (3, 8, 12)),
    "5B-I2V, other frames": ("CogVideoX-5b-I2V", (2, 8, 12)),
    "1.5-5B": ("CogVideoX1.5-5B", (4, 6, 10)),
    "1.5-5B-I2V": ("CogVideoX1.5-5B-I2V", (4, 6, 10)),
}


def small(sizes: CogVideoXSizes, **changes) -> CogVideoXSizes:
    """The same network, narrow and shallow."""
    grid = (3, BASE[0] // 2, BASE[1] // 2)
    narrow = {"depth": 2, "heads": 2, "head_features": 32, "text_features": 24, "text_length": 7, "time_features": 16}
    return dataclasses.replace(sizes, **{**narrow, "grid": grid, "remat": "none", "pad_to": 16, **changes})


def theirs_of(sizes: CogVideoXSizes, frames: int = 3) -> CogVideoXTransformer3DModel:
    """The same network of diffusers."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_features,
        in_channels=sizes.in_channels,
        out_channels=sizes.out_channels,
        time_embed_dim=sizes.time_features,
        ofs_embed_dim=sizes.time_features if sizes.offset else None,
        text_embed_dim=sizes.text_features,
        num_layers=sizes.depth,
        sample_width=sizes.grid[2] * 2,
        sample_height=sizes.grid[1] * 2,
        sample_frames=4 * (sizes.grid[0] - 1) + 1,
        patch_size=2,
        patch_size_t=sizes.patch[0] if sizes.patch[0] > 1 else None,
        max_text_seq_length=sizes.text_length,
        use_rotary_positional_embeddings=sizes.positions != "sines",
        use_learned_positional_embeddings=sizes.positions == "rotary_and_learned",
    )


def rotations_of(sizes: CogVideoXSizes, shape: tuple[int, int, int]):
    """What the pipeline of diffusers gives its transformer."""
    if sizes.positions == "sines":
        return None
    size, base = (shape[1] // 2, shape[2] // 2), sizes.grid[1:]
    if sizes.positions == "rotary_grid":
        return get_3d_rotary_pos_embed(
            sizes.head_features, None, size, shape[0] // sizes.patch[0], grid_type="slice", max_size=base
        )
    crop = get_resize_crop_region_for_grid(size, base[1], base[0])
    return get_3d_rotary_pos_embed(sizes.head_features, crop, size, shape[0])


def said_by(theirs, sizes, zt, t, text, vector=None):
    """The reference's prediction for inputs as ours; a vector is added to its time embedding."""
    if vector is not None:
        theirs.time_embedding.register_forward_hook(lambda _, __, out: out + torch.tensor(vector))
    with torch.no_grad():
        said = theirs(
            torch.tensor(rearrange(zt, "B T h w C -> B T C h w")),
            torch.tensor(text[:, 0]),
            torch.tensor(t),
            ofs=torch.full((1,), cogvideox.OFFSET) if sizes.offset else None,
            image_rotary_emb=rotations_of(sizes, zt.shape[1:4]),
        ).sample
    return rearrange(said, "B T C h w -> B T h w C")


@pytest.mark.parametrize(("name", "shape"), CASES.values(), ids=CASES.keys())
def test_transformer(randomise, through_files, shapes, distance, draw, name, shape):
    sizes = small(PUBLIC[name])
    theirs = randomise(theirs_of(sizes))
    if sizes.positions == "rotary_and_learned":
        theirs.patch_embed.pos_embedding.normal_(generator=torch.Generator().manual_seed(1))
    zt, text = draw(2, *shape, sizes.in_channels), draw(2, 1, sizes.text_length, sizes.text_features)
    t, vector = np.array([999, 17]), draw(2, sizes.time_features)
    image = (zt[..., 16:],) if sizes.in_channels > 16 else ()
    condition = Condition(image, {"text": text}, (vector,))
    network = CogVideoX(sizes)
    rules = COGVIDEOX if sizes.patch[0] == 1 else COGVIDEOX_1_5
    # the learned table is for BASE; its shape does not depend on the clip's
    params = through_files(rules, theirs, shapes(network, zt[..., :16], t, condition) | _table(sizes))
    ours = jax.jit(network.apply)({"params": params}, zt[..., :16], t, condition)
    # angles of t = 999 are rounded in other places there, which alone gives 1e-5
    assert distance(ours, said_by(theirs, sizes, zt, t, text, vector)) < 5e-5


def _table(sizes):
    if sizes.positions != "rotary_and_learned":
        return {}
    rows = sizes.text_length + int(np.prod(sizes.grid))
    return {"positions": jax.ShapeDtypeStruct((rows, sizes.features), np.float32)}


def test_sines():
    ours = sine_positions(64, (3, 4, 6))
    theirs = get_3d_sincos_pos_embed(64, (6, 4), 3, 1.875, 1.0).flatten(0, 1)
    np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), atol=1e-6)
