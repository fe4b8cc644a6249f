"""Kinds of adapters by the names of their tensors: what is read as a LoRA, what is another adapter, and for whom.

Source: the names that PEFT, Kohya's scripts, LyCORIS and diffusers write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from jaxmotion.weights.lora_names import ALPHA, take_apart
from jaxmotion.weights.rules import Tensors

LAYOUTS = {
    "peft": re.compile(r"\.lora_[AB](\.[^.]+)?\.weight$"),
    "kohya": re.compile(r"\.lora_(down|up)(\.[^.]+)?\.weight$"),
    "diffusers": re.compile(r"(\.lora|\.lora_linear_layer|_lora)\.(down|up)\.weight$"),
}
_OTHER_ADAPTERS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"hada_w\d|hada_t\d": "LoHa",
    r"lokr_w\d|lokr_t\d": "LoKr",
    r"lora_mid": "LoCon in Tucker form, three factors",
    r"\.(oft_blocks|oft_diag|oft_R|boft_R|boft_s|boft_blocks)\b": "OFT",
    r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$": "GLoRA",
    r"vera_(A|B|lambda)": "VeRA",
    r"\bia3_l\b|\.on_input$": "(IA)3",
    r"\.matrix_[AB]\.\d": "a LoRA in the names of SAT, CogVideoX's own code, which do not tell its alpha; write it "
    "anew with tools/export_sat_lora_weight.py of CogVideo",
    r"lora_embedding_[AB]": "a LoRA of an embedding",
    r"modules_to_save": "a whole layer beside the LoRA",
    r"\.diff(_b)?$|\.set_weight$|\.(w|b)_norm$": "a whole difference beside the LoRA",
    r"\.base_layer\.": "a weight of the model itself; save the adapter alone (get_peft_model_state_dict)",
}
"""Marks in the names of what is not read, and what it is. A LoRA here is two factors for each kernel, nothing else."""
_BIAS = (r"\.bias$", "a bias")

_FAMILIES = {
    "FLUX or HunyuanVideo": r"single_transformer_blocks|(single|double)_blocks[._]\d",
    "SDXL": r"lora_te2_|text_encoder_2\.|add_embedding|label_emb|"
    r"(attentions|blocks?)[._]\d+[._](\d[._])?transformer_blocks[._][1-9]",
    "Stable Diffusion 3": r"joint_blocks[._]\d|transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj",
    "Wan": r"\bblocks[._]\d+[._](self_attn|cross_attn|ffn)|lora_unet_blocks_\d+_(self_attn|cross_attn|ffn)",
    "LTX-Video or another transformer that attends to its text apart": r"(^|transformer\.|"
    r"diffusion_model\.)transformer_blocks\.\d+\.attn2",
    "Mochi": r"transformer_blocks[._]\d+[._]attn1[._]add_[qkv]_proj",
}
"""Marks in the names of LoRA for networks that are not read here."""
_TEXT = re.compile(
    r"(attentions|blocks?)[._]\d+[._](\d[._])?transformer_blocks[._]0[._]attn2[._](processor\.)?to_[kv](_lora)?$"
)
_TEXT_WIDTHS = {1024: "Stable Diffusion 2", 2048: "SDXL"}
"""Widths of the text that their cross-attentions read; it is 768 in Stable Diffusion 1.5."""


def layout(names: Iterable[str]) -> str | None:
    """Returns the layout of LoRA files that has such names: "peft", "kohya", "diffusers" (before PEFT), or None."""
    return next((kind for name in names for kind, pattern in LAYOUTS.items() if pattern.search(name)), None)


def is_adapter(names: Iterable[str]) -> bool:
    """Returns whether a file with these names holds a LoRA or another adapter, read here or not."""
    names = list(names)
    return layout(names) is not None or any(other_adapter(name) for name in names)


def other_adapter(name: str) -> str | None:
    """Returns what a tensor is that is a part of an adapter but no factor of a LoRA; None if its name tells nothing."""
    return next((what for mark, what in _OTHER_ADAPTERS.items() if re.search(mark, name)), None)


def explain(name: str) -> str:
    """Returns a tensor's name with what it is, if that is known and not read."""
    what = other_adapter(name) or (_BIAS[1] if re.search(_BIAS[0], name) else None)
    return f"{name}: {what}, which is not read" if what else name


def foreign_family(tensors: Tensors) -> str | None:
    """Returns the network that an adapter is for, if it is a known one that is not read here."""
    for family, mark in _FAMILIES.items():
        if any(re.search(mark, name) for name in tensors):
            return family
    for name, tensor in tensors.items():
        found = take_apart(name)
        if found and found.role != ALPHA and len(tensor.shape) > 1 and _TEXT.search(found.layer):
            width = tensor.shape[1]
            if found.role == "down" and width in _TEXT_WIDTHS:
                return _TEXT_WIDTHS[width]
    return None
