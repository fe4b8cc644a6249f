"""An experiment: a system, its data, its training and its sampling, as one value.

Experiments live in Python files (`configs/NAME.py` holds `full`, `tiny`, ablations, ...), are changed by overrides on
the command line, and are saved as JSON beside the weights, from which they are rebuilt.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxmotion.data.source import DataConfig
from jaxmotion.data.tokenize import Tokenizer
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.evaluation.control_curve import ControlCurve
from jaxmotion.evaluation.evaluation import Evaluation
from jaxmotion.foundation import config_json as saved
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.files import read_json
from jaxmotion.parallel.mesh import MeshSizes
from jaxmotion.runs.config_files import find_config
from jaxmotion.runs.start_from import PretrainedRun, expand_start_from, upgrade_start_from
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.system import System
from jaxmotion.training.config import TrainConfig

_LOG = logging.getLogger(__name__)


@register(upgrade=upgrade_start_from)
@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run needs to be started, repeated and continued."""

    system: System
    """The networks and what they are told."""
    data: DataConfig
    """Where clips come from."""
    tokenizer: Tokenizer
    """How captions become token ids."""
    train: TrainConfig
    """The optimisation and what is logged and saved."""
    pretrained: dict[str, PretrainedSource] = dataclasses.field(default_factory=dict)
    """Weights that the parameters start from, read in this order. Sources that the system or every system can have and
    that are not given here, such as `run`, are added: empty, or as the system declares them."""
    sampling: Sampling = Sampling()
    """How clips are sampled, in previews and afterwards."""
    mesh: MeshSizes = MeshSizes()
    """How the devices are arranged."""
    prompts: tuple[str, ...] = ("",)
    """Prompts of the photos that evaluations animate, in turn."""
    evaluations: dict[str, Evaluation] = dataclasses.field(default_factory=lambda: {"control": ControlCurve()})
    """Measurements of the trained run, by the name of the file that keeps the numbers."""
    workers: int = 0
    """Processes that decode or make clips beside the training process; 0 uses its threads."""

    def __post_init__(self) -> None:
        declared = {"run": PretrainedRun(), **self.system.pretrained()}
        object.__setattr__(self, "pretrained", {**declared, **self.pretrained})
        ours, theirs = (self.system.frames, *self.system.size), (self.data.frames, *self.data.size)
        if ours != theirs:
            raise ValueError(
                "The system and the data must agree on clips (frames, height, width): the system has "
                f"{ours}, the data {theirs}. "
                "Set --system.frames and --data.frames, --system.size and --data.size alike."
            )
        self.system.check_guidance(self.sampling)
        captions = self.system.token_spec
        if captions and captions != (self.tokenizer.vocabulary, self.tokenizer.length):
            raise ValueError(
                f"The text encoder reads {captions[1]} tokens of a vocabulary of {captions[0]}; the tokenizer makes "
                f"{self.tokenizer.length} of {self.tokenizer.vocabulary}. They must be the same."
            )


def load(spec: str) -> Experiment:
    """Returns the experiment of `FILE` or `FILE:NAME`; NAME is `full` by default.

    FILE is the path of a Python file, or the name of a shipped one: `livephoto:tiny`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no experiment of that name.
    """
    file, _, name = spec.partition(":")
    name = name or "full"
    found = load_all(file)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean {file}:{near[0]}?" if near else ""
        raise ValueError(f"{file} has no experiment {name!r}; it has {', '.join(sorted(found))}.{hint}")
    return found[name]


def load_all(file: str | Path) -> dict[str, Experiment]:
    """Returns all experiments of a file by name, in the order in which it makes them.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = find_config(str(file))
    loader = importlib.util.spec_from_file_location(f"jaxmotion_config_{path.stem}", path)
    if loader is None or loader.loader is None:
        raise FileNotFoundError(f"{str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return {key: value for key, value in vars(module).items() if isinstance(value, Experiment)}


def override(experiment: Experiment, arguments: Sequence[str], program: str, description: str) -> Experiment:
    """The experiment changed by command-line overrides such as `--train.steps 20`.

    A misspelt override or `--help` prints its message and leaves by SystemExit.
    """
    return tyro.cli(
        Experiment,
        default=experiment,
        args=expand_start_from(arguments),
        prog=program,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )


def to_json(experiment: Experiment) -> saved.Json:
    """The experiment as JSON values; see `saved`."""
    return saved.to_json(experiment)


def from_json(values: saved.Json) -> Experiment:
    """The experiment of `to_json`.

    Raises:
        ValueError: the values do not describe an experiment of this version.
    """
    try:
        return saved.from_json(_without_idle_guidance(values), Experiment)
    except ValueError as error:
        raise ValueError(f"The saved configuration does not describe an experiment of this version: {error}") from error


def _without_idle_guidance(values: saved.Json) -> saved.Json:
    """Leaves out guidance on conditions without a null, which earlier versions accepted; it never changed a clip."""
    if not {"system", "sampling"} <= values.keys():
        return values
    sampling = saved.from_json(values["sampling"], Sampling)
    if not sampling.guidance_scales:
        return values
    guidable = saved.from_json(values["system"], System).guidable
    kept = tuple((name, scale) for name, scale in sampling.guidance_scales if guidable.get(name, True))
    for name, scale in sampling.guidance_scales:
        if not guidable.get(name, True):
            _LOG.warning(
                "The saved guidance of %g on %r is left out: it does nothing, for none is without.", scale, name
            )
    return {**values, "sampling": saved.to_json(dataclasses.replace(sampling, guidance_scales=kept))}


def read(path: Path) -> Experiment:
    """The experiment saved in a JSON file.

    Raises:
        ValueError: it is no JSON, or describes no experiment of this version; the message names the file and the field.
    """
    values = read_json(path)
    try:
        return from_json(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
