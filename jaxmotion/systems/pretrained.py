"""Starting a system from public weights: which file gives which of its parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.nn.low_rank import LORA, pairs
from jaxmotion.systems.lora import LoRA
from jaxmotion.systems.system import System
from jaxmotion.weights import formats, lora, native_files
from jaxmotion.weights.hub import locate, names_repository
from jaxmotion.weights.rules import ConversionError, LazyArray
from jaxmotion.weights.tensor_files import open_tensors


@register()
@dataclasses.dataclass(frozen=True)
class StartFrom:
    """Public weights to start from. Each is a file, a folder, or a repository of the Hugging Face hub; empty: fresh.

    Files and folders may be in any format that `python -m jaxmotion.convert inspect` knows; of a whole pipeline each
    field takes its own part. A repository is ORG/NAME, ORG/NAME@REVISION or ORG/NAME:PATH/IN/IT. Parameters that no
    source speaks of, such as new input columns and new layers, stay fresh.
    """

    backbone: str = ""
    """The U-Net, or the transformer of CogVideoX."""
    motion_module: str = ""
    """Motion modules: AnimateDiff's own files or a MotionAdapter, also one with input columns."""
    vae: str = ""
    """The autoencoder between pixels and latents."""
    text_encoder: str = ""
    """The text encoder."""
    content_encoder: str = ""
    """The image encoder, DINOv2."""
    lora: str = ""
    """A LoRA file in any layout. A system of LoRA goes on from it; any other has it merged into its weights."""
    run: str = ""
    """The folder of another run of ours, read before the others; what both have is taken."""
    run_weights: Literal["ema", "live"] = "ema"
    """Which weights of that run: `ema` or `live`."""

    def __post_init__(self) -> None:
        if self.run_weights not in ("ema", "live"):
            raise ValueError(f"start_from.run_weights is {self.run_weights!r}; it can be 'ema' or 'live'.")

    @property
    def sources(self) -> dict[str, str]:
        """What is given of the public weights, by field."""
        return {name: source for name in _FIELDS if (source := getattr(self, name))}


@dataclasses.dataclass(frozen=True)
class _Field:
    """part: whose parameters it gives. folders: where a pipeline keeps it. takes: which of their paths."""

    part: str
    folders: tuple[str, ...]
    takes: str = r".*"


_FIELDS = {
    "backbone": _Field("denoiser", ("unet", "transformer")),
    "motion_module": _Field("denoiser", ("motion_adapter",), r"/motion/|/conv_condition/"),
    "vae": _Field("codec", ("vae",)),
    "text_encoder": _Field("text_encoder", ("text_encoder",)),
    "content_encoder": _Field("content_encoder", ("content_encoder",)),
}


def load(
    start: StartFrom, system: System, like: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Array-likes by path for the parameters that the sources give, each read when it is asked for.

    Args:
        like: shapes by path of all parameters of the system.
        base: what is there before any source is read.

    Raises:
        CheckpointFileError: a source is missing, damaged, or holds another network.
        ConversionError: its sizes are not those of the system.
    """
    made: dict[str, Any] = dict(base or {})
    for name, source in start.sources.items():
        made.update(_from_source(name, source, like))
    return {**made, **(_from_lora(start.lora, system, like, made) if start.lora else {})}


def check(start: StartFrom, like: Mapping[str, Any]) -> dict[str, str]:
    """What the sources would give, in words by field, without fetching any of them.

    Raises:
        CheckpointFileError: a source that is here is damaged or holds another network.
        ConversionError: its sizes are not those of the system.
    """
    found = {}
    for name, source in start.sources.items():
        try:
            locate(source, *_FIELDS[name].folders, fetch=False)
        except CheckpointFileError:
            if not names_repository(source):
                raise
            found[name] = f"{source}, fetched from the Hugging Face hub when training starts"
        else:
            found[name] = f"{source}: {len(_from_source(name, source, like))} arrays"
    return found


def _from_source(name: str, source: str, like: Mapping[str, Any]) -> dict[str, LazyArray]:
    field = _FIELDS[name]
    mine = {path: array for path, array in like.items() if path.startswith(f"{field.part}/")}
    if not mine:
        raise CheckpointFileError(f"start_from.{name} is {source}, but this system has no {field.part}.")
    path = locate(source, *field.folders)
    wanted = {key: array for key, array in mine.items() if re.search(field.takes, key)}
    found = _of_ours(path, wanted) if native_files.is_native(path) else _of_theirs(name, path, field, mine)
    taken = {key: array for key, array in found.items() if key in wanted}
    if not taken:
        raise CheckpointFileError(f"{path} gives nothing that start_from.{name} could take from it.")
    return taken


def _from_lora(source: str, system: System, like: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """The factors of a file for a system of LoRA; for any other, the kernels with the LoRA added."""
    checkpoint = open_tensors(locate(source))
    own = {path: array for path, array in like.items() if not path.startswith(f"{LORA}/")}
    factors = lora.from_file(
        checkpoint, unflatten_dict(own, sep="/"), metadata=checkpoint.metadata, source=str(checkpoint.path)
    )
    kernels = [path for path, _, _ in pairs(factors.params)]
    if not isinstance(system, LoRA):
        lacking = [path for path in kernels if path not in made]
        if lacking:
            raise CheckpointFileError(
                f"{checkpoint.path} changes {len(lacking)} kernels, such as {lacking[0]}, that start_from gives no "
                "weights for; give start_from.backbone, or what they belong to."
            )
        return dict(lora.add(made, factors))
    refitted = lora.refit(factors, system.rank, system.alpha, jax.random.key(0))
    found = {f"{LORA}/{path}": array for path, array in flatten_dict(refitted, sep="/").items()}
    others = [path for path in found if path not in like]
    if others:
        raise CheckpointFileError(
            f"{checkpoint.path} has factors for {len(others)} kernels that this LoRA leaves alone, such as "
            f"{others[0]}; widen system.paths."
        )
    return found


def _of_ours(folder: Path, wanted: Mapping[str, Any]) -> dict[str, LazyArray]:
    found = {path: array for path, array in native_files.open_native(folder).params.items() if path in wanted}
    wrong = [
        f"{path}: {list(array.shape)} came, {list(wanted[path].shape)} is needed"
        for path, array in found.items()
        if tuple(array.shape) != tuple(wanted[path].shape)
    ]
    if wrong:
        raise ConversionError(wrong_shape=wrong, source=str(folder))
    return found


def _of_theirs(name: str, path: Path, field: _Field, mine: Mapping[str, Any]) -> dict[str, LazyArray]:
    checkpoint = open_tensors(path)
    kind = formats.detect(checkpoint)
    if field.part not in kind.parts_of(checkpoint):
        fitting = "".join(f"\n  {each.description}" for each in formats.FORMATS if field.part in each.parts)
        raise CheckpointFileError(
            f"{path} is {kind.description}, and start_from.{name} needs the {field.part}. These would do:{fitting}"
        )
    return formats.read(checkpoint, kind, mine)
