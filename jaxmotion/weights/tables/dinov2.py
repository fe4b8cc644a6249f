"""DINOv2, as transformers names it: in public files, and otherwise in the memory of transformers 5."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmotion.weights.rules import JOINED_BIAS, JOINED_KERNEL, Rule, Transform, linear, norm, pair, under
from jaxmotion.weights.tables.patches import PATCHES

_ROW = Transform(lambda x: x.reshape(-1), lambda x: (x[None],))
_CLS = Transform(lambda x: x.reshape(-1), lambda x: (x[None, None],))
_TABLE = Transform(lambda x: x[0], lambda x: (x[None],))

_ATTENTION = (
    *linear("attention.attention.query", "attention/query"),
    *linear("attention.attention.key", "attention/key"),
    *linear("attention.attention.value", "attention/value"),
    *linear("attention.output.dense", "attention/out"),
)
_ATTENTION_IN_MEMORY = (
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
)
_MLP = (*linear("mlp.fc1", "mlp/linear_in"), *linear("mlp.fc2", "mlp/linear_out"))
_GATED = (*pair("mlp.weights_in", "mlp/linear_in"), *linear("mlp.weights_out", "mlp/linear_out"))
_GATED_IN_MEMORY = (
    Rule(("mlp.gate_proj.weight", "mlp.up_proj.weight"), "mlp/linear_in/kernel", JOINED_KERNEL),
    Rule(("mlp.gate_proj.bias", "mlp.up_proj.bias"), "mlp/linear_in/bias", JOINED_BIAS),
    *linear("mlp.down_proj", "mlp/linear_out"),
)


def _rules(attention: Iterable[Rule], mlp: Iterable[Rule]) -> tuple[Rule, ...]:
    layer = (
        *norm("norm1", "norm_attention"),
        *attention,
        Rule("layer_scale1.lambda1", "scale_attention"),
        *norm("norm2", "norm_mlp"),
        *mlp,
        Rule("layer_scale2.lambda1", "scale_mlp"),
    )
    return (
        Rule("embeddings.cls_token", "cls", _CLS),
        Rule("embeddings.mask_token", "mask_token", _ROW),
        Rule("embeddings.register_tokens", "registers", _TABLE),
        Rule("embeddings.position_embeddings", "positions", _TABLE),
        *linear("embeddings.patch_embeddings.projection", "patches", PATCHES),
        *under("encoder.layer.{stack}.", "stack/layers/", layer),
        *norm("layernorm", "norm_out"),
    )


DINOV2 = _rules(_ATTENTION, _MLP)
DINOV2_GATED = _rules(_ATTENTION, _GATED)
"""Of the giant, whose feedforward layers are gated."""
DINOV2_IN_MEMORY = _rules(_ATTENTION_IN_MEMORY, _MLP)
DINOV2_GATED_IN_MEMORY = _rules(_ATTENTION_IN_MEMORY, _GATED_IN_MEMORY)
"""Of a `state_dict`; `save_pretrained` of transformers writes the names of public files."""
