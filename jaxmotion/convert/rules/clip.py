"""CLIP's text encoder, as transformers names it: in files under `text_model.`, in memory (version 5) without."""

from __future__ import annotations

from jaxmotion.convert.rename import Rule, linear, norm, under

_TEXT = (
    Rule("embeddings.token_embedding.weight", "tokens"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *under(
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
    ),
    *norm("final_layer_norm", "norm_out"),
)

CLIP_TEXT = (*under("text_model.", "", _TEXT), *_TEXT)

BUFFERS = ("text_model.embeddings.position_ids", "embeddings.position_ids")
