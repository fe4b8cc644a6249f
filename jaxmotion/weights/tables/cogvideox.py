"""CogVideoX's transformer, as diffusers names it (CogVideoXTransformer3DModel)."""

from __future__ import annotations

from jaxmotion.weights.rules import LINEAR, Rule, Transform, linear, norm, under

SIDE = 2
"""Height and width of a patch in all public weights."""

FLAT = Transform(  # a strided convolution [D C p p] there, a linear layer on flattened patches [C p p] here
    lambda x: x.reshape(x.shape[0], -1).T,
    lambda x: (x.T.reshape(x.shape[1], -1, SIDE, SIDE),),
)


def parts(count: int) -> tuple[Transform, Transform]:
    """Kernel and bias of a linear layer whose result falls into so many parts, one tensor there."""
    kernel = Transform(lambda x: x.T.reshape(x.shape[1], count, -1), lambda x: (x.reshape(x.shape[0], -1).T,))
    bias = Transform(lambda x: x.reshape(count, -1), lambda x: (x.reshape(-1),))
    return kernel, bias


def split(torch: str, path: str, count: int) -> tuple[Rule, ...]:
    """A linear layer whose result falls into parts."""
    kernel, bias = parts(count)
    return Rule(f"{torch}.weight", f"{path}/kernel", kernel), Rule(f"{torch}.bias", f"{path}/bias", bias)


_BLOCK = (
    *split("norm1.linear", "modulate_attention", 6),
    *norm("norm1.norm", "norm_attention"),
    *linear("attn1.to_q", "attention/query"),
    *linear("attn1.to_k", "attention/key"),
    *linear("attn1.to_v", "attention/value"),
    *linear("attn1.to_out.0", "attention/out"),
    *norm("attn1.norm_q", "attention/norm_query"),
    *norm("attn1.norm_k", "attention/norm_key"),
    *split("norm2.linear", "modulate_mlp", 6),
    *norm("norm2.norm", "norm_mlp"),
    *linear("ff.net.0.proj", "mlp/linear_in"),
    *linear("ff.net.2", "mlp/linear_out"),
)


def _rules(patches: Transform) -> tuple[Rule, ...]:
    return (
        *linear("patch_embed.proj", "patches", patches),
        *linear("patch_embed.text_proj", "text"),
        Rule("patch_embed.pos_embedding", "positions", Transform(lambda x: x[0], lambda x: (x[None],))),
        *linear("time_embedding.linear_1", "time/linear_in"),
        *linear("time_embedding.linear_2", "time/linear_out"),
        *linear("ofs_embedding.linear_1", "offset/linear_in"),
        *linear("ofs_embedding.linear_2", "offset/linear_out"),
        *under("transformer_blocks.{stack}.", "stack/layers/", _BLOCK),
        *norm("norm_final", "norm_blocks"),
        *norm("norm_out.norm", "norm_out"),
        *split("norm_out.linear", "modulate_out", 2),
        *linear("proj_out", "out"),
    )


COGVIDEOX = _rules(FLAT)
COGVIDEOX_1_5 = _rules(LINEAR)
"""Of version 1.5, whose patches span two frames and pass a linear layer there too."""
