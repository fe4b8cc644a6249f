"""DINOv2, as transformers names it: the names of public files first, then those in memory since version 5."""

from __future__ import annotations

from jaxmotion.convert.rename import JOINED_BIAS, JOINED_KERNEL, Rule, Transform, linear, norm, pair, under

_ROW = Transform(lambda x: x.reshape(-1), lambda x: (x[None],))
_CLS = Transform(lambda x: x.reshape(-1), lambda x: (x[None, None],))
_TABLE = Transform(lambda x: x[0], lambda x: (x[None],))
_PATCHES = Transform(  # [D 3 p p] there, a linear layer on flattened patches [p p 3] here
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(side := round((x.shape[0] / 3) ** 0.5), side, 3, -1).transpose(3, 2, 0, 1),),
)

_LAYER = (
    *norm("norm1", "norm_attention"),
    *linear("attention.attention.query", "attention/query"),
    *linear("attention.attention.key", "attention/key"),
    *linear("attention.attention.value", "attention/value"),
    *linear("attention.output.dense", "attention/out"),
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
    Rule("layer_scale1.lambda1", "scale_attention"),
    *norm("norm2", "norm_mlp"),
    Rule("layer_scale2.lambda1", "scale_mlp"),
)
_PLAIN = (*linear("mlp.fc1", "mlp/linear_in"), *linear("mlp.fc2", "mlp/linear_out"))
_GATED = (
    *pair("mlp.weights_in", "mlp/linear_in"),
    *linear("mlp.weights_out", "mlp/linear_out"),
    Rule(("mlp.gate_proj.weight", "mlp.up_proj.weight"), "mlp/linear_in/kernel", JOINED_KERNEL),
    Rule(("mlp.gate_proj.bias", "mlp.up_proj.bias"), "mlp/linear_in/bias", JOINED_BIAS),
    *linear("mlp.down_proj", "mlp/linear_out"),
)


def _rules(mlp: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return (
        Rule("embeddings.cls_token", "cls", _CLS),
        Rule("embeddings.mask_token", "mask_token", _ROW),
        Rule("embeddings.register_tokens", "registers", _TABLE),
        Rule("embeddings.position_embeddings", "positions", _TABLE),
        *linear("embeddings.patch_embeddings.projection", "patches", _PATCHES),
        *under("encoder.layer.{stack}.", "stack/layers/", (*_LAYER, *mlp)),
        *norm("layernorm", "norm_out"),
    )


DINOV2 = _rules(_PLAIN)
DINOV2_GATED = _rules(_GATED)
"""Of the giant, whose feedforward layers are gated."""
