"""GLIGEN's grounding, as its own code and diffusers name it; also with the attention to a picture that SMCD adds.

Source: `GLIGENTextBoundingboxProjection` and `GatedSelfAttentionDense` of diffusers, and the public code of GLIGEN and
of Animate Your Motion (arXiv:2403.10179), which have the same names below other prefixes.
"""

from __future__ import annotations

from jaxmotion.weights.rules import Rule, linear, norm
from jaxmotion.weights.tables.attention import attention, feedforward

BOX_TOKENS = (
    Rule("null_positive_feature", "no_label"),
    Rule("null_position_feature", "no_position"),
    *linear("linears.0", "hidden_0"),
    *linear("linears.2", "hidden_1"),
    *linear("linears.4", "out"),
)


def gated_layers(attends: str, feeds: str, prefix: str = "", linear_name: str = "linear") -> tuple[Rule, ...]:
    """Returns the rules of a gated attention with its feedforward layer, one module there.

    Args:
        attends, feeds: names of the two layers here.
        prefix: text before their names there.
        linear_name: their name of the layer that brings the tokens to the width of the features.
    """
    return (
        *linear(linear_name, f"{attends}/project"),
        *norm(f"{prefix}norm1", f"{attends}/norm"),
        *attention(f"{prefix}attn", f"{attends}/attention"),
        Rule(f"{prefix}alpha_attn", f"{attends}/gate"),
        *norm(f"{prefix}norm2", f"{feeds}/norm"),
        *feedforward(f"{prefix}ff", f"{feeds}/mlp"),
        Rule(f"{prefix}alpha_dense", f"{feeds}/gate"),
    )


GATED_BOXES = gated_layers("boxes", "boxes_feedforward")
GATED_PICTURE = gated_layers("image", "image_feedforward", "cross_", "v_linear")
