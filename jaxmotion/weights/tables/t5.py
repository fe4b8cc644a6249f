"""The encoder of T5 v1.1, as transformers names it (T5EncoderModel)."""

from __future__ import annotations

from jaxmotion.weights.rules import JOINED_KERNEL, LINEAR, Rule, under

_ATTENTION, _MLP = "layer.0.SelfAttention", "layer.1.DenseReluDense"
_LAYER = (
    Rule("layer.0.layer_norm.weight", "norm_attention/scale"),
    Rule(f"{_ATTENTION}.q.weight", "query/kernel", LINEAR),
    Rule(f"{_ATTENTION}.k.weight", "key/kernel", LINEAR),
    Rule(f"{_ATTENTION}.v.weight", "value/kernel", LINEAR),
    Rule(f"{_ATTENTION}.o.weight", "out/kernel", LINEAR),
    Rule("layer.1.layer_norm.weight", "norm_mlp/scale"),
    Rule((f"{_MLP}.wi_0.weight", f"{_MLP}.wi_1.weight"), "mlp/linear_in/kernel", JOINED_KERNEL),
    Rule(f"{_MLP}.wo.weight", "mlp/linear_out/kernel", LINEAR),
)

T5 = (
    Rule("shared.weight", "tokens"),
    Rule(f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight", "distances"),
    *under("encoder.block.{stack}.", "stack/layers/", _LAYER),
    Rule("encoder.final_layer_norm.weight", "norm_out/scale"),
)

SHARED_AGAIN = ("encoder.embed_tokens.weight",)
"""The token vectors under a second name, which older files hold beside the first."""
