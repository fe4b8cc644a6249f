"""Inspection of checkpoints: their format, how they map to our parameters, and what would be left over."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import file_names, foreign, formats
from jaxmotion.weights.config_fields import said
from jaxmotion.weights.formats import Format
from jaxmotion.weights.hub import NO_NETWORKS, PIPELINE
from jaxmotion.weights.rules import ConversionError, parameter_paths_of
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The format of a checkpoint and its mapping to our parameters.

    parts:   for each part that it holds, how many arrays and how many numbers our parameters of it would be.
    mapping: our paths by name; empty for tensors that are no parameters.
    says:    by file, the fields that decide what its network computes and that no tensor shows.
    kept:    names of tensors that are no parameters and are carried along.
    problem: why it cannot be read as a whole; empty when it can.
    """

    checkpoint: Checkpoint
    format: Format
    parts: dict[str, tuple[int, int]]
    mapping: dict[str, tuple[str, ...]]
    says: dict[str, dict[str, JsonValue]]
    kept: tuple[str, ...]
    problem: str


def checkpoints_in(path: Path) -> list[Path]:
    """Returns the checkpoints of a path: itself, or the folders of a pipeline that hold one.

    Raises:
        CheckpointFileError: there is none.
    """
    if not path.is_dir():
        return [path]
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and each.name not in NO_NETWORKS]
    within = [folder for folder in folders if _has_weights(folder)]
    if within and (path / PIPELINE).is_file():
        return within
    try:
        open_tensors(path)
    except CheckpointFileError:
        if not within:
            raise
        return within
    return [path]


def inspect(path: Path) -> Inspection:
    """Inspects a file or folder that holds one checkpoint.

    Raises:
        CheckpointFileError: it is missing, damaged, or of no known format.
    """
    checkpoint = open_tensors(path)
    kind = formats.detect(checkpoint)
    tables = kind.parts_of(checkpoint)
    mapping = {}
    for name in checkpoint:
        found = [(part, paths) for part, rules in tables.items() if (paths := parameter_paths_of(rules, name))]
        mapping[name] = tuple(f"{part}/{each}" for part, paths in found for each in paths)
    parts, problem = {}, ""
    try:
        for key, array in formats.read(checkpoint, kind).items():
            arrays, numbers = parts.get(part := key.partition("/")[0], (0, 0))
            parts[part] = arrays + 1, numbers + math.prod(array.shape)
    except ConversionError as error:
        problem = str(error)
    problem = problem or checkpoint.damage()
    says = dict(said(checkpoint, [each for configs in kind.configs.values() for each in configs]))
    return Inspection(checkpoint, kind, parts, mapping, says, tuple(formats.buffers(checkpoint, kind)), problem)


def show(found: Inspection, console: Console, *, every: bool = False) -> None:
    """Prints an inspection, with a few lines of the mapping or all of them."""
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    checkpoint = found.checkpoint
    size = sum(file.stat().st_size for file in checkpoint.files)
    types = collections.Counter(str(array.dtype) for array in checkpoint.values())
    kinds = ", ".join(f"{count} {name}" for name, count in types.most_common())
    say(f"[bold]{escape(str(checkpoint.path))}[/bold]: {escape(found.format.description)}")
    if checkpoint.path.is_dir():
        say(f"  read from {escape(checkpoint.files[0].name)}")
    say(f"  format {found.format.name}; {len(checkpoint)} tensors ({kinds}) in {size / 1e6:,.1f} MB")
    if what := foreign.describe_input(checkpoint, found.format):
        say(f"  its first convolution is wider than the latents: {what}")
    for part, (arrays, numbers) in found.parts.items():
        say(f"  {part}: {arrays} arrays, {numbers:,} parameters")
    for file, fields in found.says.items():
        values = ", ".join(f"{name} {json.dumps(value)}" for name, value in fields.items())
        say(f"  {escape(file)} says {escape(values)}")
    named = [(name, paths) for name, paths in found.mapping.items() if paths]
    for name, paths in named if every else named[:8]:
        line = f"    {name} {list(checkpoint[name].shape)} -> {' + '.join(paths)}"
        say(escape(line))
    if not every and len(named) > 8:
        say(f"    ... and {len(named) - 8} more (--all shows them)")
    if found.kept:
        shown = ", ".join(found.kept if every else found.kept[:4])
        more = "" if every or len(found.kept) <= 4 else ", ..."
        say(f"  no parameters, kept beside them: {len(found.kept)} ({escape(shown)}{more})")
    if checkpoint.beside:
        shown = "; ".join(checkpoint.beside if every else checkpoint.beside[:4])
        more = "" if every or len(checkpoint.beside) <= 4 else "; ..."
        say(f"  beside the weights, not read: {escape(shown)}{more}")
    if found.problem:
        say(f"[red]  cannot be imported as it is:[/red] {escape(found.problem)}")
    else:
        say("  every tensor has its place; nothing is left over")


def _has_weights(folder: Path) -> bool:
    """Returns whether a folder holds a checkpoint, whole or not."""
    try:
        return file_names.choose((each.name for each in folder.iterdir()), str(folder)) is not None
    except CheckpointFileError:
        return True
