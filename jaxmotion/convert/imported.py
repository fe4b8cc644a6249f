"""Our own files: parameters under our paths, as safetensors, in a folder that says what they are.

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
from typing import Any

from jaxmotion.convert import formats
from jaxmotion.convert.errors import CheckpointFileError
from jaxmotion.convert.files import INDEX, Checkpoint, open_tensors
from jaxmotion.convert.formats import BY_NAME, Format
from jaxmotion.convert.rename import Lazy, Rules
from jaxmotion.convert.write import SHARD_BYTES, write_tensors

DESCRIPTION, PARAMETERS, KEPT, KEPT_CONFIG = "jaxmotion.json", "parameters", "kept", "kept_config.json"


@dataclasses.dataclass(frozen=True)
class Imported:
    """A folder of parameters under our paths. `format` and `latents` are empty when they did not come from outside.

    latents: input channels of a widened U-Net that belong to z_t; 0 when it is not widened.
    stem:    the name that the file had outside, without its ending.
    """

    params: Checkpoint
    format: str = ""
    latents: int = 0
    stem: str = "model"
    kept: Mapping[str, Lazy] = dataclasses.field(default_factory=dict)

    def tensors(self) -> dict[str, Lazy]:
        """The tensors as they came, by their names outside."""
        if self.format not in BY_NAME:
            raise CheckpointFileError(f"{self.params.path} did not come from a format outside that could be restored.")
        tables: dict[str, Rules] = dict(BY_NAME[self.format].parts)
        if self.latents:
            tables["denoiser"] = formats.widened(tables["denoiser"], self.latents)
        return {**formats.write(self.params, tables), **self.kept}


def write(
    folder: Path, params: Mapping[str, Any], description: Mapping[str, Any], *, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Writes parameters (array-likes by path) under their paths; returns the files."""
    files = write_tensors(folder, PARAMETERS, params, shard_bytes=shard_bytes)
    described = folder / DESCRIPTION
    described.write_text(json.dumps({"parameters": len(params), **description}, indent=2) + "\n")
    return [*files, described]


def import_checkpoint(
    checkpoint: Checkpoint,
    kind: Format,
    folder: Path,
    like: Mapping[str, Any] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Writes a checkpoint under our paths, one tensor at a time, in the precision it has; returns the files.

    Raises:
        ConversionError: the checkpoint is not whole, or does not fit `like`; nothing is written.
        FileExistsError: the folder holds something already.
    """
    check_empty(folder)
    params = formats.read(checkpoint, kind, like)
    rest = formats.kept(checkpoint, kind)
    widened = "denoiser/conv_condition/kernel" in params
    latents = params["denoiser/conv_in/kernel"].shape[2] if widened else 0
    first = checkpoint.files[0].name
    stem = first.removesuffix(INDEX) if first.endswith(INDEX) else checkpoint.files[0].stem
    description = {"format": kind.name, "holds": kind.holds, "latents": latents, "stem": stem}
    files = write(folder, params, description, shard_bytes=shard_bytes)
    if rest:
        files += write_tensors(folder, KEPT, rest, shard_bytes=shard_bytes)
    config = checkpoint.path / "config.json"
    if config.is_file():
        files.append(Path(shutil.copy(config, folder / KEPT_CONFIG)))
    return files


def restore(source: Path, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Writes an imported checkpoint as it came, tensor by tensor, as safetensors; returns the files.

    Raises:
        CheckpointFileError: the source did not come from outside.
        FileExistsError: the folder holds something already.
    """
    check_empty(folder)
    opened = open_imported(source)
    files = write_tensors(folder, opened.stem, opened.tensors(), shard_bytes=shard_bytes)
    config = source / KEPT_CONFIG
    return [*files, *([Path(shutil.copy(config, folder / "config.json"))] if config.is_file() else [])]


def is_imported(folder: Path) -> bool:
    """Whether a folder was written here."""
    return (folder / DESCRIPTION).is_file()


def open_imported(folder: Path) -> Imported:
    """The folder that `write` or `import_checkpoint` wrote.

    Raises:
        CheckpointFileError: it is none, or not whole.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        count, name = description["parameters"], description.get("format", "")
        latents, stem = description.get("latents", 0), description.get("stem", "model")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointFileError(f"{folder} holds no parameters of jaxmotion: no readable {DESCRIPTION}.") from error
    params = _opened(folder, PARAMETERS)
    if len(params) != count:
        raise CheckpointFileError(f"{folder} holds {len(params)} parameters; {DESCRIPTION} says {count}.")
    rest = _opened(folder, KEPT) if any(folder.glob(f"{KEPT}*.safetensors")) else {}
    return Imported(params, name, latents, stem, rest)


def check_empty(folder: Path) -> None:
    """Raises FileExistsError if a folder that is to be written holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already and not empty; give another folder, or remove it.")


def _opened(folder: Path, stem: str) -> Checkpoint:
    index = folder / f"{stem}{INDEX}"
    return open_tensors(index if index.is_file() else folder / f"{stem}.safetensors")
