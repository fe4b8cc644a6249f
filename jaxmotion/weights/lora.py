"""Reads and writes LoRA files in the layouts of PEFT (and so diffusers) and of Kohya's scripts.

    PEFT    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight     [rank, inputs]
            ...lora_B.weight                                                                  [outputs, rank]
    Kohya   lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight
            ...lora_up.weight, ...alpha

Read, but not written: those of diffusers before PEFT (`to_q.lora.down.weight`, `processor.to_q_lora.down.weight`),
AnimateDiff's motion LoRA, and Kohya files in the names of the latent diffusion code (`lora_unet_input_blocks_1_1_...`).

Source: `lora_base.py`, `peft.py` and `state_dict_utils.py` of diffusers 0.42; `networks/lora.py` of Kohya's sd-scripts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.foundation.types import Array, ArrayLike, Params, Shaped
from jaxmotion.nn.low_rank import DOWN, UP, fresh, is_stacked, merge, pairs, product
from jaxmotion.weights import formats
from jaxmotion.weights.diffusers_folder import files_in
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora_names import ALPHA, Layer, LoRAPart, known_names, layers_of
from jaxmotion.weights.rules import ConversionError, LazyArray, Tensors
from jaxmotion.weights.tensor_files import Checkpoint
from jaxmotion.weights.write import write_tensors

METADATA = "lora_adapter_metadata"
"""The entry of a safetensors header in which diffusers keeps PEFT's settings, as JSON."""
LAYOUTS = {
    "peft": re.compile(r"\.lora_[AB]\.weight$"),
    "kohya": re.compile(r"\.lora_(down|up)\.weight$"),
    "diffusers": re.compile(r"(\.lora|\.lora_linear_layer|_lora)\.(down|up)\.weight$"),
}
OTHER_ADAPTERS = {
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "a convolution of three factors",
    ".bias": "a bias",
}
"""Marks in the names of what is not read. A LoRA here is two factors for each kernel and nothing else."""


class Factors(NamedTuple):
    """LoRA factors as in the part `lora` of `systems.lora`; their products are multiplied by alpha / rank."""

    params: Params
    rank: int
    alpha: float


def layout(names: Iterable[str]) -> str | None:
    """Returns the layout of LoRA files that has such names: "peft", "kohya", "diffusers" (before PEFT), or None."""
    return next((kind for name in names for kind, pattern in LAYOUTS.items() if pattern.search(name)), None)


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
    return tensors, {"format": "pt", METADATA: json.dumps(settings, indent=2, sort_keys=True)}


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


def from_file(
    tensors: Tensors,
    like: Params,
    parts: Sequence[LoRAPart] = LORA_PARTS,
    metadata: Mapping[str, str] | None = None,
    source: str = "The LoRA file",
) -> Factors:
    """Returns the LoRA factors in a file of any layout.

    Layers of a file may differ in rank and alpha; ours do not. The rank is the largest; factors of a smaller one are
    filled up with zeros, which changes no product. Alpha is such that most layers agree with it; the `up` of the others
    is multiplied by what is left, in float32. All else keeps the precision of the file. A layer without alpha counts
    alpha = rank. Layers of a stack that the file has not have zeros.

    Args:
        like: parameters of the system, as arrays or shapes.
        metadata: text by name from the header of the file, where diffusers keeps alpha.

    Raises:
        ConversionError: names that belong to no kernel, a factor without the other, shapes or types that do not fit.
    """
    found = _group_by_layer(tensors, like, parts, source)
    settings = json.loads((metadata or {}).get(METADATA, "{}"))
    read = [_read_layer(layer, roles, settings) for layer, roles in found.items()]
    rank = max(each.rank for each in read)
    alpha = _common_alpha(read, rank)
    by_path: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for each in read:
        by_path.setdefault(each.layer.path, {})[each.layer.number] = each.factors(rank, alpha)
    depths = {path: leaf.shape[0] for path, leaf in _select_kernels(like).items()}
    flat = {}
    for path, layers in by_path.items():
        for index, role in enumerate((DOWN, UP)):
            factors = {number: both[index] for number, both in layers.items()}
            flat[f"{path}/{role}"] = _stack(factors, depths[path]) if is_stacked(path) else factors[0]
    return Factors(unflatten_dict(flat, sep="/"), rank, alpha)


def merge_into(
    params: Params,
    tensors: Tensors,
    scale: float = 1.0,
    parts: Sequence[LoRAPart] = LORA_PARTS,
    metadata: Mapping[str, str] | None = None,
) -> Params:
    """Returns `params` with a file's LoRA, times `scale`, added to their kernels; other arguments as in `from_file`."""
    factors = from_file(tensors, params, parts, metadata)
    return merge(params, factors.params, scale * factors.alpha / factors.rank)


def add(params: Tensors, factors: Factors, scale: float = 1.0) -> dict[str, LazyArray]:
    """Returns the kernels with the factors' products added, by path, each computed lazily, in its own precision.

    Args:
        params: array-likes by path, these kernels among them.
    """

    def make(path: str, down: Array, up: Array) -> np.ndarray:
        change = scale * factors.alpha / factors.rank * np.asarray(product(path, down, up))
        kernel = np.asarray(params[path])
        return (kernel.astype(np.float32) + change).astype(kernel.dtype)

    return {
        path: LazyArray(
            tuple(params[path].shape), np.dtype(params[path].dtype), functools.partial(make, path, down, up)
        )
        for path, down, up in pairs(factors.params)
    }


def merge_files(base: Checkpoint, lora: Checkpoint, destination: Path, scale: float = 1.0) -> list[Path]:
    """Writes a public checkpoint with a LoRA, times `scale`, added, in the checkpoint's own format and precision.

    Raises:
        ConversionError: the LoRA has factors for layers that the checkpoint has not.
        FileExistsError: the destination holds something already.
    """
    kind = formats.detect(base)
    params = formats.read(base, kind)
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in params.items()}
    like = unflatten_dict(shapes, sep="/")
    factors = from_file(lora, like, metadata=lora.metadata, source=str(lora.path))
    changed = {**params, **add(params, factors, scale)}
    tensors = {**formats.write(changed, kind.parts_of(base)), **formats.buffers(base, kind)}
    with atomic_folder(destination) as folder:
        write_tensors(folder, base.stem, tensors)
        config = base.path / "config.json"
        if config.is_file():
            shutil.copy(config, folder)
    return files_in(destination)


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


def refit(factors: Factors, rank: int, alpha: float, key: Array) -> Params:
    """Returns the LoRA at another alpha and an equal or larger rank, as a part `lora` for further training.

    What is added to `down` is random and to `up` zero, as in a fresh LoRA: no product changes, and all of it can learn.

    Raises:
        ValueError: the rank is smaller than that of the factors.
    """
    if rank < factors.rank:
        raise ValueError(f"The LoRA has rank {factors.rank}, which does not fit into {rank}; ask for at least as much.")
    held = {path: (down, up) for path, down, up in pairs(factors.params)}
    left = factors.alpha * rank / (factors.rank * alpha)
    flat = {}
    for path, down, up in pairs(fresh(_kernels_of(factors.params), rank, key)):
        old_down, old_up = held[path]
        layers = (slice(None),) * is_stacked(path)
        flat[f"{path}/{DOWN}"] = down.at[..., : factors.rank].set(old_down)
        flat[f"{path}/{UP}"] = up.at[(*layers, slice(factors.rank))].set(left * jnp.asarray(old_up, jnp.float32))
    return unflatten_dict(flat, sep="/")


def _torch_factors(lora: Params, parts: Sequence[LoRAPart]) -> Iterator[tuple[Layer, np.ndarray, np.ndarray]]:
    """Yields (torch layer, down, up) of all kernels. Raises ConversionError for kernels without a name."""
    held = {path: (np.asarray(down), np.asarray(up)) for path, down, up in pairs(lora)}
    layers = layers_of({path: kernel.shape for path, kernel in _kernels_of(lora).items()}, parts)
    named = {layer.path for layer in layers}
    nameless = [f"{path}: files have no name for this kernel; leave it out, or merge" for path in held.keys() - named]
    if nameless:
        raise ConversionError(unexpected=sorted(nameless), source="The LoRA")
    for layer in layers:
        down, up = held[layer.path]
        if is_stacked(layer.path):
            down, up = down[layer.number], up[layer.number]
        yield layer, *layer.to_torch(down, up)


def _kernels_of(lora: Params) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the kernels that the factors are of, by path."""
    return {
        path: jax.ShapeDtypeStruct((*down.shape[:-1], *up.shape[2 if is_stacked(path) else 1 :]), jnp.float32)
        for path, down, up in pairs(lora)
    }


def _select_kernels(params: Params) -> dict[str, Shaped]:
    flat: dict[str, Shaped] = flatten_dict(params, sep="/")  # pyright: ignore[reportAssignmentType]
    return {path: leaf for path, leaf in flat.items() if path.endswith("/kernel")}


def _group_by_layer(
    tensors: Tensors, like: Params, parts: Sequence[LoRAPart], source: str
) -> dict[Layer, dict[str, ArrayLike]]:
    """Returns the tensors of a file by torch layer and role: two factors and, if the file has it, alpha."""
    known = known_names(layers_of({path: tuple(leaf.shape) for path, leaf in _select_kernels(like).items()}, parts))
    held: dict[Layer, dict[str, ArrayLike]] = {}
    unexpected, wrong_dtype = [], []
    for name, tensor in tensors.items():
        if name not in known:
            kind = next((f": {kind}, which is not read" for mark, kind in OTHER_ADAPTERS.items() if mark in name), "")
            unexpected.append(f"{name}{kind}")
            continue
        layer, role = known[name]
        if role in held.setdefault(layer, {}):
            unexpected.append(f"{name}: the {role} of {layer.name} has come under another name already")
        held[layer][role] = tensor
        if role != ALPHA and not jnp.issubdtype(tensor.dtype, jnp.floating):
            wrong_dtype.append(f"{name}: {tensor.dtype} came, a floating-point type is needed")
    missing = [f"{layer.name}: {role}" for layer, roles in held.items() for role in (DOWN, UP) if role not in roles]
    whole = {layer: roles for layer, roles in held.items() if roles.keys() >= {DOWN, UP}}
    wrong_shape = [line for layer, roles in whole.items() for line in _misfits(layer, roles)]
    if missing or unexpected or wrong_shape or wrong_dtype:
        raise ConversionError(missing, unexpected, wrong_shape, wrong_dtype, source)
    if not whole:
        raise ConversionError(missing=["the two factors of any layer"], source=source)
    return whole


def _misfits(layer: Layer, roles: Tensors) -> list[str]:
    """Returns messages on factors of the wrong shape. Linear layers and pointwise convolutions stand for each other."""
    came = {role: tuple(roles[role].shape) for role in (DOWN, UP)}
    rank = came[DOWN][0] if came[DOWN] else 0
    lines = []
    for role, needed in zip((DOWN, UP), layer.torch_shapes(rank), strict=True):
        flat = [needed[:2], (*needed[:2], 1, 1)] if math.prod(needed[2:]) == 1 else []
        if rank == 0 or came[role] not in (needed, *flat):
            lines.append(f"{layer.name}: {role} is {list(came[role])}, {list(needed)} is needed")
    return lines


@dataclasses.dataclass(frozen=True)
class _FileLayer:
    """A torch layer's factors as they are in the file; their product is multiplied by alpha / rank."""

    layer: Layer
    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def factors(self, rank: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns our two factors at another rank and alpha."""
        down, up = self.layer.to_jax(self.down, self.up)
        more = rank - self.rank
        down = np.pad(down, [(0, 0)] * (down.ndim - 1) + [(0, more)])
        up = np.pad(up, [(0, more)] + [(0, 0)] * (up.ndim - 1))
        left = self.alpha * rank / (self.rank * alpha)
        return down, up if left == 1 else up.astype(np.float32) * np.float32(left)


def _read_layer(layer: Layer, roles: Tensors, settings: Json) -> _FileLayer:
    """Reads a layer's factors and alpha: its own (0: the rank, as in Kohya's scripts), PEFT's settings, or the rank."""
    down, up = np.asarray(roles[DOWN]), np.asarray(roles[UP])
    rank = down.shape[0]
    if ALPHA in roles:
        return _FileLayer(layer, down, up, float(np.asarray(roles[ALPHA]).reshape(())) or rank)
    own = {name.removeprefix(f"{layer.part.prefix}."): value for name, value in settings.items()}
    patterns: Mapping[str, float] = own.get("alpha_pattern") or {}
    fitting = (a for key, a in patterns.items() if any(re.match(rf"(.*\.)?({key})$", name) for name in layer.names))
    alpha = next(fitting, own.get("lora_alpha", rank))
    return _FileLayer(layer, down, up, alpha * rank**0.5 if own.get("use_rslora") else alpha)


def _common_alpha(read: Collection[_FileLayer], rank: int) -> float:
    """Returns the alpha that, at this rank, is right for most layers."""
    scale = collections.Counter(each.alpha / each.rank for each in read).most_common(1)[0][0]
    same = (each.alpha for each in read if each.alpha / each.rank == scale and each.rank == rank)
    return float(next(same, scale * rank))


def _stack(layers: Mapping[int, np.ndarray], depth: int) -> np.ndarray:
    some = next(iter(layers.values()))
    return np.stack([layers[number] if number in layers else np.zeros_like(some) for number in range(depth)])
