"""`python -m jaxmotion.evaluate`: measures what a trained run can do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jaxmotion import commands, run
from jaxmotion.evaluate import control
from jaxmotion.sample.request import parse_levels

DESCRIPTION = """Measures whether the clips of a trained run move as much as they were asked to.

  python -m jaxmotion.evaluate --run runs/first control
  python -m jaxmotion.evaluate --run runs/first control --images photos --levels 1,5,10 --seeds 4

Every photo is animated at every level with every seed. Writes evaluate/control.json and evaluate/control.png in the run
folder: Spearman's rho of asked level and measured motion (SSIM and optical flow), and how still level 1 is."""


def body(arguments: list[str]) -> None:
    """Parses, measures, prints."""
    parser = commands.parser("jaxmotion.evaluate", DESCRIPTION, config=False, run="the folder of a trained run")
    parser.add_argument("-h", "--help", action="help", help="show this help and leave")
    parser.add_argument("what", choices=("control", "report"), help="control: the control curve; report: report.html")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos to animate (default: held-out photos)")
    parser.add_argument("--count", type=int, default=6, help="how many held-out photos, when no --images (default 6)")
    parser.add_argument("--levels", default="1,2,3,4,5,6,7,8,9,10", help="levels of the curve (default all)")
    parser.add_argument("--seeds", type=int, default=2, help="clips of each photo and level (default 2)")
    parser.add_argument(
        "--weights", choices=("ema", "live"), default="ema", help="averaged or latest weights (default ema)"
    )
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.error("--run DIR is needed: the folder of a trained run")
    levels = parse_levels(options.levels)
    opened = run.open_run(options.run, options.weights)
    if options.what == "report":
        print(opened.report(options.images, count=options.count))
        return
    numbers = opened.control(options.images, levels=levels, seeds=range(options.seeds), count=options.count)
    Console().print(control.table(numbers))
    print(options.run / control.CONTROL)


if __name__ == "__main__":
    commands.command(body)
