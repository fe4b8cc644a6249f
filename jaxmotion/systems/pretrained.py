"""Sources of pretrained weights: which checkpoint gives which parameters of a system.

An experiment has one dictionary of them, `pretrained`. They are read in its order, and later ones win. A source that is
none of these is a registered dataclass of its own: a `PretrainedSource` with a `load`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import formats, native_files
from jaxmotion.weights.config_fields import Difference, find_differences
from jaxmotion.weights.hub import is_here, locate
from jaxmotion.weights.rules import ConversionError
from jaxmotion.weights.tensor_files import open_tensors

if TYPE_CHECKING:
    from jaxmotion.systems.system import System

Arrays = Mapping[str, Any]
"""Array-likes by '/'-joined parameter path, with `shape`, `dtype` and `__array__`."""
EVERYTHING = r".*"
"""The regular expression of all paths."""


@register()
@dataclasses.dataclass(frozen=True)
class PretrainedSource:
    """Base of the sources."""

    source: str = ""
    """What is read; empty: nothing, and the parameters stay fresh."""
    accepts: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """Fields of the files beside the weights, such as `beta_schedule`, in which the experiment means to differ."""

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        """Returns parameters by path, each read when it is asked for; none when `source` is empty.

        Args:
            shapes: shapes by path of all parameters of the system.
            loaded: parameters that the sources before this one have given.

        Raises:
            CheckpointFileError: the source is missing, damaged, or holds another network.
            ConversionError: its sizes are not those of the system.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it loads.")

    def describe(self, system: System, shapes: Arrays) -> str:
        """Returns a line about what would be loaded, without fetching anything; empty when `source` is.

        Raises:
            CheckpointFileError: a source that is on this machine is damaged or holds another network.
            ConversionError: its sizes are not those of the system.
        """
        return self.source

    def differences(self, values: Mapping[str, object], *, fetch: bool = True) -> list[Difference]:
        """Returns where what lies beside the weights says otherwise than an experiment; nothing by default.

        Args:
            values: the config values of the experiment by flag, such as `system.unet`, the outer ones first.
            fetch: whether what is not on this machine is fetched; otherwise nothing is compared then.

        Raises:
            CheckpointFileError: the source is missing or damaged.
        """
        return []

    @property
    def whole_part(self) -> str:
        """The top-level key of parameters all of which it gives, whatever else there is; empty: none."""
        return ""

    def calibration(self) -> Json | None:
        """Returns what was measured on the training clips of an earlier run, which then stays valid; None: nothing."""
        return None


@register()
@dataclasses.dataclass(frozen=True)
class Pretrained(PretrainedSource):
    """Public weights of one part of a system, in any format that `python -m jaxmotion.convert inspect` knows.

    Parameters that the checkpoint does not have, such as new input columns and new layers, stay fresh.
    """

    source: str = ""
    """A file, a folder, or a repository of the Hugging Face hub as ORG/NAME, ORG/NAME@REVISION or ORG/NAME:PATH/IN/IT;
    empty: fresh."""
    part: str = "denoiser"
    """The top-level key of the parameters that it gives."""
    folders: tuple[str, ...] = ()
    """Subfolders in which a whole pipeline may keep this part; the first that is there is read."""
    takes: str = EVERYTHING
    """Regular expression searched in our paths; everything else in the checkpoint is ignored, so that it may hold more
    layers than the system."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.takes)
        except re.error as error:
            raise ValueError(f"takes is {self.takes!r}, which is no regular expression: {error}.") from error

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        if not self.source:
            return {}
        part = {path: shape for path, shape in shapes.items() if path.startswith(f"{self.part}/")}
        if not part:
            raise CheckpointFileError(f"{self.source} is given, but this system has no {self.part}.")
        path = locate(self.source, *self.folders)
        wanted = {key: shape for key, shape in part.items() if re.search(self.takes, key)}
        found = _read_native(path, wanted) if native_files.is_native(path) else self._read_public(path, part)
        taken = {key: array for key, array in found.items() if key in wanted}
        if not taken:
            raise CheckpointFileError(f"{path} has no parameters of the {self.part} that could be taken from it.")
        return taken

    @property
    def whole_part(self) -> str:
        return self.part if self.source and self.takes == EVERYTHING else ""

    def differences(self, values: Mapping[str, object], *, fetch: bool = True) -> list[Difference]:
        if not self.source or not (fetch or is_here(self.source, *self.folders)):
            return []
        path = locate(self.source, *self.folders)
        checkpoint, kind = native_files.open_any(path)
        tables = kind.configs.get(self.part, ()) if kind else ()
        return find_differences(checkpoint, tables, values)

    def describe(self, system: System, shapes: Arrays) -> str:
        if not self.source:
            return ""
        if not is_here(self.source, *self.folders):
            return f"{self.source}, fetched from the Hugging Face hub when training starts"
        return f"{self.source}: {len(self.load(system, shapes, {}))} arrays"

    def _read_public(self, path: Path, shapes: Arrays) -> Arrays:
        checkpoint = open_tensors(path)
        kind = formats.detect(checkpoint)
        if self.part not in kind.parts_of(checkpoint):
            if self.part in kind.parts:
                raise CheckpointFileError(
                    f"{path} is {kind.description}, but a file without the {self.part}. Give that part another source, "
                    f"or none: it then starts fresh."
                )
            fitting = "".join(f"\n  {each.description}" for each in formats.FORMATS if self.part in each.parts)
            raise CheckpointFileError(
                f"{path} is {kind.description}, and the {self.part} is needed. These would do:{fitting}"
            )
        return formats.read(checkpoint, kind, shapes, takes=self.takes)


def _read_native(folder: Path, wanted: Arrays) -> Arrays:
    """Returns those of the wanted parameters that a folder in our own format has."""
    found = {path: array for path, array in native_files.open_native(folder).params.items() if path in wanted}
    wrong = [
        f"{path}: {list(array.shape)} came, {list(wanted[path].shape)} is needed"
        for path, array in found.items()
        if tuple(array.shape) != tuple(wanted[path].shape)
    ]
    if wrong:
        raise ConversionError(wrong_shape=wrong, source=str(folder))
    return found


def backbone(source: str = "", accepts: tuple[str, ...] = ()) -> Pretrained:
    """Weights of a denoiser: a U-Net of Stable Diffusion or a transformer of CogVideoX."""
    return Pretrained(source, "denoiser", ("unet", "transformer"), accepts=accepts)


def motion_module(source: str = "") -> Pretrained:
    """Weights of motion modules: AnimateDiff's own files or a MotionAdapter, also one with input columns."""
    return Pretrained(source, "denoiser", ("motion_adapter",), r"/motion/|/conv_condition/")


def vae(source: str = "") -> Pretrained:
    """Weights of the autoencoder between pixels and latents."""
    return Pretrained(source, "codec", ("vae",))


def text_encoder(source: str = "") -> Pretrained:
    """Weights of the text encoder."""
    return Pretrained(source, "text_encoder", ("text_encoder",))


def content_encoder(source: str = "") -> Pretrained:
    """Weights of an image encoder whose tokens are a condition."""
    return Pretrained(source, "content_encoder", ("content_encoder",))
