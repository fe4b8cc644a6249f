"""Merges a LoRA into a public checkpoint or the folder of a whole pipeline, in its own format and precision."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.nn.low_rank import DOWN, UP, is_stacked, pairs
from jaxmotion.weights import formats, lora
from jaxmotion.weights.checkpoint_format import Format
from jaxmotion.weights.diffusers_folder import files_in
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora import Factors
from jaxmotion.weights.lora_names import part_named, take_apart
from jaxmotion.weights.rules import LazyArray, Tensors, parameter_paths_of, with_dtypes
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors
from jaxmotion.weights.write import write_tensors

COMPONENTS = {"unet": "denoiser", "transformer": "denoiser", "text_encoder": "text_encoder"}
"""Folders of a pipeline that a LoRA may change, and the parts of the parameters that are in them."""
_WEIGHTS = re.compile(r"\.(safetensors|bin|ckpt|pt|pth|msgpack|h5|onnx|gguf)(\.index\.([\w.]+\.)?json)?$")
_HASHES = re.compile(r"^modelspec\.hash|^sshs_\w+_hash$")
"""Entries of a header that are sums over the weights, which a merge changes."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """What was written, and sentences about what was changed and what was not."""

    files: list[Path]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Base:
    """A checkpoint to merge into, with its parameters; `folder` is its place in a pipeline, empty for one alone."""

    checkpoint: Checkpoint
    format: Format
    params: Tensors
    folder: str = ""


def merge_files(base: Path, added: Checkpoint, destination: Path, scale: float = 1.0) -> Merged:
    """Writes a checkpoint, or a whole pipeline, with a LoRA, times `scale`, added.

    Everything else stays as it was: the type of each tensor, the header, and of a pipeline all other files.

    Args:
        base: a file or folder with a checkpoint, or the folder of a pipeline.

    Raises:
        ConversionError: the LoRA has factors for layers that the checkpoint has not.
        CheckpointFileError: a file cannot be read, or a sum is not finite; nothing is written.
        FileExistsError: the destination holds something already.
        ValueError: the scale is no finite number.
    """
    if not math.isfinite(scale):
        raise ValueError(f"The scale is {scale}; a LoRA is added times a finite number.")
    bases = _open_bases(base, added)
    shapes = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype) for each in bases for path, array in each.params.items()
    }
    factors = lora.from_file(added, unflatten_dict(shapes, sep="/"), metadata=added.metadata, source=str(added.path))
    changed = {path for path, _, _ in pairs(factors.params)}
    notes = []
    with atomic_folder(destination) as folder:
        touched = [each for each in bases if changed & each.params.keys()]
        if bases[0].folder:
            _copy_others(base, folder, {each.folder for each in touched})
        for each in touched:
            notes += _write(each, factors, scale, folder / each.folder)
    return Merged(files_in(destination), notes)


def is_pipeline(folder: Path) -> bool:
    """Returns whether a folder is that of a pipeline, with a network in a folder of its own that a LoRA may change."""
    return folder.is_dir() and any((folder / name).is_dir() for name in COMPONENTS)


def _open_bases(path: Path, added: Checkpoint) -> list[_Base]:
    """Opens what a LoRA may change: a checkpoint, or a pipeline's components that it has names for."""
    if not is_pipeline(path):
        return [_open_base(path)]
    layers = {found.layer for name in added if (found := take_apart(name))}
    parts = {part.part for layer in layers if (part := part_named(layer, LORA_PARTS))}
    folders = {name: part for name, part in COMPONENTS.items() if part in parts and (path / name).is_dir()}
    if not folders:
        raise CheckpointFileError(
            f"{added.path} changes {' and '.join(sorted(parts)) or 'nothing that is known here'}; the pipeline {path} "
            f"has the folders {', '.join(name for name in COMPONENTS if (path / name).is_dir())}."
        )
    return [_open_base(path / name, name, part) for name, part in folders.items()]


def _open_base(path: Path, folder: str = "", part: str = "") -> _Base:
    checkpoint = open_tensors(path)
    kind = formats.detect(checkpoint)
    if part and part not in kind.parts_of(checkpoint):
        raise CheckpointFileError(f"{path} is {kind.description}; a {part} is needed in this folder of a pipeline.")
    return _Base(checkpoint, kind, formats.read(checkpoint, kind), folder)


def _write(base: _Base, factors: Factors, scale: float, folder: Path) -> list[str]:
    """Writes one checkpoint with the factors of its own kernels added; returns sentences about it."""
    checkpoint, kind = base.checkpoint, base.format
    mine = _factors_of(factors, base.params)
    params = {**base.params, **lora.add(base.params, mine, scale)}
    own = {name: array.dtype for name, array in checkpoint.items()}
    made = with_dtypes(formats.write(params, kind.parts_of(checkpoint)), own)
    kept = formats.buffers(checkpoint, kind)
    header = {name: text for name, text in checkpoint.metadata.items() if not _HASHES.search(name)}
    write_tensors(folder, checkpoint.stem, {**made, **kept}, metadata={"format": "pt", **header})
    config = checkpoint.path / "config.json"
    if config.is_file():
        shutil.copy(config, folder)
    return _notes(base, mine, scale, kept)


def _factors_of(factors: Factors, params: Mapping[str, object]) -> Factors:
    """Returns the factors of these parameters' kernels alone."""
    flat = {}
    for path, down, up in pairs(factors.params):
        if path in params:
            flat.update({f"{path}/{DOWN}": down, f"{path}/{UP}": up})
    return factors._replace(params=unflatten_dict(flat, sep="/"))


def _notes(base: _Base, factors: Factors, scale: float, kept: Mapping[str, LazyArray]) -> list[str]:
    """Returns sentences about which tensors of a checkpoint were changed and which others one could think were."""
    path, notes = base.checkpoint.path, []
    factor = scale * factors.alpha / factors.rank
    for part, rules in base.format.parts_of(base.checkpoint).items():
        changed = {kernel: up for kernel, _, up in pairs(factors.params) if kernel.startswith(f"{part}/")}
        if not changed:
            continue
        layers = [layer for kernel, up in changed.items() for layer in (up if is_stacked(kernel) else [up])]
        count = sum(bool(np.any(layer)) for layer in layers)
        paths = {name: {f"{part}/{each}" for each in parameter_paths_of(rules, name) or ()} for name in base.checkpoint}
        some = next(name for name, each in paths.items() if each & changed.keys())
        notes.append(
            f"{path}: {count} tensors of the {part}, such as {some}, were changed; rank {factors.rank}, each product "
            f"times {factor:g}."
        )
    means = [name for name, array in kept.items() if re.search(r"(^|[._])ema([._]|$)", name) and array.shape]
    if means:
        notes.append(
            f"{path}: the running means ({len(means)} tensors such as {means[0]}) were not changed; a program that "
            "takes those sees no LoRA."
        )
    return notes


def _copy_others(base: Path, folder: Path, touched: set[str]) -> None:
    """Copies a pipeline's files but the weights of the components that are written anew."""
    for file in files_in(base):
        place = file.relative_to(base)
        if place.parts[0] in touched and len(place.parts) > 1 and _WEIGHTS.search(file.name):
            continue
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / place)
