"""AnimateDiff's motion modules in the names of its own code (`mm_sd_v14.ckpt`, `mm_sd_v15_v2.ckpt`, `v3_sd15_mm.ckpt`).

Source: AnimateDiff (arXiv:2307.04725), `motion_module.py`. Nodes of ComfyUI read the same names.
"""

from __future__ import annotations

import dataclasses

from jaxmotion.weights.checkpoint_format import INPUT_CONV, Format
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import linear, norm, under
from jaxmotion.weights.tables.attention import attention, feedforward
from jaxmotion.weights.tables.stable_diffusion import UNET, infer_unet

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

_FIRST_MODULE = "down_blocks.0.motion_modules.0."

_FIRST = f"{_FIRST_MODULE}temporal_transformer.proj_in.weight"
_MODULES = Format(
    "animatediff",
    "motion modules as AnimateDiff and ComfyUI name them",
    {"denoiser": ANIMATEDIFF},
    (_FIRST,),
    forbidden=(INPUT_CONV,),
    ignored=ANIMATEDIFF_POSITIONS,
    networks={"denoiser": infer_unet},
)

FORMATS = (
    _MODULES,
    dataclasses.replace(
        _MODULES.wrapped("module."),
        name="animatediff-module",
        description="motion modules as AnimateDiff names them, saved from several devices",
    ),
    Format(
        "animatediff-unet",
        "a U-Net of Stable Diffusion 1.5 with motion modules, as AnimateDiff's own training saves it",
        {"denoiser": (*UNET, *ANIMATEDIFF)},
        (INPUT_CONV, _FIRST),
        ignored=ANIMATEDIFF_POSITIONS,
        networks={"denoiser": infer_unet},
    ),
)

LORA_PARTS = (
    LoRAPart(
        "denoiser",
        "unet",
        ("lora_unet", "lycoris"),
        (ANIMATEDIFF,),
        "the motion modules of AnimateDiff",
        alternate=True,
    ),
)
