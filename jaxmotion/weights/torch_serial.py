"""PyTorch's files before 1.6: pickles in a row, then the numbers; before 0.1.11, a tar archive of four members.

Many files of that time are still in use, and `_use_new_zipfile_serialization=False` still writes the first kind.

Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py` of PyTorch 2.13.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import torch_pickle
from jaxmotion.weights.torch_pickle import Storage, Tensor

STARTS = (b"\x80", b"L119547037146038801333356L")
"""How a file of pickles begins, in the binary protocols and in the first one."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Where the numbers of a file are: the size in bytes of each storage, by its key, and where it starts."""

    path: Path
    starts: Mapping[str, int]
    sizes: Mapping[str, int]

    def read(self, storage: Storage) -> np.ndarray:
        """Returns the bytes of a storage."""
        return np.fromfile(self.path, np.uint8, self.sizes[storage.key], offset=self.starts[storage.key])


def is_tar(start: bytes) -> bool:
    """Returns whether a file that begins so (512 bytes) is a tar archive."""
    return start[257:262] == b"ustar"


def read(path: Path) -> tuple[object, Stretches]:
    """Returns (the object that was saved, where its numbers are), of a file of pickles.

    Raises:
        CheckpointFileError: it is damaged, another kind of pickle, or asks for code to be run.
    """
    storages: dict[str, Storage] = {}

    def persistent(identifier: object) -> object:
        found = torch_pickle.storage_of(identifier)
        if isinstance(found, Storage):
            storages[found.key] = found
        return found

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if torch_pickle.run(stream, path) != _MAGIC:
            raise CheckpointFileError(
                f"{path} is a pickle, but not of torch.save; save the weights by name with torch.save or safetensors."
            )
        protocol, system = torch_pickle.run(stream, path), torch_pickle.run(stream, path)
        if protocol != _PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
            raise CheckpointFileError(
                f"{path} was written by another PyTorch, or on a machine, that is not known here."
            )
        content = torch_pickle.run(stream, path, persistent)
        keys = torch_pickle.run(stream, path)
        unknown = [key for key in keys if str(key) not in storages] if isinstance(keys, list) else [keys]
        if unknown:
            raise CheckpointFileError(
                f"{path} is damaged: it lists numbers that belong to nothing ({str(unknown[0])[:40]})."
            )
        starts, sizes = {}, {}
        for key in map(str, keys if isinstance(keys, list) else []):
            starts[key], sizes[key] = _numbers(path, stream, storages[key])
    return content, Stretches(path, starts, sizes)


def read_tar(path: Path) -> tuple[object, Stretches]:
    """Returns (the object that was saved, where its numbers are), of a tar archive.

    Raises:
        CheckpointFileError: it is damaged, another archive, or asks for code to be run.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = {each.name: each for each in archive.getmembers() if each.isreg() and not each.issparse()}
    except (tarfile.TarError, ValueError) as error:
        raise CheckpointFileError(f"{path} is damaged or not whole: {error}. Fetch it again.") from error
    if not {"storages", "tensors", "pickle"}.issubset(members):
        inside = ", ".join(list(members)[:3])
        raise CheckpointFileError(f"{path} is a tar archive, but no PyTorch checkpoint; unpack it (it holds {inside}).")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        try:
            stream.seek(members["storages"].offset_data)
            storages, numbers = _read_storages(path, stream)
            stream.seek(members["tensors"].offset_data)
            objects: dict[str, object] = {**storages, **_read_tensors(path, stream, storages)}
            stream.seek(members["pickle"].offset_data)
            content = torch_pickle.run(stream, path, lambda identifier: objects[str(identifier)])
        except (struct.error, TypeError, ValueError, LookupError, AttributeError) as error:
            if isinstance(error, CheckpointFileError):
                raise
            raise CheckpointFileError(f"{path} is damaged: its list of tensors cannot be read ({error}).") from error
    return content, numbers


def _read_storages(path: Path, stream: mmap.mmap) -> tuple[dict[str, Storage], Stretches]:
    """Reads a count, then (key, device, kind) and the numbers for each storage, then which are views of others."""
    storages: dict[str, Storage] = {}
    starts, sizes = {}, {}
    for _ in range(_count(path, stream)):
        key, _, kind = _row(path, stream)
        (length,) = struct.unpack("<q", stream.read(8))
        storages[str(key)] = storage = Storage(str(kind.name), str(key), length)
        stream.seek(-8, 1)
        starts[str(key)], sizes[str(key)] = _numbers(path, stream, storage)
    views = torch_pickle.run(stream, path)
    for target, root, offset, length in views if isinstance(views, list) else []:
        whole = storages[str(root)]
        width = whole.bytes // max(whole.length, 1)
        storages[str(target)] = Storage(whole.kind, str(target), int(length))
        starts[str(target)], sizes[str(target)] = starts[str(root)] + int(offset) * width, int(length) * width
    return storages, Stretches(path, starts, sizes)


def _read_tensors(path: Path, stream: mmap.mmap, storages: Mapping[str, Storage]) -> dict[str, Tensor]:
    """Reads a count, then (key, storage, class), the number of axes, shape, strides and offset for each tensor."""
    tensors = {}
    for _ in range(_count(path, stream)):
        key, place, _ = _row(path, stream)
        axes, _ = struct.unpack("<ii", stream.read(8))
        shape = struct.unpack(f"<{axes}q", stream.read(8 * axes))
        strides = struct.unpack(f"<{axes}q", stream.read(8 * axes))
        (offset,) = struct.unpack("<q", stream.read(8))
        storage = storages[str(place)]
        kind = "" if storage.kind in torch_pickle.DTYPES else storage.kind.removesuffix("Storage")
        tensors[str(key)] = Tensor(storage, offset, shape, strides, kind)
    return tensors


def _numbers(path: Path, stream: mmap.mmap, storage: Storage) -> tuple[int, int]:
    """Returns (start, size in bytes) of a storage that lies here, after its length, and goes on behind it."""
    head = stream.read(8)
    length = struct.unpack("<q", head)[0] if len(head) == 8 else -1
    start, size = stream.tell(), storage.bytes
    if length != storage.length or start + size > len(stream):
        raise CheckpointFileError(f"{path} is damaged or not whole: it ends inside its numbers. Fetch it again.")
    stream.seek(start + size)
    return start, size


def _count(path: Path, stream: mmap.mmap) -> int:
    count = torch_pickle.run(stream, path)
    if not isinstance(count, int) or not 0 <= count <= len(stream):
        raise CheckpointFileError(f"{path} is damaged: it says that it holds {count!r} objects.")
    return count


def _row(path: Path, stream: mmap.mmap) -> tuple:
    row = torch_pickle.run(stream, path)
    if not isinstance(row, tuple) or len(row) != 3:
        raise CheckpointFileError(f"{path} is damaged: its list of objects cannot be read.")
    return row
