"""`python -m benchmarks.physics`: how near the motion meter's scores are to motion that is exactly known.

    python -m benchmarks.physics --out runs/physics
    python -m benchmarks.physics --out runs/physics --clips 100                 # a sample over all conditions
    python -m benchmarks.physics --out runs/physics --only watermark
    python -m benchmarks.physics --out runs/physics --only named                # clips with a story
    python -m benchmarks.physics --out runs/physics --only invariance           # one scene in many forms
    python -m benchmarks.physics --out runs/physics --meter my_meter.safetensors

Renders clips (once; they are kept in OUT/clips), measures them, and writes OUT/physics.json, physics.md and
physics.png. A run that was stopped goes on where it was. The clips follow from the seed and the photographs alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.physics.conditions import CONDITIONS, SEED
from benchmarks.physics.photographs import name_source
from benchmarks.physics.runs import APART, choose_clips, run
from jaxmotion.meter import meter


def main() -> None:
    """Parses, renders, measures, reports."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.physics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of clips, records and numbers")
    parser.add_argument("--clips", type=int, metavar="N", help="so many clips, spread over all conditions")
    parser.add_argument(
        "--only", choices=(*CONDITIONS, *APART), metavar="CONDITION", help=", ".join((*CONDITIONS, *APART))
    )
    parser.add_argument("--meter", type=Path, default=meter.WEIGHTS, metavar="FILE", help="weights (default: shipped)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another seed, other clips (default {SEED})")
    parser.add_argument(
        "--photographs",
        default="auto",
        metavar="SOURCE",
        help="wheels: of installed packages; a folder; auto (default): ../shared/data/images if there, else wheels",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that render")
    options = parser.parse_args()
    print(f"photographs: {name_source(options.photographs)}", file=sys.stderr)
    clips = choose_clips(options.photographs, options.seed, options.only, options.clips)
    chosen = meter.load_meter(options.meter)
    print(run(clips, chosen, options.out, source=options.photographs, workers=options.workers))
    print(options.out / "physics.json", file=sys.stderr)


if __name__ == "__main__":
    main()
