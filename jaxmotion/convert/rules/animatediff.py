"""AnimateDiff's motion modules in the names of its own code (`mm_sd_v14.ckpt`, `mm_sd_v15_v2.ckpt`, `v3_sd15_mm.ckpt`).

Source: AnimateDiff (arXiv:2307.04725), `motion_module.py`. Nodes of ComfyUI read the same names.
"""

from __future__ import annotations

from jaxmotion.convert.rename import Rule, linear, norm, pair, under


def _attention(torch: str, path: str) -> tuple[Rule, ...]:
    return (
        *linear(f"{torch}.to_q", f"{path}/query"),
        *linear(f"{torch}.to_k", f"{path}/key"),
        *linear(f"{torch}.to_v", f"{path}/value"),
        *linear(f"{torch}.to_out.0", f"{path}/out"),
    )


_MODULE = under(
    "temporal_transformer.",
    "",
    (
        *norm("norm", "norm"),
        *linear("proj_in", "proj_in"),
        *under(
            "transformer_blocks.0.",
            "block/",
            (
                *_attention("attention_blocks.{attention}", "time_{attention}/attention"),
                *norm("norms.{attention}", "time_{attention}/norm"),
                *norm("ff_norm", "feedforward/norm"),
                *pair("ff.net.0.proj", "feedforward/mlp/linear_in"),
                *linear("ff.net.2", "feedforward/mlp/linear_out"),
            ),
        ),
        *linear("proj_out", "proj_out"),
    ),
)

_PLACES = {
    "down_blocks.{stage}.motion_modules.{block}.": "down_{stage}_block_{block}/motion/",
    "mid_block.motion_modules.0.": "middle/motion/",
    "up_blocks.{stage}.motion_modules.{block}.": "up_{stage}_block_{block}/motion/",
}

ANIMATEDIFF = tuple(rule for torch, path in _PLACES.items() for rule in under(torch, path, _MODULE))

ANIMATEDIFF_POSITIONS = tuple(
    f"{place}temporal_transformer.transformer_blocks.0.attention_blocks.{{attention}}.pos_encoder.pe"
    for place in _PLACES
)
"""Sines and cosines that motion modules keep beside their parameters; ours are computed."""

WRAPPED = "module."
"""What training on several devices put before every name."""
