"""CLIP, as transformers names it.

Public files have the text encoder under `text_model.`; the text encoder alone, as transformers 5 saves it, has not.
The same holds for the image encoder and `vision_model.`.
"""

from __future__ import annotations

from jaxmotion.weights.rules import LINEAR, Rule, linear, norm, under
from jaxmotion.weights.tables.patches import PATCHES

_LAYERS = under(
    "encoder.layers.{stack}.",
    "stack/layers/",
    (
        *norm("layer_norm1", "norm_attention"),
        *linear("self_attn.q_proj", "attention/query"),
        *linear("self_attn.k_proj", "attention/key"),
        *linear("self_attn.v_proj", "attention/value"),
        *linear("self_attn.out_proj", "attention/out"),
        *norm("layer_norm2", "norm_mlp"),
        *linear("mlp.fc1", "mlp/linear_in"),
        *linear("mlp.fc2", "mlp/linear_out"),
    ),
)

CLIP_TEXT_BARE = (
    Rule("embeddings.token_embedding.weight", "tokens"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *_LAYERS,
    *norm("final_layer_norm", "norm_out"),
)
CLIP_VISION_BARE = (
    Rule("embeddings.class_embedding", "cls"),
    Rule("embeddings.patch_embedding.weight", "patches/kernel", PATCHES),
    Rule("embeddings.position_embedding.weight", "positions"),
    *norm("pre_layrnorm", "norm_in"),
    *_LAYERS,
    *norm("post_layernorm", "norm_out"),
)
CLIP_TEXT = under("text_model.", "", CLIP_TEXT_BARE)
CLIP_VISION = under("vision_model.", "", CLIP_VISION_BARE)
CLIP_TEXT_TOWER = (*under("", "encoder/", CLIP_TEXT), Rule("text_projection.weight", "projection/kernel", LINEAR))
CLIP_VISION_TOWER = (*under("", "encoder/", CLIP_VISION), Rule("visual_projection.weight", "projection/kernel", LINEAR))
CLIP = (
    *under("", "text/", CLIP_TEXT_TOWER),
    *under("", "image/", CLIP_VISION_TOWER),
    Rule("logit_scale", "logit_scale"),
)

BUFFERS = (
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
"""Numbers 0, 1, 2, ... that older files keep beside the parameters."""
