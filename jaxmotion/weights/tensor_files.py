"""Opens checkpoints: safetensors and PyTorch files, and folders with one or with its shards. Nothing in them is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.files import is_file_name
from jaxmotion.weights import file_names, torch_files
from jaxmotion.weights.file_kinds import refuse_other_kinds
from jaxmotion.weights.file_names import ENDINGS
from jaxmotion.weights.rules import LazyArray

DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(kind) for name, kind in (("F64", np.float64), ("F32", np.float32), ("F16", np.float16))},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{name: np.dtype(kind) for name, kind in (("I64", np.int64), ("I32", np.int32), ("I16", np.int16))},
    **{name: np.dtype(kind) for name, kind in (("I8", np.int8), ("U8", np.uint8), ("BOOL", np.bool_))},
}
"""Types of tensors in a safetensors file."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The same the other way round."""


class Checkpoint(Mapping[str, LazyArray]):
    """The tensors of a checkpoint by name, in the order of the files, each read lazily.

    path:     what was opened.
    files:    the files that hold the tensors, an index of shards first.
    metadata: text by name, from the header of a safetensors file.
    beside:   a line about each thing that a PyTorch file holds beside the tensors, which is not read.
    """

    def __init__(
        self,
        path: Path,
        files: list[Path],
        tensors: Mapping[str, LazyArray],
        metadata: Mapping[str, str],
        beside: Sequence[str] = (),
    ):
        self.path, self.files, self.metadata, self.beside = path, files, dict(metadata), tuple(beside)
        self._tensors = dict(tensors)

    @property
    def stem(self) -> str:
        """Returns the name under which the tensors are written again, without number and ending."""
        return file_names.stem_of(self.files[0].name)

    def damage(self) -> str:
        """Reads files that have checksums (of PyTorch since 1.6) and returns what is wrong; empty: nothing."""
        if not any(zipfile.is_zipfile(file) for file in self.files):
            return ""
        try:
            for tensor in self._tensors.values():
                np.asarray(tensor)
        except CheckpointFileError as error:
            return str(error)
        return ""

    def __getitem__(self, name: str) -> LazyArray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_tensors(path: str | Path) -> Checkpoint:
    """Opens a checkpoint: a safetensors or PyTorch file, an index of such, or a folder that holds one.

    Raises:
        CheckpointFileError: nothing is there, or it is damaged, or of another kind, or it would run code.
    """
    path = Path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointFileError(f"There is no file or folder {path}; give a checkpoint ({', '.join(ENDINGS)}).")
    if file_names.is_index(file.name):
        return _open_shards(path, file)
    tensors, metadata, beside = _open_file(file)
    return Checkpoint(path, [file], tensors, metadata, beside)


def shards_of(index: Path) -> dict[str, str]:
    """Returns the name of the shard that each tensor is in, by an index.

    Raises:
        CheckpointFileError: it is no index, or names files elsewhere.
    """
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
        names = sorted(set(places.values()), key=str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        with index.open("rb") as opened:
            refuse_other_kinds(index, opened.read(512))
        raise CheckpointFileError(f"{index} is no index of shards: it has no readable weight_map ({error}).") from error
    elsewhere = [str(name) for name in names if not is_file_name(name)]
    if elsewhere:
        raise CheckpointFileError(f"{index} names shards that are not beside it: {', '.join(elsewhere)}.")
    return places


def _file_in(folder: Path) -> Path:
    """Returns the checkpoint of a folder, a file or an index."""
    entries = sorted(folder.iterdir())
    names = [each.name for each in entries if not each.is_dir()]
    chosen = file_names.choose(names, str(folder))
    if chosen is not None:
        return folder / chosen
    within = [each.name for each in entries if each.is_dir()]
    hint = f" It has the folders {', '.join(within)}: name one of them." if within else ""
    if others := file_names.other_frameworks(names):
        hint = f" {', '.join(others)} is of another framework; take the safetensors file of this model."
    raise CheckpointFileError(f"{folder} holds no checkpoint ({', '.join(ENDINGS)}).{hint}")


def _open_shards(path: Path, index: Path) -> Checkpoint:
    places = shards_of(index)
    names = sorted(set(places.values()))
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise CheckpointFileError(f"{index} names shards that are not beside it: {', '.join(lost)}.")
    shards = {name: _open_file(index.parent / name) for name in names}
    wrong = [tensor for tensor, name in places.items() if tensor not in shards[name][0]]
    extra = [tensor for name in names for tensor in shards[name][0] if places.get(tensor) != name]
    if wrong or extra:
        raise CheckpointFileError(
            f"{index} and its shards disagree: {len(wrong)} tensors are not where the index says "
            f"({', '.join(wrong[:3])}), {len(extra)} are not in the index ({', '.join(extra[:3])})."
        )
    tensors = {tensor: shards[name][0][tensor] for tensor, name in places.items()}
    beside = tuple(line for name in names for line in shards[name][2])
    files = [index, *(index.parent / name for name in names)]
    return Checkpoint(path, files, tensors, shards[names[0]][1] if names else {}, beside)


def _open_file(file: Path) -> tuple[Mapping[str, LazyArray], Mapping[str, str], tuple[str, ...]]:
    """Returns (tensors, header, what lies beside them) of one file."""
    with file.open("rb") as opened:
        start = opened.read(512)
    refuse_other_kinds(file, start)
    if (torch_files.is_torch(start) and file.suffix != ".safetensors") or start.startswith(b"PK\x03\x04"):
        contents = torch_files.read(file)
        return contents.tensors, {}, contents.beside
    return *_open_safetensors(file), ()


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
    odd = {name: kind for name, (_, kind) in shapes.items() if kind not in DTYPES}
    if odd:
        name, kind = next(iter(odd.items()))
        raise CheckpointFileError(
            f"{file} holds {len(odd)} tensors of a type that is not read here, such as {name} ({kind}); "
            f"take a version in one of {', '.join(DTYPES)}."
        )
    return {name: _lazy(file, name, shape, DTYPES[kind]) for name, (shape, kind) in shapes.items()}, metadata


def _lazy(file: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
    def read(take: Callable[[safe_open], np.ndarray]) -> np.ndarray:
        try:
            with safe_open(file, framework="numpy") as opened:
                return take(opened)
        except (SafetensorError, OSError) as error:
            raise CheckpointFileError(f"{file} can no longer be read at {name}: {error}.") from error

    def make_layer(layer: int) -> np.ndarray:
        return read(lambda opened: opened.get_slice(name)[layer])

    return LazyArray(shape, dtype, lambda: read(lambda opened: opened.get_tensor(name)), make_layer if shape else None)
