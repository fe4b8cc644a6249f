"""`python -m jaxmotion.train`: trains an experiment, or continues a run."""

from __future__ import annotations

import sys

from jaxmotion.foundation import command_line as commands
from jaxmotion.runs import experiment, initial, train

DESCRIPTION = """Trains an experiment in a run folder, or continues the run that is there.

  python -m jaxmotion.train --config livephoto:tiny --run runs/first
  python -m jaxmotion.train --config livephoto:tiny --run runs/first --data.path clips --train.steps 500
  python -m jaxmotion.train --config livephoto --run runs/full --dry-run
  python -m jaxmotion.train --config livephoto:tiny --help      every override and its default

The run folder gets config.json, checkpoints/, metrics.jsonl, TensorBoard files and samples/. The same command again
continues from the last checkpoint."""


def body(arguments: list[str]) -> None:
    """Parses, trains, prints."""
    parser = commands.parser("jaxmotion.train", DESCRIPTION, config=True, run="the run folder, made if it is not there")
    parser.add_argument("--dry-run", action="store_true", help="print config, parameters and memory; train nothing")
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        parser.print_help()
        sys.exit(0 if {"-h", "--help"} & set(overrides) else 2)
    config = experiment.override(experiment.load(options.config), overrides, parser.prog, DESCRIPTION)
    if options.dry_run:
        initial.describe(config)
        return
    if options.run is None:
        parser.error("--run DIR is needed: the folder that the run is kept in")
    train.train(config, options.run)


if __name__ == "__main__":
    commands.command(body)
