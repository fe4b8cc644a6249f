"""Writes safetensors files one tensor at a time, so that memory is bounded by the largest tensor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.foundation.files import atomic_file, is_file_name
from jaxmotion.foundation.types import ArrayLike, Shaped
from jaxmotion.weights.file_names import index_name
from jaxmotion.weights.rules import Tensors
from jaxmotion.weights.tensor_files import DTYPE_NAMES

SHARD_BYTES = 5 * 10**9
"""Larger checkpoints are written as several files."""


def write_tensors(
    folder: Path,
    stem: str,
    tensors: Tensors,
    *,
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes `stem.safetensors`, or shards and their index as Hugging Face names them, and returns the files.

    Every file appears whole or not at all.

    Args:
        metadata: text for the header; `{"format": "pt"}`, which public loaders ask for, when it is not given.
    """
    if not is_file_name(stem):
        raise ValueError(f"{stem!r} would lead out of {folder}; name the file plainly, such as model.")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"} if metadata is None else metadata
    shards = _shards(tensors, shard_bytes)
    count = len(shards)
    names = (
        [f"{stem}.safetensors"]
        if count == 1
        else [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    )
    total = sum(_bytes(tensor) for tensor in tensors.values())
    with tqdm(total=total, desc=stem, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for name, shard in zip(names, shards, strict=True):
            _write_file(folder / name, shard, metadata, bar)
    files = [folder / name for name in names]
    if count > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = folder / index_name(stem)
        with atomic_file(index) as part:
            part.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n")
        files.append(index)
    return files


def _shards(tensors: Tensors, most: int) -> list[dict[str, ArrayLike]]:
    """Splits tensors, in their order, into shards of at most that many bytes (one tensor at least)."""
    shards: list[dict[str, ArrayLike]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + _bytes(tensor) > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _bytes(tensor)
    return shards


def _write_file(path: Path, tensors: Tensors, metadata: Mapping[str, str], bar: tqdm) -> None:
    """Writes safetensors: 8 bytes of header length, a JSON header padded to a multiple of 8, the numbers in C order."""
    ordered = sorted(tensors.items(), key=lambda item: (-np.dtype(item[1].dtype).itemsize, item[0]))
    header: dict[str, JsonValue] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + _bytes(tensor)
        kind = DTYPE_NAMES[np.dtype(tensor.dtype)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            array = np.ascontiguousarray(np.asarray(tensor))
            array.tofile(file)
            bar.update(array.nbytes)
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: Shaped) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
