"""`python -m jaxmotion.quickstart`: trains a tiny model, measures its control, animates photos, writes a report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

from jaxmotion.foundation import command_line as commands
from jaxmotion.runs import evaluate, experiment, train
from jaxmotion.runs import trained as run
from jaxmotion.training import restore

DESCRIPTION = """From nothing to a report: trains the tiny LivePhoto of configs/quickstart.py on clips made on the fly,
measures whether photos it has never seen move as much as asked, animates them at levels 1, 5 and 10, and writes
report.html.

  python -m jaxmotion.quickstart --run runs/quickstart

About ten minutes on two CPU cores. Stopped, it goes on where it was when started again."""


def body(arguments: list[str]) -> None:
    """Trains, measures, reports."""
    began = time.perf_counter()
    parser = commands.parser("jaxmotion.quickstart", DESCRIPTION, config=True, run="the run folder")
    options, overrides = parser.parse_known_args(arguments)
    config = experiment.override(_experiment(options.config, options.run), overrides, parser.prog, DESCRIPTION)
    if options.run is None:
        parser.error("--run DIR is needed: the folder that the run is kept in")
    print(f"1/3 training {config.train.steps} steps", file=sys.stderr)
    if train.train(config, options.run).stopped:
        return
    opened = run.open_run(options.run)
    generate = evaluate.RunGenerator(opened)
    print("2/3 measuring whether clips move as asked", file=sys.stderr)
    for name, numbers in evaluate.evaluate(opened, generate=generate).items():
        Console().print(opened.experiment.evaluations[name].table(numbers))
    print("3/3 writing the report", file=sys.stderr)
    print(f"{evaluate.report(opened, generate=generate)} ({(time.perf_counter() - began) / 60:.1f} minutes)")


def _experiment(config: str | None, directory: Path | None) -> experiment.Experiment:
    """Returns the config of that name; if none is named, that of the run that goes on, or the shipped quickstart."""
    if config is None and directory is not None and restore.latest_step(directory) is not None:
        return run.read_config(directory)
    return experiment.load(config or "quickstart")


if __name__ == "__main__":
    commands.command(body)
