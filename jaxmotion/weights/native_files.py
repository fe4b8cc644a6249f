"""Native checkpoints: parameters under our paths, as safetensors, in a folder with a description.

The folder holds `parameters.safetensors` (or shards and their index), whose names are '/'-joined paths such as
`denoiser/conv_in/kernel`; `jaxmotion.json`; and, of an imported checkpoint, `kept.safetensors` with the tensors that
are no parameters and `kept_config.json`, so that it goes out again as it came.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.files import atomic_folder, is_file_name
from jaxmotion.foundation.types import Shaped
from jaxmotion.weights import formats
from jaxmotion.weights.checkpoint_format import with_widened_input
from jaxmotion.weights.config_fields import KEPT_PREFIX, MARKS, files_beside
from jaxmotion.weights.diffusers_folder import files_in, write_json
from jaxmotion.weights.file_names import index_name
from jaxmotion.weights.formats import Format, format_of
from jaxmotion.weights.rules import LazyArray, Rules, Tensors, with_dtypes
from jaxmotion.weights.tensor_files import DTYPE_NAMES, DTYPES, Checkpoint, open_tensors
from jaxmotion.weights.write import SHARD_BYTES, write_tensors

DESCRIPTION, PARAMETERS, KEPT, KEPT_CONFIG = "jaxmotion.json", "parameters", "kept", f"{KEPT_PREFIX}config.json"


@dataclasses.dataclass(frozen=True)
class NativeCheckpoint:
    """A folder of parameters under our paths. `format` and `latents` are empty when they did not come from outside.

    latents:  input channels of a widened U-Net that belong to z_t; 0 when it is not widened.
    stem:     the name that the file had outside, without its ending.
    metadata: text by name, from its header.
    dtypes:   types by name of tensors that had another than the parameter they are in, such as one layer of a stack.
    """

    params: Checkpoint
    format: str = ""
    latents: int = 0
    stem: str = "model"
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)
    kept: Mapping[str, LazyArray] = dataclasses.field(default_factory=dict)

    def tensors(self) -> dict[str, LazyArray]:
        """Returns the tensors of the imported checkpoint, by their names there."""
        kind = format_of(self.format)
        if kind is None:
            raise CheckpointFileError(f"{self.params.path} did not come from a format outside that could be restored.")
        tables = _tables(kind, self.latents)
        return {**with_dtypes(formats.write(self.params, tables), self.dtypes), **self.kept}


def write(
    folder: Path, params: Tensors, description: Mapping[str, JsonValue], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes parameters (array-likes by path) under their paths, and their description."""
    write_tensors(folder, PARAMETERS, params, shard_bytes=shard_bytes)
    write_json(folder / DESCRIPTION, {"parameters": len(params), **description})


def import_checkpoint(
    checkpoint: Checkpoint,
    kind: Format,
    destination: Path,
    like: Mapping[str, Shaped] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Writes a checkpoint under our paths, one tensor at a time, in the precision it has; returns the files.

    A parameter of several tensors has a type that holds all of theirs; their own types are noted, as is the header.

    Raises:
        ConversionError: the checkpoint is not whole, or does not fit `like`; nothing is written.
        FileExistsError: the destination holds something already.
    """
    params = formats.read(checkpoint, kind, like)
    rest = formats.buffers(checkpoint, kind)
    widened = "denoiser/conv_condition/kernel" in params
    latents = params["denoiser/conv_in/kernel"].shape[2] if widened else 0
    own = {
        name: DTYPE_NAMES[checkpoint[name].dtype]
        for name, tensor in formats.write(params, _tables(kind, latents)).items()
        if checkpoint[name].dtype != tensor.dtype
    }
    description: dict[str, JsonValue] = {
        "format": kind.name,
        "holds": kind.description,
        "latents": latents,
        "stem": checkpoint.stem,
        "metadata": dict(checkpoint.metadata),
        "dtypes": own,
    }
    with atomic_folder(destination) as folder:
        write(folder, params, description, shard_bytes=shard_bytes)
        if rest:
            write_tensors(folder, KEPT, rest, shard_bytes=shard_bytes)
        config = [checkpoint.path / "config.json"] if (checkpoint.path / "config.json").is_file() else []
        tables = [table for tables in kind.configs.values() for table in tables]
        for file in dict.fromkeys((*config, *files_beside(checkpoint, tables))):
            shutil.copy(file, folder / f"{KEPT_PREFIX}{file.name}")
    return files_in(destination)


def export_parameters(params: Tensors, destination: Path, *, meta: Mapping[str, JsonValue]) -> list[Path]:
    """Writes parameters (array-likes by path) under their own paths, with the experiment as JSON; returns the files.

    Raises:
        FileExistsError: the destination holds something already.
    """
    with atomic_folder(destination) as folder:
        write(folder, params, {"experiment": meta})
    return files_in(destination)


def restore(source: Path, destination: Path, *, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Writes an imported checkpoint as it came, tensor by tensor, as safetensors; returns the files.

    Raises:
        CheckpointFileError: the source did not come from outside.
        FileExistsError: the destination holds something already.
    """
    opened = open_native(source)
    with atomic_folder(destination) as folder:
        header = {"format": "pt", **opened.metadata}
        write_tensors(folder, opened.stem, opened.tensors(), shard_bytes=shard_bytes, metadata=header)
        if (source / KEPT_CONFIG).is_file():
            shutil.copy(source / KEPT_CONFIG, folder / "config.json")
    return files_in(destination)


def is_native(folder: Path) -> bool:
    """Returns whether a path is a folder that `write` or `import_checkpoint` wrote."""
    return (folder / DESCRIPTION).is_file()


def open_any(path: Path) -> tuple[Checkpoint, Format | None]:
    """Opens a public checkpoint or an imported one, with what its header and marks said; None: of no format outside.

    Raises:
        CheckpointFileError: it is damaged, or of no known format.
    """
    if not is_native(path):
        checkpoint = open_tensors(path)
        return checkpoint, formats.detect(checkpoint)
    opened = open_native(path)
    marks = {name: array for name, array in opened.kept.items() if name in MARKS}
    checkpoint = Checkpoint(path, opened.params.files, {**opened.params, **marks}, opened.metadata)
    return checkpoint, format_of(opened.format)


def open_native(folder: Path) -> NativeCheckpoint:
    """Opens a folder that `write` or `import_checkpoint` wrote.

    Raises:
        CheckpointFileError: it is none, or not whole.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        count, name = description["parameters"], description.get("format", "")
        latents, stem = description.get("latents", 0), description.get("stem", "model")
        metadata = {key: str(value) for key, value in description.get("metadata", {}).items()}
        dtypes = {tensor: DTYPES[kind] for tensor, kind in description.get("dtypes", {}).items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointFileError(f"{folder} holds no parameters of jaxmotion: no readable {DESCRIPTION}.") from error
    if not is_file_name(stem):
        raise CheckpointFileError(
            f"{folder / DESCRIPTION}: the stem {stem!r} is no name of a file in one folder; it names what an export "
            "writes. Set it to a plain name, such as model."
        )
    params = _open_stem(folder, PARAMETERS)
    if len(params) != count:
        raise CheckpointFileError(f"{folder} holds {len(params)} parameters; {DESCRIPTION} says {count}.")
    rest = _open_stem(folder, KEPT) if any(folder.glob(f"{KEPT}*.safetensors")) else {}
    return NativeCheckpoint(params, name, latents, stem, metadata, dtypes, rest)


def _tables(kind: Format, latents: int) -> dict[str, Rules]:
    """Returns the rules of a format, for a U-Net that is widened if `latents` is not 0."""
    tables: dict[str, Rules] = dict(kind.parts)
    if latents:
        tables["denoiser"] = with_widened_input(tables["denoiser"], latents, kind.wrapper)
    return tables


def _open_stem(folder: Path, stem: str) -> Checkpoint:
    index = folder / index_name(stem)
    return open_tensors(index if index.is_file() else folder / f"{stem}.safetensors")
