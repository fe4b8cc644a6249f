"""Opens PyTorch's checkpoints (`.ckpt`, `.pt`, `.pth`, `.bin`) of all its versions: the tensors of the state dict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import torch_serial, torch_zip
from jaxmotion.weights.pickled_names import Noted
from jaxmotion.weights.rules import LazyArray
from jaxmotion.weights.torch_pickle import DTYPES, Storage, Tensor

_STATE_DICTS = (
    *("state_dict", "model_state", "model_state_dict", "model", "module", "unet", "network", "net", "params"),
    *("weights", "ema", "model_ema", "ema_state_dict", "params_ema"),
)
"""Under which names training code keeps the weights beside other things; where there are several, the first is read."""
_DEEPEST = 4
_LARGEST_VIEW = 2**28
"""Bytes that a tensor may have which repeats the few numbers that are stored."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """The tensors of a file by name, and a line about each thing beside them, which is not read."""

    tensors: Mapping[str, LazyArray]
    beside: tuple[str, ...]


class Numbers(Protocol):
    """Where the storages of a file are."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Returns the size in bytes of each storage, by its key."""
        ...

    def read(self, storage: Storage) -> np.ndarray:
        """Returns the bytes of a storage."""
        ...


def is_torch(start: bytes) -> bool:
    """Returns whether a file that begins so (512 bytes) may be of `torch.save`."""
    return start.startswith((torch_zip.START, *torch_serial.STARTS)) or torch_serial.is_tar(start)


def read(path: Path) -> Contents:
    """Returns the tensors of a file, each read lazily; no part of the file is run.

    Raises:
        CheckpointFileError: the file is damaged, asks for code to be run, or holds no tensors by name.
    """
    with path.open("rb") as file:
        start = file.read(512)
    in_rows = torch_serial.read_tar if torch_serial.is_tar(start) else torch_serial.read
    content, numbers = torch_zip.read(path) if start.startswith(torch_zip.START) else in_rows(path)
    place, found = _state_dict(path, content)
    tensors = {}
    beside = list(_things_beside(content, place))
    for name, value in found.items():
        if isinstance(value, Tensor):
            tensors[str(name)] = _lazy(path, str(name), value, numbers)
        elif isinstance(value, Noted) and value.kind.startswith("torch: "):
            raise CheckpointFileError(f"{path}: {name} is a {value.kind.removeprefix('torch: ')}, which is not read.")
        elif place or not isinstance(value, dict):
            beside.append(f"{name}: {_describe(value)}")
    return Contents(tensors, tuple(beside))


def _state_dict(path: Path, content: object) -> tuple[tuple[str, ...], Mapping[object, object]]:
    """Returns (the names of the entries that lead to it, the dict of tensors by name).

    Raises:
        CheckpointFileError: there is none, or several of which none comes first.
    """
    if isinstance(content, Noted):
        raise CheckpointFileError(
            f"{path} holds a whole object ({content}), not its tensors by name; where it was made, save its "
            "state_dict() with torch.save or safetensors."
        )
    found = _search(content, (), set())
    if not found:
        raise CheckpointFileError(f"{path} holds no tensors by name; a state dict was expected.")
    if len(found) > 1:
        names = ", ".join(".".join(place) for place, _ in found)
        raise CheckpointFileError(f"{path} holds several state dicts ({names}); save the one that is meant alone.")
    return found[0]


def _search(
    content: object, place: tuple[str, ...], seen: set[int]
) -> list[tuple[tuple[str, ...], Mapping[object, object]]]:
    """Returns the state dicts in an object, with the names that lead there; a known name comes before all others.

    Args:
        seen: identities of the dicts that were looked at, each of which is looked at once.
    """
    if not isinstance(content, dict) or len(place) > _DEEPEST or id(content) in seen:
        return []
    seen.add(id(content))
    for name in _STATE_DICTS:
        if found := _search(content.get(name), (*place, name), seen):
            return found
    if any(isinstance(value, Tensor) for name, value in content.items() if isinstance(name, str)):
        return [(place, content)]
    named = {name: value for name, value in content.items() if isinstance(name, str)}  # optimizers number theirs
    return [each for name, value in named.items() for each in _search(value, (*place, name), seen)]


def _things_beside(content: object, place: tuple[str, ...]) -> Iterator[str]:
    """Yields a line about each entry on the way to the state dict that does not lead there."""
    for depth, step in enumerate(place):
        entries = content if isinstance(content, dict) else {}
        for name, value in entries.items():
            if name != step:
                yield f"{'.'.join((*place[:depth], str(name)))}: {_describe(value)}"
        content = entries.get(step)


def _describe(value: object) -> str:
    if isinstance(value, dict):
        state = any(isinstance(each, Tensor) for each in value.values())
        return f"{len(value)} entries" + (", tensors among them" if state else "")
    if isinstance(value, list | tuple):
        return f"{len(value)} items"
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a large number"
    text = str(value) if isinstance(value, Noted) else repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lazy(path: Path, name: str, tensor: Tensor, numbers: Numbers) -> LazyArray:
    """Returns a tensor that is read when it is asked for. Raises CheckpointFileError if its numbers are not there."""
    storage = tensor.storage
    if tensor.kind or storage.kind not in DTYPES:
        raise CheckpointFileError(
            f"{path}: {name} holds numbers of kind {tensor.kind or storage.kind}; read here are {', '.join(DTYPES)}."
        )
    dtype, count = DTYPES[storage.kind], math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    least = min((0, tensor.offset, *tensor.shape, *tensor.strides))
    size = numbers.sizes.get(storage.key)
    repeats_too_much = count > storage.length and count * dtype.itemsize > _LARGEST_VIEW
    if size is None or least < 0 or (count and last >= storage.length) or repeats_too_much:
        raise CheckpointFileError(f"{path} is damaged: the numbers of {name} are missing in it.")
    if size != storage.bytes:
        raise CheckpointFileError(f"{path} is damaged: {name} lies in {size} bytes, {storage.bytes} are needed.")

    def make() -> np.ndarray:
        try:
            everything = numbers.read(storage)
        except CheckpointFileError as error:
            raise CheckpointFileError(f"{path} is damaged at {name}: {error}.") from error
        values = everything.view(dtype)[tensor.offset :]
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False)

    return LazyArray(tensor.shape, dtype, make)
