"""An experiment: a system, its data, its training and its sampling, as one value.

Experiments live in Python files (`configs/NAME.py` holds `full`, `tiny`, ablations, ...), are changed by overrides on
the command line, and are saved as JSON beside the weights, from which they are rebuilt.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cattrs
import tyro
from cattrs.gen import make_dict_structure_fn

from jaxmotion.convert.start import StartFrom
from jaxmotion.data.clips import Clips
from jaxmotion.data.synthetic import Synthetic
from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer
from jaxmotion.parallel.mesh import MeshSizes
from jaxmotion.systems.system import Sampling, System
from jaxmotion.train.config import TrainConfig

_TAG = "class"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run needs to be started, repeated and continued."""

    system: System
    """The networks and what they are told."""
    data: Clips | Synthetic
    """Where clips come from."""
    tokenizer: ClipTokenizer | HashTokenizer
    """How captions become token ids."""
    train: TrainConfig
    """The optimisation and what is logged and saved."""
    start_from: StartFrom = StartFrom()
    """Public weights that the parameters start from."""
    sampling: Sampling = Sampling()
    """How clips are sampled, in previews and afterwards."""
    mesh: MeshSizes = MeshSizes()
    """How the devices are arranged."""
    prompts: tuple[str, ...] = ("",)
    """What the control curve asks of its photos, in turn."""
    workers: int = 0
    """Processes that decode or make clips beside the training process; 0 uses its threads."""

    def __post_init__(self) -> None:
        ours, theirs = (self.system.frames, *self.system.size), (self.data.frames, *self.data.size)
        if ours != theirs:
            raise ValueError(
                "The system and the data must agree on clips (frames, height, width): the system has "
                f"{ours}, the data {theirs}. "
                "Set --system.frames and --data.frames, --system.size and --data.size alike."
            )
        captions = self.system.captions
        if captions and captions != (self.tokenizer.vocabulary, self.tokenizer.length):
            raise ValueError(
                f"The text encoder reads {captions[1]} tokens of a vocabulary of {captions[0]}; the tokenizer makes "
                f"{self.tokenizer.length} of {self.tokenizer.vocabulary}. They must be the same."
            )


def load(spec: str) -> Experiment:
    """The experiment named by `FILE` or `FILE:NAME`; NAME is `full` unless said.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no experiment of that name.
    """
    file, _, name = spec.partition(":")
    path, name = Path(file), name or "full"
    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {file!r}; give a Python file such as configs/livephoto.py.")
    loader = importlib.util.spec_from_file_location(f"jaxmotion_config_{path.stem}", path)
    if loader is None or loader.loader is None:
        raise FileNotFoundError(f"{file!r} is not a Python file; give one such as configs/livephoto.py.")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Experiment)}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean {path}:{near[0]}?" if near else ""
        raise ValueError(f"{path} has no experiment {name!r}; it has {', '.join(sorted(found))}.{hint}")
    return found[name]


def override(experiment: Experiment, arguments: Sequence[str], program: str, description: str) -> Experiment:
    """The experiment changed by command-line overrides such as `--train.steps 20`.

    A misspelt override or `--help` prints its message and leaves by SystemExit.
    """
    return tyro.cli(
        Experiment,
        default=experiment,
        args=list(arguments),
        prog=program,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON values. Every part names its class, so that it can be rebuilt."""
    return _converter().unstructure(experiment)


def from_json(values: dict[str, Any]) -> Experiment:
    """The experiment of `to_json`.

    Raises:
        ValueError: the values do not describe an experiment of this version.
    """
    try:
        return _structure(values, Experiment)
    except (cattrs.BaseValidationError, ValueError, TypeError, AttributeError) as error:
        reason = "; ".join(cattrs.transform_error(error, format_exception=_said))
        raise ValueError(
            f"The saved configuration does not describe an experiment of this version: {reason}"
        ) from error


def _said(error: BaseException, kind: type | None) -> str:
    """An error of cattrs in its usual words, and ours in their own."""
    return str(error) if type(error) is ValueError else cattrs.v.format_exception(error, kind)


def read(path: Path) -> Experiment:
    """The experiment saved in a JSON file."""
    return from_json(json.loads(path.read_text()))


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@functools.cache
def _converter() -> cattrs.Converter:
    """Dataclasses with a class tag; everything else as cattrs does it."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def unstructure(part: Any) -> dict[str, Any]:
        values = {f.name: converter.unstructure(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {_TAG: f"{type(part).__module__}:{type(part).__qualname__}", **values}

    converter.register_unstructure_hook_func(_is_part, unstructure)
    converter.register_structure_hook_func(_may_be_part, _structure)
    return converter


def _may_be_part(kind: Any) -> bool:
    """Whether a field of this type holds a tagged dataclass (one class, a base class, a union of them, or anything)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_may_be_part(option) for option in typing.get_args(kind))
    return kind is Any or _is_part(kind) or (isinstance(kind, type) and kind.__module__.startswith("jaxmotion."))


def _structure(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict) or _TAG not in value:
        raise ValueError(f"a part of type {kind} must be a JSON object with the key {_TAG!r}")
    module, _, name = value[_TAG].partition(":")
    if not module.startswith("jaxmotion."):
        raise ValueError(f"{value[_TAG]!r} is no part of jaxmotion")
    part = getattr(importlib.import_module(module), name)
    build = make_dict_structure_fn(part, _converter(), _cattrs_forbid_extra_keys=True)
    return build({key: item for key, item in value.items() if key != _TAG}, part)
