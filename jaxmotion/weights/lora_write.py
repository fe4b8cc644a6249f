"""Writes LoRA files in the layouts of PEFT (and so diffusers) and of Kohya's scripts.

    PEFT    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight     [rank, inputs]
            ...lora_B.weight                                                                  [outputs, rank]
    Kohya   lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight
            ...lora_up.weight, ...alpha

Source: `lora_base.py` and `peft.py` of diffusers 0.42; `networks/lora.py` of Kohya's sd-scripts; for CogVideoX
`lora_utils.py` of VideoX-Fun.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.foundation.types import Params, Shaped
from jaxmotion.nn.low_rank import is_stacked, pairs
from jaxmotion.weights.diffusers_folder import files_in
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora import shapes_of_kernels
from jaxmotion.weights.lora_names import ALPHA, Layer, LoRAPart, layers_of
from jaxmotion.weights.lora_settings import HEADER
from jaxmotion.weights.rules import ConversionError
from jaxmotion.weights.write import write_tensors


def to_peft(
    lora: Params, rank: int, alpha: float, parts: Sequence[LoRAPart] = LORA_PARTS
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (tensors, header) of a safetensors file that `load_lora_weights` of diffusers reads.

    Rank and alpha stand in the header, where diffusers writes them and reads them since 0.35. Readers that do not know
    the header take alpha for the rank; a LoRA whose two are equal is the same to all.

    Raises:
        ConversionError: there are factors for kernels that the tables of `parts` do not name.
    """
    tensors: dict[str, np.ndarray] = {}
    settings: Json = {}
    for layer, down, up in _torch_factors(lora, parts):
        prefix = layer.part.prefix
        tensors[f"{prefix}.{layer.name}.lora_A.weight"] = down
        tensors[f"{prefix}.{layer.name}.lora_B.weight"] = up
        settings.update({f"{prefix}.peft_type": "LORA", f"{prefix}.r": rank, f"{prefix}.lora_alpha": alpha})
        settings.setdefault(f"{prefix}.target_modules", []).append(layer.shortest)
    return tensors, {"format": "pt", HEADER: json.dumps(settings, indent=2, sort_keys=True)}


def to_kohya(
    lora: Params, rank: int, alpha: float, parts: Sequence[LoRAPart] = LORA_PARTS
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (tensors, header) of a safetensors file as Kohya's scripts write it and most user interfaces read it.

    The scripts know no motion modules: those get names by the same rule, but no reader other than `from_file` is known.

    Raises:
        ConversionError: there are factors for kernels that the tables of `parts` do not name.
    """
    tensors: dict[str, np.ndarray] = {}
    for layer, down, up in _torch_factors(lora, parts):
        name = next(layer.kohya(layer.name))
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.{ALPHA}"] = np.asarray(alpha, np.float32)
    header = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return tensors, {"format": "pt", **header}


def export_lora(
    params: Params, rank: int, alpha: float, kind: Literal["peft", "kohya"], destination: Path
) -> list[Path]:
    """Writes LoRA factors (the part `lora` of the parameters) as a PEFT or Kohya file; returns the files.

    Raises:
        ConversionError: there are factors for layers that public networks have not; merge those instead.
        FileExistsError: the destination holds something already.
    """
    tensors, header = {"peft": to_peft, "kohya": to_kohya}[kind](params, rank, alpha)
    with atomic_folder(destination) as folder:
        write_tensors(folder, "pytorch_lora_weights", tensors, metadata=header)
    return files_in(destination)


def nameless_kernels(kernels: Mapping[str, Shaped], parts: Sequence[LoRAPart] = LORA_PARTS) -> list[str]:
    """Returns the paths of the kernels, given by path, for whose factors files of others have no name, sorted.

    The patches of CogVideoX are among them: a convolution in 2B and 5B, a linear layer of the same name in 1.5.
    """
    layers = layers_of({path: tuple(kernel.shape) for path, kernel in kernels.items()}, parts)
    return sorted(kernels.keys() - {layer.path for layer in layers if len(layer.shapes) == 1})


def _torch_factors(lora: Params, parts: Sequence[LoRAPart]) -> Iterator[tuple[Layer, np.ndarray, np.ndarray]]:
    """Yields (torch layer, down, up) of all kernels. Raises ConversionError for kernels without a name."""
    held = {path: (np.asarray(down), np.asarray(up)) for path, down, up in pairs(lora)}
    kernels = shapes_of_kernels(lora)
    nameless = nameless_kernels(kernels, parts)
    if nameless:
        lines = [f"{path}: files have no name for this kernel; leave it out, or merge" for path in nameless]
        raise ConversionError(unexpected=lines, source="The LoRA")
    for layer in layers_of({path: kernel.shape for path, kernel in kernels.items()}, parts):
        down, up = held[layer.path]
        if is_stacked(layer.path):
            down, up = down[layer.number], up[layer.number]
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise ValueError(f"The LoRA's factors of {layer.name} are not finite; nothing is written.")
        yield layer, *layer.to_torch(down, up)
