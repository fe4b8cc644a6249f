"""CLIP's encoders of texts and images against transformers, on random weights in float32."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.numpy import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from jaxmotion.models.clip import CLIP, TINY, VISION_TINY, CLIPSizes, CLIPText, CLIPVision, ImageTower, TextTower
from jaxmotion.weights.rules import to_torch
from jaxmotion.weights.tables import clip as rules

NETWORK = 1e-4
EMBEDDING = 24
TEXT = {
    "vocab_size": TINY.vocabulary,
    "hidden_size": TINY.features,
    "intermediate_size": TINY.hidden,
    "num_hidden_layers": TINY.depth,
    "num_attention_heads": TINY.heads,
    "max_position_embeddings": TINY.length,
    "eos_token_id": TINY.end_token,
    "projection_dim": EMBEDDING,
}
VISION = {
    "image_size": VISION_TINY.image_size,
    "patch_size": VISION_TINY.patch,
    "hidden_size": VISION_TINY.features,
    "intermediate_size": VISION_TINY.hidden,
    "num_hidden_layers": VISION_TINY.depth,
    "num_attention_heads": VISION_TINY.heads,
    "projection_dim": EMBEDDING,
}


def texts(length=TINY.length):
    """Token ids; the first text ends early and is filled with end tokens, the second at the last place."""
    ids = np.random.default_rng(0).integers(0, TINY.start_token, (2, length)).astype(np.int32)
    ids[:, 0], ids[0, 5:], ids[1, -1] = TINY.start_token, TINY.end_token, TINY.end_token
    return ids


def tokens(text):
    return torch.tensor(text, dtype=torch.long)


def images(x):
    return torch.tensor(rearrange(x, "B H W C -> B C H W"))


@pytest.mark.parametrize(("length", "activation"), [(TINY.length, "quick_gelu"), (9, "gelu")])
def test_text_encoder(randomise, shapes, through_files, distance, length, activation):
    theirs = randomise(CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=activation)))
    ours, text = CLIPText(dataclasses.replace(TINY, activation=activation)), texts(length)
    params = through_files(rules.CLIP_TEXT_BARE, theirs, shapes(ours, text))
    hidden = jax.jit(ours.apply)({"params": params}, text)
    assert distance(hidden, theirs(tokens(text)).last_hidden_state) < NETWORK


def test_the_empty_text_is_filled_with_the_padding_of_the_encoder():
    start, end = TINY.start_token, TINY.end_token
    assert TINY.empty.tolist() == [start, *[end] * (TINY.length - 1)]
    assert dataclasses.replace(TINY, length=4, pad_token=0).empty.tolist() == [start, end, 0, 0]


class OpenCLIPText(torch.nn.Module):
    """A text encoder in the names of OpenCLIP, of PyTorch's own attention, which reads its last layer but one."""

    def __init__(self):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(TINY.vocabulary, TINY.features)
        self.positional_embedding = torch.nn.Parameter(torch.empty(TINY.length, TINY.features))
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.ModuleList(self.block() for _ in range(TINY.depth + 1))
        self.ln_final = torch.nn.LayerNorm(TINY.features)

    def block(self):
        wide, hidden = TINY.features, TINY.hidden
        mlp = {"c_fc": torch.nn.Linear(wide, hidden), "gelu": torch.nn.GELU(), "c_proj": torch.nn.Linear(hidden, wide)}
        attention = torch.nn.MultiheadAttention(wide, TINY.heads, batch_first=True)
        parts = {"ln_1": torch.nn.LayerNorm(wide), "attn": attention, "ln_2": torch.nn.LayerNorm(wide)}
        return torch.nn.ModuleDict({**parts, "mlp": torch.nn.ModuleDict(mlp)})

    def forward(self, text):
        x = self.token_embedding(text) + self.positional_embedding
        after = torch.triu(torch.ones(len(x[0]), len(x[0]), dtype=torch.bool), 1)
        for block in self.transformer.resblocks[:-1]:
            h = block["ln_1"](x)
            x = x + block["attn"](h, h, h, need_weights=False, attn_mask=after)[0]
            h = block["ln_2"](x)
            for layer in block["mlp"].values():
                h = layer(h)
            x = x + h
        return self.ln_final(x)


def test_the_text_encoder_of_open_clip_without_its_last_layer(randomise, weights, distance):
    theirs = randomise(OpenCLIPText())
    ours, text = CLIPText(dataclasses.replace(TINY, activation="gelu", pad_token=0)), texts()
    last = f"transformer.resblocks.{TINY.depth}.*"
    params = weights(rules.OPEN_CLIP_TEXT, theirs, ours, text, ignored=[last])
    assert distance(jax.jit(ours.apply)({"params": params}, text), theirs(tokens(text))) < NETWORK


def test_transformers_reads_the_public_names_of_a_text_encoder(randomise, shapes, through_files, tmp_path):
    theirs = randomise(CLIPTextModel(CLIPTextConfig(**TEXT)))
    params = through_files(rules.CLIP_TEXT_BARE, theirs, shapes(CLIPText(TINY), texts()))
    save_file(to_torch(rules.CLIP_TEXT, params), tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = CLIPTextModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in again.state_dict().items())


def test_text_tower(randomise, shapes, through_files, distance):
    theirs = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)))
    ours, text = TextTower(TINY, EMBEDDING), texts()
    params = through_files(rules.CLIP_TEXT_TOWER, theirs, shapes(ours, text))
    assert distance(jax.jit(ours.apply)({"params": params}, text), theirs(tokens(text)).text_embeds) < NETWORK


# At 40 x 24 pixels the 4 x 4 position embeddings are interpolated to 5 x 3: larger one way, smaller the other.
@pytest.mark.parametrize("size", [(32, 32), (40, 24)], ids=["stored size", "interpolated"])
def test_image_encoder(randomise, shapes, through_files, distance, draw, size):
    theirs = randomise(CLIPVisionModel(CLIPVisionConfig(**VISION)))
    x = draw(2, *size, 3)
    params = through_files(rules.CLIP_VISION_BARE, theirs, shapes(CLIPVision(VISION_TINY), x))
    hidden, pooled = jax.jit(CLIPVision(VISION_TINY).apply)({"params": params}, x)
    reference = theirs(images(x), interpolate_pos_encoding=size != (32, 32))
    assert distance(hidden, reference.last_hidden_state) < NETWORK
    assert distance(pooled, reference.pooler_output) < NETWORK


def test_image_tower(randomise, shapes, through_files, distance, draw):
    theirs = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    sizes = dataclasses.replace(VISION_TINY, remat="full")
    ours, x = ImageTower(sizes, EMBEDDING), draw(2, 32, 32, 3)
    params = through_files(rules.CLIP_VISION_TOWER, theirs, shapes(ours, x))
    reference = theirs(images(x))
    assert distance(jax.jit(ours.apply)({"params": params}, x), reference.image_embeds) < NETWORK
    hidden, _ = jax.jit(CLIPVision(sizes).apply)({"params": params["encoder"]}, x)
    assert distance(hidden, reference.last_hidden_state) < NETWORK


def test_whole_model(randomise, shapes, through_files, distance, draw):
    theirs = randomise(CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=EMBEDDING)))
    ours = CLIP(CLIPSizes(TINY, VISION_TINY, EMBEDDING))
    text, x = texts(), draw(3, 32, 32, 3)
    params = through_files(rules.CLIP, theirs, shapes(ours, text, x))
    logits = jax.jit(ours.apply)({"params": params}, text, x)
    assert distance(logits, theirs(tokens(text), images(x)).logits_per_image) < NETWORK
