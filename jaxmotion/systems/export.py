"""Exports: what a trained system can be written as, for other programs.

`System.exports` names them. The command line, help and errors are made from that mapping; nothing else knows which
exports there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import jax

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Array, Params
from jaxmotion.parallel.sharding import paths
from jaxmotion.systems.control import ControlValues
from jaxmotion.weights.diffusers_folder import Component
from jaxmotion.weights.native_files import export_parameters
from jaxmotion.weights.rules import ConversionError

Exported = TypeVar("Exported")
"""The class of the system that is exported."""


class ExportableTokenizer(Protocol):
    """A tokenizer that can go into the folder of a pipeline."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a text."""
        ...

    def export(self) -> Component:
        """Returns the tokenizer as a component, its files fetched if need be."""
        ...


@dataclasses.dataclass(frozen=True)
class ExportJob(Generic[Exported]):
    """A trained system, and how it is to be exported.

    params:      all parameters, in the precision that the files will have.
    sampling:    the defaults of the exported pipeline.
    fps:         frames per second of the clips that it was trained on.
    meta:        the experiment as JSON values, to be kept beside the weights.
    destination: a folder that is not there, or is empty; it appears whole or not at all.
    verify:      run the export and ours on the same inputs, which needs PyTorch.
    controls:    values of controls for exports that fix them; the others are at their default.
    """

    system: Exported
    params: Params
    sampling: Sampling
    tokenizer: ExportableTokenizer
    fps: float
    meta: Json
    destination: Path
    verify: bool = True
    controls: ControlValues = dataclasses.field(default_factory=dict)


class Exporter(Protocol):
    """One way to export a system."""

    @property
    def description(self) -> str:
        """One line for help."""
        ...

    @property
    def fixes_controls(self) -> bool:
        """True if the values of controls become a part of the weights."""
        ...

    def __call__(self, job: ExportJob[Any]) -> list[Path]:
        """Writes the files and returns them.

        Raises:
            FileExistsError: the destination is there already.
            ValueError: a part of the system has no form of this kind; the message says which and why.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Export(Generic[Exported]):
    """An exporter made of a function."""

    description: str
    write: Callable[[ExportJob[Exported]], list[Path]]
    fixes_controls: bool = False

    def __call__(self, job: ExportJob[Exported]) -> list[Path]:
        return self.write(job)


def flat_parameters(init: Callable[[Array], Params], params: Params) -> dict[str, Array]:
    """Returns the parameters by path.

    Args:
        init: makes the parameters of the system to export.

    Raises:
        ConversionError: they are not those of this system.
    """
    flat, shapes = paths(params), paths(jax.eval_shape(init, jax.random.key(0)))
    wrong = [
        f"{path}: {list(flat[path].shape)} came, {list(shape.shape)} is needed"
        for path, shape in shapes.items()
        if path in flat and tuple(flat[path].shape) != shape.shape
    ]
    missing, unexpected = shapes.keys() - flat.keys(), flat.keys() - shapes.keys()
    if missing or unexpected or wrong:
        raise ConversionError(sorted(missing), sorted(unexpected), wrong, source="The system to export")
    return flat


def _write_native(job: ExportJob[Any]) -> list[Path]:
    return export_parameters(paths(job.params), job.destination, meta=job.meta)


SAFETENSORS = Export[Any]("all parameters under our own paths", _write_native)
