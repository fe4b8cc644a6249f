"""The formats of public checkpoints: all that the files in `tables/` bring, detection, reading and writing.

Every module of `tables` may have `FORMATS`, a tuple of `Format`, and `LORA_PARTS`, a tuple of `LoRAPart`. A new
network is one new file there.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import foreign, tables
from jaxmotion.weights.checkpoint_format import WRAPPED, Format, Parts
from jaxmotion.weights.config_fields import MARKS
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import (
    ConversionError,
    LazyArray,
    Rules,
    Shaped,
    Tensors,
    parameter_paths_of,
    parameters,
    paths_with_rules,
    shapes_of,
    tensors_of,
)
from jaxmotion.weights.tensor_files import Checkpoint

_TABLES = [importlib.import_module(f"{tables.__name__}.{info.name}") for info in pkgutil.iter_modules(tables.__path__)]

FORMATS: tuple[Format, ...] = tuple(each for table in _TABLES for each in getattr(table, "FORMATS", ()))
BY_NAME = {each.name: each for each in FORMATS}
LORA_PARTS: tuple[LoRAPart, ...] = tuple(each for table in _TABLES for each in getattr(table, "LORA_PARTS", ()))
"""What LoRA files call the parts of all networks that have public ones."""


def detect(checkpoint: Checkpoint) -> Format:
    """Returns the format of a checkpoint.

    Raises:
        CheckpointFileError: it is of no known format.
    """
    if what := foreign.describe(checkpoint):
        raise CheckpointFileError(f"{checkpoint.path} is {what}.")
    found = _detect(checkpoint)
    if found is None:
        names = ", ".join(list(checkpoint)[:4])
        known = "".join(f"\n  {each.name}: {each.description}" for each in FORMATS)
        raise CheckpointFileError(
            f"{checkpoint.path} is of no known format; it holds {len(checkpoint)} tensors such as {names}. "
            f"Known are:{known}"
        )
    return found


def format_of(name: str) -> Format | None:
    """Returns the format of this name, `NAME` or `NAME@PREFIX`; None if there is none."""
    base, *wrappers = name.split(WRAPPED)
    found = BY_NAME.get(base)
    return functools.reduce(Format.wrapped, wrappers, found) if found else None


def find_format(name: str, checkpoint: Checkpoint) -> Format:
    """Returns the format of this name; `auto` detects that of the checkpoint.

    Raises:
        ValueError: there is no such format.
        CheckpointFileError: the checkpoint is of another one.
    """
    if name == "auto":
        return detect(checkpoint)
    asked = format_of(name)
    if asked is None:
        raise ValueError(f"There is no format {name!r}; known are auto, {', '.join(BY_NAME)}.")
    if asked.matches(checkpoint):
        return asked
    found = detect(checkpoint)
    if found.name.partition(WRAPPED)[0] == name:
        return found
    raise CheckpointFileError(f"{checkpoint.path} is not {asked.description}; it is {found.description}.")


def _detect(tensors: Tensors, depth: int = 2) -> Format | None:
    """Returns the format of tensors, as they are or without what stands before all their names; None: there is none."""
    matching = [each for each in FORMATS if each.matches(tensors)]
    counts = {each.name: sum(each.knows(name) for name in tensors) for each in matching}
    best = max(matching, key=lambda each: counts[each.name], default=None)
    if best is not None and counts[best.name]:
        return best
    named = [name for name in tensors if name not in MARKS]
    wrapper = next(iter(named), "").partition(".")[0] + "."
    if not depth or not all(name.startswith(wrapper) for name in named):
        return None
    inner = _detect({name.removeprefix(wrapper): tensors[name] for name in named}, depth - 1)
    return inner.wrapped(wrapper) if inner else None


def read(
    checkpoint: Checkpoint, kind: Format, like: Mapping[str, Shaped] | None = None, takes: str = r".*"
) -> dict[str, LazyArray]:
    """Returns the parameters in a checkpoint, by path with the part in front, each made when it is read.

    Args:
        like: shapes by path of the parameters that are wanted. Parts of the checkpoint that none of them is in are left
            out. Without it, the checkpoint must hold all parameters of networks of its own sizes.
        takes: regular expression searched in paths; tensors of other parameters are ignored, also where `like` has no
            such parameters.

    Raises:
        ConversionError: the checkpoint does not hold exactly these.
    """
    tables = kind.parts_of(checkpoint)
    if like is not None:
        tables = {part: rules for part, rules in tables.items() if any(path.startswith(f"{part}/") for path in like)}
    made: dict[str, LazyArray] = {}
    problems: list[ConversionError] = []
    unknown = [name for name in checkpoint if not kind.knows(name)]
    for part, rules in tables.items():
        mine = _tensors_of_part(part, rules, checkpoint, takes)
        try:
            expected = _expected_parameters(kind, part, mine, like, rules)
            found = parameters(rules, mine, _join(part, rules, mine, expected, takes), kind.ignored)
        except ConversionError as error:
            problems.append(error)
        else:
            made.update({f"{part}/{path}": array for path, array in found.items()})
    if problems or unknown:
        missing, unexpected, wrong_shape, wrong_dtype = (
            [line for error in problems for line in getattr(error, name)]
            for name in ("missing", "unexpected", "wrong_shape", "wrong_dtype")
        )
        source, hint = f"{checkpoint.path} ({kind.description})", foreign.explain_mismatch(checkpoint, kind, like or {})
        raise ConversionError(missing, [*unknown, *unexpected], wrong_shape, wrong_dtype, source, hint)
    return made


def buffers(checkpoint: Checkpoint, kind: Format) -> dict[str, LazyArray]:
    """Returns the tensors of a checkpoint that are no parameters, such as tables of positions."""
    return {name: checkpoint[name] for name in checkpoint if name in MARKS or kind.ignores(name)}


def write(params: Tensors, tables: Parts) -> dict[str, LazyArray]:
    """Returns the tensors of a checkpoint from parameters (arrays by path with the part in front), by these rules."""
    tensors: dict[str, LazyArray] = {}
    for part, rules in tables.items():
        mine = {path.removeprefix(f"{part}/"): array for path, array in params.items() if path.startswith(f"{part}/")}
        tensors.update(tensors_of(rules, mine))
    return tensors


def _tensors_of_part(part: str, rules: Rules, tensors: Checkpoint, takes: str) -> dict[str, LazyArray]:
    """Returns the tensors of a part from which a parameter is made whose path matches `takes`."""
    paths = {name: parameter_paths_of(rules, name) or () for name in tensors}
    return {name: tensors[name] for name in tensors if any(re.search(takes, f"{part}/{path}") for path in paths[name])}


def _join(part: str, rules: Rules, tensors: Tensors, expected: Mapping[str, Shaped], takes: str) -> dict[str, Shaped]:
    """Returns the expected parameters that match `takes`, and those made from the same tensors as one of them."""
    joint = {path for name in tensors for path in parameter_paths_of(rules, name) or ()}
    return {path: a for path, a in expected.items() if path in joint or re.search(takes, f"{part}/{path}")}


def _expected_parameters(
    kind: Format, part: str, tensors: Tensors, like: Mapping[str, Shaped] | None, rules: Rules
) -> dict[str, Shaped]:
    """Returns the parameters, by path below the part, that these tensors must make: of `like`, or of their network."""
    if like is not None:
        network = {path.removeprefix(f"{part}/"): array for path, array in like.items() if path.startswith(f"{part}/")}
    else:
        try:
            network = kind.expected_parameters(part, shapes_of(rules, tensors))
        except KeyError as error:
            raise ConversionError(missing=[f"{part}/{error.args[0]} (needed to infer the sizes)"]) from error
    wanted = paths_with_rules(rules, network)
    return {path: array for path, array in network.items() if path in wanted}
