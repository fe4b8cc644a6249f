"""Opens checkpoints: safetensors files, folders of sharded ones, and PyTorch's zip files. Nothing in them is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import torch_zip
from jaxmotion.weights.rules import LazyArray

INDEX = ".safetensors.index.json"
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
STANDARD = (
    f"diffusion_pytorch_model{INDEX}",
    f"model{INDEX}",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
"""What diffusers and transformers call their files, in the order of preference."""

_DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(kind) for name, kind in (("F64", np.float64), ("F32", np.float32), ("F16", np.float16))},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{name: np.dtype(kind) for name, kind in (("I64", np.int64), ("I32", np.int32), ("I16", np.int16))},
    **{name: np.dtype(kind) for name, kind in (("I8", np.int8), ("U8", np.uint8), ("BOOL", np.bool_))},
}
"""Types of tensors in a safetensors file."""
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
"""The same the other way round."""


class Checkpoint(Mapping[str, LazyArray]):
    """The tensors of a checkpoint by name, in the order of the files, each read lazily.

    path:     what was opened.
    files:    the files that hold the tensors.
    metadata: text by name, from the header of a safetensors file.
    """

    def __init__(self, path: Path, files: list[Path], tensors: Mapping[str, LazyArray], metadata: Mapping[str, str]):
        self.path, self.files, self.metadata = path, files, dict(metadata)
        self._tensors = dict(tensors)

    @property
    def stem(self) -> str:
        """Returns the name of the file, or of its shards, without number and ending."""
        return self.files[0].name.removesuffix(INDEX).removesuffix(self.files[0].suffix)

    def __getitem__(self, name: str) -> LazyArray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_tensors(path: str | Path) -> Checkpoint:
    """Opens a checkpoint: a file (safetensors, an index of shards, a PyTorch zip file) or a folder that holds one.

    Raises:
        CheckpointFileError: nothing is there, or it is damaged, or of another kind, or it would run code.
    """
    path = Path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointFileError(f"There is no file or folder {path}; give a checkpoint ({', '.join(ENDINGS)}).")
    if file.name.endswith(INDEX):
        return _open_index(path, file)
    start = file.open("rb").read(256)
    if start.startswith(b"PK\x03\x04"):
        return Checkpoint(path, [file], torch_zip.read(file), {})
    _check_start(file, start)
    tensors, metadata = _open_safetensors(file)
    return Checkpoint(path, [file], tensors, metadata)


def _file_in(folder: Path) -> Path:
    """Returns the checkpoint file of a folder: one with a standard name, or the only one."""
    for name in STANDARD:
        if (folder / name).is_file():
            return folder / name
    indices = sorted(folder.glob(f"*{INDEX}"))
    found = indices or sorted(p for p in folder.iterdir() if p.suffix in ENDINGS)
    if len(found) == 1:
        return found[0]
    if not found:
        within = sorted(p.name for p in folder.iterdir() if p.is_dir())
        hint = f" It has the folders {', '.join(within)}: name one of them." if within else ""
        raise CheckpointFileError(f"{folder} holds no checkpoint ({', '.join(ENDINGS)}).{hint}")
    names = ", ".join(p.name for p in found)
    raise CheckpointFileError(f"{folder} holds several checkpoints ({names}); name one of them.")


def _open_index(path: Path, file: Path) -> Checkpoint:
    try:
        places: dict[str, str] = json.loads(file.read_text())["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointFileError(f"{file} is no index of shards: it has no readable weight_map ({error}).") from error
    lost = [name for name in names if Path(name).name != name or not (file.parent / name).is_file()]
    if lost:
        raise CheckpointFileError(f"{file} names shards that are not beside it: {', '.join(lost)}.")
    files = [file.parent / name for name in names]
    shards = {name: _open_safetensors(each) for name, each in zip(names, files, strict=True)}
    wrong = [tensor for tensor, name in places.items() if tensor not in shards[name][0]]
    extra = [tensor for name in names for tensor in shards[name][0] if places.get(tensor) != name]
    if wrong or extra:
        raise CheckpointFileError(
            f"{file} and its shards disagree: {len(wrong)} tensors are not where the index says "
            f"({', '.join(wrong[:3])}), {len(extra)} are not in the index ({', '.join(extra[:3])})."
        )
    tensors = {tensor: shards[name][0][tensor] for tensor, name in places.items()}
    return Checkpoint(path, [file, *files], tensors, shards[names[0]][1] if names else {})


def _open_safetensors(file: Path) -> tuple[dict[str, LazyArray], dict[str, str]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            kinds = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            shapes = {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in kinds.items()}
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointFileError(
            f"{file} ({file.stat().st_size} bytes) is no whole safetensors file: {error}. Fetch it again."
        ) from error
    odd = {name: kind for name, (_, kind) in shapes.items() if kind not in _DTYPES}
    if odd:
        name, kind = next(iter(odd.items()))
        raise CheckpointFileError(
            f"{file} holds {len(odd)} tensors of a type that is not read here, such as {name} ({kind}); "
            f"take a version in one of {', '.join(_DTYPES)}."
        )
    return {name: _lazy(file, name, shape, _DTYPES[kind]) for name, (shape, kind) in shapes.items()}, metadata


def _lazy(file: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
    def make() -> np.ndarray:
        with safe_open(file, framework="numpy") as opened:
            return opened.get_tensor(name)

    return LazyArray(shape, dtype, make)


def _check_start(file: Path, start: bytes) -> None:
    """Raises CheckpointFileError if the first bytes are of a Git LFS pointer, a web page or an old pickle."""
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointFileError(f"{file} is a Git LFS pointer, not the checkpoint; fetch it with git lfs pull.")
    if start.lstrip()[:1] == b"<":
        raise CheckpointFileError(f"{file} is a web page, not a checkpoint; the download went wrong.")
    if start[:1] == b"\x80" and file.suffix != ".safetensors":
        raise CheckpointFileError(
            f"{file} is a pickle of PyTorch before 1.6, which is not opened here because that would run it. "
            "Take the .safetensors file of this model, or save it anew with a current PyTorch."
        )
