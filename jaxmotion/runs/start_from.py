"""Starting from another run, and the earlier spelling of `pretrained`: `start_from`.

Configurations of earlier versions have one field, `start_from`, with a fixed list of sources. The flags that set them,
such as `--start-from.run DIR`, remain as short forms of `--pretrained.run.source DIR`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxmotion.foundation.config_json import Json, register, to_json
from jaxmotion.parallel import sharding
from jaxmotion.runs.calibration import read_calibration
from jaxmotion.systems import pretrained
from jaxmotion.systems.lora import PretrainedLoRA
from jaxmotion.systems.pretrained import Arrays, PretrainedSource
from jaxmotion.systems.system import System
from jaxmotion.training import restore

_SOURCES = {
    "backbone": pretrained.backbone,
    "motion_module": pretrained.motion_module,
    "vae": pretrained.vae,
    "text_encoder": pretrained.text_encoder,
    "content_encoder": pretrained.content_encoder,
    "lora": PretrainedLoRA,
}
_FLAG = "--start-from."


@register()
@dataclasses.dataclass(frozen=True)
class PretrainedRun(PretrainedSource):
    """Another run of ours: all parameters that both have are taken."""

    source: str = ""
    """The folder of the run; empty: none."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of that run: the running mean, or the latest themselves."""

    def __post_init__(self) -> None:
        if self.weights not in ("ema", "raw"):
            raise ValueError(f"The weights of a run are {self.weights!r}; they can be 'ema' or 'raw'.")

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        if not self.source:
            return {}
        saved = sharding.paths(restore.restore_params(Path(self.source), weights=self.weights))
        found = {path: array for path, array in saved.items() if path in shapes}
        wrong = [path for path, array in found.items() if tuple(array.shape) != tuple(shapes[path].shape)]
        if wrong or not found:
            what = f"other shapes of {', '.join(wrong[:5])}" if wrong else "none of the parameters"
            raise ValueError(f"pretrained.run is {self.source}, which has {what} of this system.")
        return found

    def describe(self, system: System, shapes: Arrays) -> str:
        if not self.source:
            return ""
        step = restore.latest_step(Path(self.source))
        if step is None:
            raise ValueError(f"pretrained.run is {self.source}, which holds no complete checkpoint.")
        return f"{self.source}, its {self.weights} weights of step {step}"

    def calibration(self) -> Json | None:
        return read_calibration(Path(self.source)) if self.source else None


def upgrade_start_from(values: Json) -> Json:
    """Returns JSON values of an experiment with the field `start_from` of earlier versions as `pretrained`."""
    if "start_from" not in values:
        return values
    rest, old = {name: value for name, value in values.items() if name != "start_from"}, values["start_from"]
    run = PretrainedRun(old.get("run", ""), "ema" if old.get("run_weights", "ema") == "ema" else "raw")
    given = {name: make(old[name]) for name, make in _SOURCES.items() if old.get(name)}
    return {**rest, "pretrained": {name: to_json(source) for name, source in {"run": run, **given}.items()}}


def expand_start_from(arguments: Sequence[str]) -> list[str]:
    """Returns command-line arguments with `--start-from.NAME VALUE` as `--pretrained.NAME.source VALUE`."""
    expanded, arguments = [], list(arguments)
    for index, argument in enumerate(arguments):
        before = arguments[index - 1].replace("_", "-") if index else ""
        flag, equals, value = argument.partition("=")
        flag = flag.replace("_", "-")
        if before == f"{_FLAG}run-weights" and argument == "live":
            expanded.append("raw")
        elif flag == f"{_FLAG}run-weights":
            expanded.append(f"--pretrained.run.weights{equals}{'raw' if value == 'live' else value}")
        elif flag.startswith(_FLAG):
            expanded.append(f"--pretrained.{flag.removeprefix(_FLAG)}.source{equals}{value}")
        else:
            expanded.append(argument)
    return expanded
