"""Opens LoRA files, and folders of PEFT and of diffusers' training scripts that hold one."""

from __future__ import annotations

import json
from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.lora_settings import CONFIG, HEADER, read_config
from jaxmotion.weights.rules import LazyArray
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors

_PEFT = ("adapter_model.safetensors", "adapter_model.bin")
FILES = (*_PEFT, "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
"""What PEFT and diffusers call their files, in the order of preference."""


def open_lora(path: str | Path) -> Checkpoint:
    """Opens a LoRA: a file, or a folder that holds one, or one for each component (`unet`, `text_encoder`).

    PEFT's settings beside the file are in the header that is returned, where diffusers keeps them.

    Raises:
        CheckpointFileError: nothing is there, or it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return _open(path, path)
    own = next((path / name for name in FILES if (path / name).is_file()), None)
    if own is None and (parts := _components(path)):
        return _join(path, parts)
    return _open(path, own or path)


def holds_lora(folder: Path) -> bool:
    """Returns whether a folder is one of PEFT's or of diffusers' training scripts, by the names of its files."""
    return folder.is_dir() and (any((folder / name).is_file() for name in FILES) or bool(_components(folder)))


def _open(path: Path, file: Path) -> Checkpoint:
    checkpoint = open_tensors(file)
    folder = checkpoint.files[0].parent
    peft = file.name in _PEFT
    others = not peft and any((folder / name).is_file() for name in _PEFT)  # then the settings are theirs
    mine = peft or any(".lora_A" in name for name in checkpoint)
    if others or not mine or HEADER in checkpoint.metadata or not (folder / CONFIG).is_file():
        return checkpoint
    header = _header(read_config(folder / CONFIG))
    return Checkpoint(path, checkpoint.files, checkpoint, {**checkpoint.metadata, **header})


def _header(settings: Json) -> dict[str, str]:
    return {HEADER: json.dumps(settings)}


def _components(folder: Path) -> list[Path]:
    return sorted(each.parent for each in folder.glob(f"*/{CONFIG}"))


def _join(path: Path, folders: list[Path]) -> Checkpoint:
    """Returns the LoRA of several components as one, their names before those of the tensors and settings."""
    tensors: dict[str, LazyArray] = {}
    settings: Json = {}
    files: list[Path] = []
    for folder in folders:
        part = open_lora(folder)
        files += part.files
        names = {name: name.removeprefix("base_model.model.") for name in part}
        tensors.update({f"{folder.name}.{name}": part[whole] for whole, name in names.items()})
        own = json.loads(part.metadata.get(HEADER, "{}"))
        settings.update({f"{folder.name}.{name}": value for name, value in own.items()})
    if not tensors:
        raise CheckpointFileError(f"{path} holds no LoRA: its folders are empty.")
    return Checkpoint(path, files, tensors, _header(settings))
