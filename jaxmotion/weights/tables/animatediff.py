"""AnimateDiff's motion modules in the names of its own code (`mm_sd_v14.ckpt`, `mm_sd_v15_v2.ckpt`, `v3_sd15_mm.ckpt`).

Source: AnimateDiff (arXiv:2307.04725), `motion_module.py`. Nodes of ComfyUI read the same names.
"""

from __future__ import annotations

from jaxmotion.weights.checkpoint_format import Format
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import linear, norm, under
from jaxmotion.weights.tables.stable_diffusion import attention, feedforward, infer_unet

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
                *attention("attention_blocks.{attention}", "time_{attention}/attention"),
                *norm("norms.{attention}", "time_{attention}/norm"),
                *norm("ff_norm", "feedforward/norm"),
                *feedforward("ff", "feedforward/mlp"),
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


_FIRST_MODULE = "down_blocks.0.motion_modules.0."

FORMATS = (
    Format(
        "animatediff",
        "motion modules as AnimateDiff and ComfyUI name them",
        {"denoiser": ANIMATEDIFF},
        (f"{_FIRST_MODULE}temporal_transformer.proj_in.weight",),
        ignored=ANIMATEDIFF_POSITIONS,
        networks={"denoiser": infer_unet},
    ),
    Format(
        "animatediff-module",
        "motion modules as AnimateDiff names them, saved from several devices",
        {"denoiser": under(WRAPPED, "", ANIMATEDIFF)},
        (f"{WRAPPED}{_FIRST_MODULE}temporal_transformer.proj_in.weight",),
        ignored=tuple(WRAPPED + name for name in ANIMATEDIFF_POSITIONS),
        networks={"denoiser": infer_unet},
    ),
)

LORA_PARTS = (LoRAPart("denoiser", "unet", ("lora_unet",), (ANIMATEDIFF,), alternate=True),)
