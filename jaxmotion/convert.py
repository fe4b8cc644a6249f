"""`python -m jaxmotion.convert`: public weights in and out."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape

from jaxmotion.foundation import command_line as commands
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.parallel import sharding
from jaxmotion.runs import experiment, export
from jaxmotion.runs.trained import read_config
from jaxmotion.systems.system import System
from jaxmotion.weights import native_files
from jaxmotion.weights.formats import FORMATS, detect, find_format
from jaxmotion.weights.hub import locate, locate_all
from jaxmotion.weights.inspection import checkpoints_in, inspect, show
from jaxmotion.weights.lora_files import open_lora
from jaxmotion.weights.lora_inspection import inspect_adapter, open_adapter
from jaxmotion.weights.lora_merge import merge_files
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors

DESCRIPTION = """Takes public weights in and gives trained ones out.

  python -m jaxmotion.convert inspect v1-5-pruned-emaonly.safetensors     what it is, how it maps, what is left over
  python -m jaxmotion.convert inspect ORG/NAME                            the same of a hub's repository
  python -m jaxmotion.convert import mm_sd_v15.ckpt weights/motion        into our own files, checked
  python -m jaxmotion.convert export --run runs/mine --format diffusers out
  python -m jaxmotion.convert export --run runs/stone --format diffusers-baked --object 2 --camera 8 out
  python -m jaxmotion.convert export --imported weights/motion back       as it came, tensor by tensor
  python -m jaxmotion.convert merge sd15.safetensors lora.safetensors out a LoRA into a public checkpoint

Training needs no import: a config's pretrained takes public files and repositories as they are."""


def body(arguments: list[str]) -> None:
    """Parses and does what was asked."""
    if arguments[:1] == ["export"]:  # its formats and flags are those of the run
        _export(arguments[1:])
        return
    options = _parser().parse_args(arguments)
    options.do(options)


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m jaxmotion.convert", description=DESCRIPTION, formatter_class=shape, allow_abbrev=False
    )
    known = "formats:\n" + "".join(f"  {each.name:24} {each.description}\n" for each in FORMATS)
    verbs = parser.add_subparsers(required=True, metavar="inspect | import | export | merge")

    look = verbs.add_parser(
        "inspect", help="say what a checkpoint is", description="Says what a checkpoint is.", epilog=known
    )
    look.add_argument("source", help="a file, a folder, or a repository of the Hugging Face hub (ORG/NAME[:PATH])")
    look.add_argument("--all", action="store_true", help="show the whole mapping")
    look.set_defaults(do=_inspect)

    take = verbs.add_parser("import", help="turn a checkpoint into our files", epilog=known)
    take.description = "Checks a checkpoint and writes it under our own paths, one tensor at a time."
    take.add_argument("source", help="a file, a folder, or a repository of the Hugging Face hub (ORG/NAME[:PATH])")
    take.add_argument("destination", type=Path, help="the folder to write")
    take.add_argument("--format", default="auto", help="its format (default auto: as its names say); see below")
    take.add_argument(
        "--config", metavar="FILE[:NAME]", help="check it against the sizes of this experiment, not its own"
    )
    take.set_defaults(do=_import)

    verbs.add_parser("export", help="write trained or imported weights for others")

    join = verbs.add_parser("merge", help="add a LoRA to a public checkpoint")
    join.description = (
        "Writes a public checkpoint, or a pipeline's folder, as it is, with a LoRA (PEFT, Kohya, ...) added to it."
    )
    join.add_argument(
        "base", help="a file, a folder, a pipeline's folder, or a repository of the hub, as inspect knows"
    )
    join.add_argument("lora", help="a LoRA file, a folder of PEFT, or a repository of the hub with one (ORG/NAME:FILE)")
    join.add_argument("destination", type=Path, help="the folder to write")
    join.add_argument("--scale", type=float, default=1.0, help="how much of it is added (default 1)")
    join.set_defaults(do=_merge)
    for each in (look, take, join):
        each.formatter_class = shape
    return parser


def _inspect(options: argparse.Namespace) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    path = locate_all(options.source)
    if native_files.is_native(path):
        opened = native_files.open_native(path)
        came = f", imported from the format {opened.format}" if opened.format else ""
        console.print(f"{path}: {len(opened.params)} parameters under our own paths{came}")
        return
    problems = False
    if (adapter := open_adapter(path)) is not None:
        _inspect_adapter(path, adapter, console)
        return
    every = checkpoints_in(path)
    for each in every:
        try:
            if len(every) > 1:
                detect(open_tensors(each))
        except CheckpointFileError as error:
            console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
            problems = True
            continue
        found = inspect(each)
        show(found, console, every=options.all)
        problems = problems or bool(found.problem)
    if problems:
        sys.exit(2)


def _inspect_adapter(path: Path, adapter: Checkpoint, console: Console) -> None:
    say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
    found = inspect_adapter(adapter)
    if found.problem:
        say(f"{path}: {found.what}, which is not read here: {found.problem}")
        sys.exit(2)
    say(f"{path}: {found.what}; merge and --pretrained.lora.source take it")


def _import(options: argparse.Namespace) -> None:
    checkpoint = open_tensors(locate(options.source))
    kind = find_format(options.format, checkpoint)
    like = None
    if options.config:
        task = experiment.load(options.config).system.build()
        like = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for path in native_files.import_checkpoint(checkpoint, kind, options.destination, like):
        print(path)


def _merge(options: argparse.Namespace) -> None:
    base, added = locate(options.base), open_lora(locate(options.lora))
    merged = merge_files(base, added, options.destination, options.scale)
    for note in merged.notes:
        print(note)
    for path in merged.files:
        print(path)


def _export_parser(system: System | None) -> argparse.ArgumentParser:
    """Returns the parser of `export`, with the kinds and controls of the run's system."""
    kinds = system.exports() if system else {}
    fixing = [kind for kind, exporter in kinds.items() if exporter.fixes_controls]
    epilog = "formats of this run:\n" + "".join(f"  {kind:16} {each.description}\n" for kind, each in kinds.items())
    parser = argparse.ArgumentParser(
        prog="python -m jaxmotion.convert export",
        description="Writes the weights of a run, or an imported checkpoint as it came.",
        epilog=epilog if kinds else "The formats of a run depend on its system: --run DIR --help lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, metavar="DIR", help="the folder of a trained run")
    source.add_argument("--imported", type=Path, metavar="DIR", help="a folder written by import")
    parser.add_argument("destination", type=Path, help="the folder to write")
    parser.add_argument("--format", default="diffusers", help="see below (default diffusers)")
    commands.add_weights_option(parser, "of a run: averaged or latest (ema)")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with PyTorch where it is installed")
    controls = system.controls if system and fixing else {}
    for name, control in controls.items():
        about = f"{', '.join(fixing)}: {control.description or name} (default {control.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"control_{name}", metavar="VALUE", help=about)
    return parser


def _export(arguments: list[str]) -> None:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run", type=Path)
    run = early.parse_known_args(arguments)[0].run
    system = read_config(run).system if run else None
    options = _export_parser(system).parse_args(arguments)
    if system is None:
        files = native_files.restore(options.imported, options.destination)
    else:
        files = export.export(
            options.run,
            options.format,
            options.destination,
            options.weights,
            verify=not options.no_verify,
            controls=_control_values(system, options),
        )
    for path in files:
        print(path)


def _control_values(system: System, options: argparse.Namespace) -> dict[str, object]:
    """Returns the one value of each control that was given.

    Raises:
        ValueError: it is no value of the control, or several.
    """
    values: dict[str, object] = {}
    for name, control in system.controls.items():
        text = getattr(options, f"control_{name}", None)
        if text is None:
            continue
        try:
            parsed = control.parse(text)
        except ValueError as error:
            raise ValueError(f"--{name} {text}: {error}") from error
        if len(parsed) != 1:
            raise ValueError(f"--{name} {text}: an export fixes one value; got {len(parsed)}.")
        values[name] = parsed[0]
    return values


if __name__ == "__main__":
    commands.command(body)
