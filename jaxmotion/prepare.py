"""`python -m jaxmotion.prepare`: encodes the clips of an experiment once, for training without encoders."""

from __future__ import annotations

import sys
from pathlib import Path

from jaxmotion.data.precompute.encode import DTYPES, parse_shard
from jaxmotion.foundation import command_line as commands
from jaxmotion.runs import experiment, precompute

DESCRIPTION = """Encodes clips into latents, text features and motion scores, once, as a set that training reads.

  python -m jaxmotion.prepare --config configs/motionstone.py --data.path clips --out prepared/clips
  python -m jaxmotion.prepare --config configs/motionstone.py --data.path clips --out prepared/clips --shard 0/4
  python -m jaxmotion.train --config configs/motionstone.py:prepared --data.path prepared/clips --run runs/mine

The same command again continues where it was stopped: finished shards are kept. A folder never holds records of two
settings; other weights, sizes, rates, frames or clips need another folder. Training reads the stored parts of the clips
and no others: by default the start of each. --windows 4 stores four parts of each, at different times, for clips longer
than those that are trained on. It is a tensorflow-datasets folder of
ArrayRecord shards. Clips of several shapes (--data.buckets FRAMES HEIGHT WIDTH ...) become such a folder for each."""


def body(arguments: list[str]) -> None:
    """Parses, encodes, prints."""
    parser = commands.parser("jaxmotion.prepare", DESCRIPTION, config=True, run="not used")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the set")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of latents and text features (float16)")
    windows = "parts stored of each clip: its start, the others at random times (default 1: only the start)"
    parser.add_argument("--windows", type=int, default=1, metavar="N", help=windows)
    parser.add_argument("--per-shard", type=int, default=64, help="records of a shard; a kill costs one (default 64)")
    parser.add_argument("--at-once", type=int, default=0, help="clips encoded together (default: one for each device)")
    parser.add_argument(
        *("--shard", "--process"), default="0/1", help="which of how many processes this is, such as 0/4 (default 0/1)"
    )
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        parser.print_help()
        sys.exit(0 if {"-h", "--help"} & set(overrides) else 2)
    config = experiment.override(experiment.load(options.config), overrides, parser.prog, DESCRIPTION)
    if options.out is None:
        parser.error("--out DIR is needed: the folder of the set")
    shard_index, shard_count = parse_shard(options.shard)
    for name in ("windows", "per_shard"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1.")
    written = precompute.precompute(
        config,
        options.out,
        dtype=options.dtype,
        windows=options.windows,
        per_shard=options.per_shard,
        at_once=options.at_once,
        shard_index=shard_index,
        shard_count=shard_count,
    )
    stored = "the start of each clip and nothing else of it; --windows N stores more"
    if options.windows > 1:
        stored = f"{options.windows} parts of each clip, its start and others at random times"
    print(f"{options.out}: {written} records written by this process: {stored}")


if __name__ == "__main__":
    commands.command(body)
