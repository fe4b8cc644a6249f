"""GLIGEN's box tokens and gated self-attention against diffusers, on random weights in float32."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.models.attention import GatedSelfAttentionDense
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection
from einops import rearrange

from jaxmotion.models.gligen import BoxTokens
from jaxmotion.nn.chain import Chain, Context
from jaxmotion.nn.transformer import GatedFeedForward, GatedSelfAttention
from jaxmotion.weights.tables.gligen import BOX_TOKENS, GATED_BOXES

LAYER = 1e-5
B, T, N = 2, 3, 3


def test_box_tokens(randomise, weights, distance, draw):
    theirs = randomise(GLIGENTextBoundingboxProjection(24, 20))
    boxes, labels = np.random.default_rng(0).uniform(size=(B, N, 4)).astype(np.float32), draw(B, N, 24)
    there, ours = np.array([[True, True, False], [False, True, False]]), BoxTokens(20)
    params = weights(BOX_TOKENS, theirs, ours, boxes, labels, there)
    y = jax.jit(ours.apply)({"params": params}, boxes, labels, there)
    reference = theirs(*map(torch.tensor, (boxes, there.astype(np.float32), labels)))
    assert distance(y, reference) < LAYER


def test_gated_self_attention(randomise, weights, distance, draw):
    theirs = randomise(GatedSelfAttentionDense(32, 20, 2, 16))
    theirs.alpha_attn.data, theirs.alpha_dense.data = torch.tensor(0.4), torch.tensor(-0.7)
    x, tokens = draw(B, T, 10, 32), draw(B, T, N, 20)
    ours = Chain({"boxes": partial(GatedSelfAttention, 2, "boxes"), "boxes_feedforward": GatedFeedForward})
    context = Context(jnp.zeros((B, 0)), {"boxes": jnp.asarray(tokens)})
    params = weights(GATED_BOXES, theirs, ours, x, context)
    y = jax.jit(ours.apply)({"params": params}, x, context)
    flat = (torch.tensor(rearrange(each, "B T L D -> (B T) L D")) for each in (x, tokens))
    assert distance(y, rearrange(theirs(*flat), "(B T) L D -> B T L D", T=T)) < LAYER
