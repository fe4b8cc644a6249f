"""Fields of the files beside a checkpoint that decide what its network computes and change no tensor's shape.

The heads of an attention, the scaling of latents, what is predicted: two checkpoints whose tensors are alike can differ
in these. `config.json`, `scheduler_config.json` and the header of a single file say them. The table of a network
(`tables/`) owns which fields mean what (`ConfigTable`); here they are read and compared with an experiment's values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jaxmotion.foundation.config_json import Json, JsonValue
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.tensor_files import Checkpoint

HEADER = "its header"
"""In place of a file's name: the metadata of a single file, and the tensors that are only marks."""
MARKS = ("v_pred", "ztsnr")
"""Names of tensors, mostly empty, by which tools mark a single file; they are no parameters in any format."""
KEPT_PREFIX = "kept_"
"""Begins the names of such files in the folder of an imported checkpoint."""
SIDECAR = "parameterization"
"""A line of the `.yaml` beside a single file, in which older tools say what is predicted; read with the header."""


class Unsaid:
    """The value of a field that a file does not have and that has no default, or that does not matter here."""

    def __repr__(self) -> str:
        return "nothing"


UNSAID = Unsaid()
Value: TypeAlias = "JsonValue | Unsaid"


@dataclasses.dataclass(frozen=True)
class ConfigField:
    """A field of a file, and the same of one of our config values.

    name:    the field.
    default: what its class takes where a file has no such field; UNSAID: nothing is compared then.
    ours:    the same of our config value, in the terms of the file; UNSAID: it does not matter to these sizes.
    flag:    the name of the field of our value that sets it; empty: none does.
    decides: whether the network computes something else than it was trained for when they differ.
    read:    the field in the file, where it is not simply its value.
    """

    name: str
    default: Value
    ours: Callable[[Any], Value]
    flag: str = ""
    decides: bool = True
    read: Callable[[Json], Value] | None = None

    def of(self, config: Json) -> Value:
        """Returns what a file says, or would be taken to say."""
        if self.read is not None:
            return self.read(config)
        return config.get(self.name, self.default)


def attribute(name: str, default: Value, flag: str, *, decides: bool = True) -> ConfigField:
    """A field that is a field of our value, too."""
    return ConfigField(name, default, lambda value: getattr(value, flag), flag, decides)


def fixed(**fields: JsonValue) -> tuple[ConfigField, ...]:
    """Fields that have these values in every network that is read here; files without them mean the same."""
    return tuple(ConfigField(name, value, lambda _, value=value: value) for name, value in fields.items())


@dataclasses.dataclass(frozen=True)
class ConfigTable:
    """The fields of one file that speak of one kind of our config values.

    of:      the class (or protocol) of that value.
    fields:  what is compared.
    file:    the name of the file, in or beside the folder of the checkpoint; or HEADER.
    inside:  the key under which the fields stand in files that describe several networks.
    alike:   whether a file and a value mean the same, however their fields are spelled; then nothing is compared.
    """

    of: type
    fields: tuple[ConfigField, ...]
    file: str = "config.json"
    inside: str = ""
    alike: Callable[[Json, Any], bool] = lambda config, value: False


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field in which a file and an experiment differ.

    file:  where it stands.
    field: its name there.
    theirs, ours: both values.
    flag:  of the value in the experiment, such as `system.unet.heads`; empty: nothing sets it.
    decides: whether the numbers would be wrong.
    """

    file: str
    field: str
    theirs: Value
    ours: Value
    flag: str
    decides: bool

    def __str__(self) -> str:
        where = f" ({self.flag})" if self.flag else "; nothing here sets it otherwise"
        return f"{self.file} says {self.field} {_show(self.theirs)}; the experiment has {_show(self.ours)}{where}"


def find_differences(
    checkpoint: Checkpoint, tables: Sequence[ConfigTable], values: Mapping[str, object]
) -> list[Difference]:
    """Returns where the files beside a checkpoint, or its header, say otherwise than an experiment.

    Args:
        values: the config values of the experiment by flag, the outer ones first; the first of a table's class counts.

    Raises:
        CheckpointFileError: a file is damaged.
    """
    found = []
    for table in tables:
        file, config = _read(checkpoint, table)
        flag = next((flag for flag, value in values.items() if isinstance(value, table.of)), None)
        if config is None or flag is None or table.alike(config, values[flag]):
            continue
        for field in table.fields:
            theirs, ours = field.of(config), field.ours(values[flag])
            if not _same(theirs, ours):
                setter = f"{flag}.{field.flag}" if field.flag else ""
                found.append(Difference(file, field.name, theirs, ours, setter, field.decides))
    return found


def said(checkpoint: Checkpoint, tables: Sequence[ConfigTable]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Yields each file beside a checkpoint and the fields that it says of its network.

    Raises:
        CheckpointFileError: a file is damaged.
    """
    fields: dict[str, dict[str, JsonValue]] = {}
    for table in tables:
        file, config = _read(checkpoint, table)
        if config is not None:
            values = {field.name: field.of(config) for field in table.fields if field.read or field.name in config}
            here = fields.setdefault(file, {})
            here |= {name: value for name, value in values.items() if not isinstance(value, Unsaid)}
    yield from ((file, values) for file, values in fields.items() if values)


def files_beside(checkpoint: Checkpoint, tables: Sequence[ConfigTable]) -> list[Path]:
    """Returns the files in and beside the folder of a checkpoint that say something of its network."""
    names = dict.fromkeys(table.file for table in tables if table.file != HEADER)
    return [path for name in names if (path := _find(checkpoint, name)) is not None]


def _read(checkpoint: Checkpoint, table: ConfigTable) -> tuple[str, Json | None]:
    """Returns the name of a table's file and its content; None where there is no such file."""
    if table.file == HEADER:
        return f"{checkpoint.path} in {HEADER}", _header(checkpoint)
    path = _find(checkpoint, table.file)
    if path is None:
        return table.file, None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        content = config.get(table.inside, config)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointFileError(f"{path} is no readable config of a network: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise CheckpointFileError(f"{path} is no config of a network: it holds no JSON object. Fetch it again.")
    return str(path), content


def _find(checkpoint: Checkpoint, file: str) -> Path | None:
    """Returns a file in or beside the folder of a checkpoint, or as an import has kept it."""
    folder = checkpoint.files[0].absolute().parent
    places = (folder / file, folder / f"{KEPT_PREFIX}{Path(file).name}")
    return next((place.parent.resolve() / place.name for place in places if place.is_file()), None)


def _header(checkpoint: Checkpoint) -> Json:
    """Returns the metadata of a file, its marks, and what is said to be predicted in the `.yaml` beside it."""
    keys = dict(line.split(": ", 1) for line in checkpoint.beside if ": " in line)  # of PyTorch files: `v_pred: True`
    marks: Json = {name: True for name in MARKS if name in checkpoint or keys.get(name, "False") != "False"}
    beside = checkpoint.files[0].with_suffix(".yaml")
    if beside.is_file():
        line = re.search(rf"^\s*{SIDECAR}\s*:\s*[\"']?(\w+)", beside.read_text(errors="replace"), re.MULTILINE)
        marks |= {SIDECAR: line[1]} if line else {}
    return {**checkpoint.metadata, **marks}


def _same(theirs: Value, ours: Value) -> bool:
    if isinstance(theirs, Unsaid) or isinstance(ours, Unsaid):
        return True
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        return len(theirs) == len(ours) and all(map(_same, theirs, ours))
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    return theirs == ours


def _show(value: Value) -> str:
    return repr(value) if isinstance(value, Unsaid) else json.dumps(value, ensure_ascii=False)
