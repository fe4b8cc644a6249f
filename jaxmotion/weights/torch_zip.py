"""PyTorch's files since 1.6: a zip archive of `data.pkl` and, beside it, one member for each array of numbers."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import torch_pickle
from jaxmotion.weights.torch_pickle import Storage

START = b"PK\x03\x04"
"""How such a file begins."""
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
"""What `zipfile` raises on damaged archives."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where the numbers of an archive are: the size in bytes of each storage, by its key, and its member's name."""

    path: Path
    members: Mapping[str, str]
    sizes: Mapping[str, int]

    def read(self, storage: Storage) -> np.ndarray:
        """Returns the bytes of a storage. Raises CheckpointFileError if they are not those that were written."""
        member = self.members[storage.key]
        try:
            with zipfile.ZipFile(self.path) as archive:
                return np.frombuffer(archive.read(member), np.uint8)
        except _DAMAGE as error:
            raise CheckpointFileError(
                f"the numbers in {member} are not those that were saved ({error}); fetch it again"
            ) from error


def read(path: Path) -> tuple[object, Archive]:
    """Returns (the object that was saved, where its numbers are).

    Raises:
        CheckpointFileError: it is damaged, another kind of archive, or asks for code to be run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.partition("/")[2]: name for name in archive.namelist() if "/" in name}
            _check_kind(path, archive, files)
            program = archive.read(files["data.pkl"])
            members = {name.removeprefix("data/"): full for name, full in files.items() if name.startswith("data/")}
            sizes = {key: archive.getinfo(full).file_size for key, full in members.items()}
    except CheckpointFileError:
        raise
    except _DAMAGE as error:
        raise CheckpointFileError(f"{path} is damaged or not whole: {error}. Fetch it again.") from error
    return torch_pickle.run(io.BytesIO(program), path), Archive(path, members, sizes)


def _check_kind(path: Path, archive: zipfile.ZipFile, files: Mapping[str, str]) -> None:
    names = archive.namelist()
    if any(name.endswith(".npy") for name in names):
        raise CheckpointFileError(f"{path} is a NumPy archive (.npz); save its arrays as safetensors.")
    if "data.pkl" not in files:
        inside = ", ".join(sorted(name for name in names if not name.endswith("/"))[:3])
        raise CheckpointFileError(
            f"{path} is a zip archive, but no PyTorch checkpoint: it has no data.pkl. "
            f"If it was packed for sending, unpack it (it holds {inside})."
        )
    if "constants.pkl" in files or any(name.startswith("code/") for name in files):
        raise CheckpointFileError(
            f"{path} is a TorchScript program, not a checkpoint; save its state_dict() with torch.save or safetensors."
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise CheckpointFileError(f"{path} is compressed, which PyTorch's checkpoints never are.")
    if "byteorder" in files and archive.read(files["byteorder"]) != b"little":
        raise CheckpointFileError(f"{path} holds numbers in big-endian order, which is not read here.")
