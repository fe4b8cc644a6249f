"""`python -m jaxmotion.evaluate`: measures what a trained run can do, and how well motion is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from jaxmotion.evaluation import control, dials
from jaxmotion.foundation import command_line as commands
from jaxmotion.foundation.entries import LEVEL
from jaxmotion.meter import benchmark as trials
from jaxmotion.meter import meter
from jaxmotion.meter import ranking as evaluate_ranking
from jaxmotion.meter.baselines import BASELINES
from jaxmotion.runs import evaluate, export
from jaxmotion.runs import trained as run
from jaxmotion.runs.experiment import load_all
from jaxmotion.sampling.request import parse_levels
from jaxmotion.video.pairs import read_pairs

DESCRIPTION = """Measures whether the clips of a trained run move as much as they were asked to, and how well motion is
measured.

  python -m jaxmotion.evaluate --run runs/first control
  python -m jaxmotion.evaluate --run runs/first control --images photos --levels 1,5,10 --seeds 4

Every photo is animated at every level with every seed. Writes evaluate/control.json and evaluate/control.png in the run
folder: Spearman's rho of asked level and measured motion (SSIM and optical flow), and how still level 1 is. Of a system
with an object and a camera score, each is turned while the other stays at 5, both are measured by points that are
followed, and it says how much one dial moves the other's axis (cross-talk).

  python -m jaxmotion.evaluate ranking
  python -m jaxmotion.evaluate ranking --pairs pairs.csv --clips clips --out ranking.json
  python -m jaxmotion.evaluate ranking --run runs/meter --meters run,ssim

Puts clips in order with the motion meter and what one would use instead, and says how often that is right: on worlds
with photographs and ways of motion that training never shows, or on pairs that people have judged.

  python -m jaxmotion.evaluate ablations --config configs/ablations/motionstone.py --out runs/ablations

Trains every experiment of a file, turns the dials of each and prints one table. What is done already is kept."""


def body(arguments: list[str]) -> None:
    """Parses, measures, prints."""
    parser = commands.parser("jaxmotion.evaluate", DESCRIPTION, config=False, run="the folder of a trained run")
    parser.add_argument("-h", "--help", action="help", help="show this help and leave")
    parser.add_argument(
        "what",
        choices=("control", "report", "ranking", "ablations"),
        help="the control curve; report.html; meters of motion; experiments side by side",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos to animate (default: held-out photos)")
    parser.add_argument("--count", type=int, default=6, help="how many held-out photos, when no --images (default 6)")
    parser.add_argument("--levels", default="1,2,3,4,5,6,7,8,9,10", help="levels of the curve (default all)")
    parser.add_argument("--seeds", type=int, default=2, help="clips of each photo and level (default 2)")
    parser.add_argument(
        "--weights", choices=("ema", "live"), default="ema", help="averaged or latest weights (default ema)"
    )
    parser.add_argument("--config", metavar="FILE", help="ablations: a Python file with experiments; all are taken")
    ranking = parser.add_argument_group("ranking")
    ranking.add_argument(
        "--meters", default="all", help=f"which: {', '.join(('shipped', 'run', *BASELINES))} (default all)"
    )
    ranking.add_argument("--set", choices=tuple(trials.SETS), default="clear", help="which worlds (default clear)")
    ranking.add_argument("--worlds", type=int, default=300, help="clips with known motion (default 300)")
    ranking.add_argument("--groups", type=int, default=30, help="groups of which one axis changes (default 30)")
    ranking.add_argument("--pairs", type=Path, metavar="FILE", help="judged pairs (csv or jsonl) in place of worlds")
    ranking.add_argument("--clips", type=Path, metavar="DIR", help="where their clips lie (default: beside the file)")
    ranking.add_argument(
        "--out", type=Path, metavar="PATH", help="also writes all numbers as JSON; of ablations, the folder of the runs"
    )
    options = parser.parse_args(arguments)
    if options.what == "ranking":
        _rank(options)
        return
    if options.what == "ablations":
        _ablate(options, parser)
        return
    if options.run is None:
        parser.error("--run DIR is needed: the folder of a trained run")
    levels = parse_levels(options.levels)
    opened = run.open_run(options.run, options.weights)
    if options.what == "report":
        print(opened.report(options.images, count=options.count))
        return
    if LEVEL not in opened.experiment.system.controls:
        numbers = opened.turn_dials(options.images, values=levels, seeds=range(options.seeds), count=options.count)
        _console(120).print(dials.table({options.run.name: numbers}, f"Dials: {numbers['clips']} clips"))
        print(options.run / control.CONTROL)
        return
    numbers = opened.control(options.images, levels=levels, seeds=range(options.seeds), count=options.count)
    Console().print(control.table(numbers))
    print(options.run / control.CONTROL)


def _console(width: int) -> Console:
    """The terminal, or where there is none, such as in a file, something as wide as the table needs."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


def _ablate(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Trains, turns dials, and prints the table."""
    if options.config is None or options.out is None:
        parser.error("--config FILE and --out DIR are needed: the experiments, and the folder of their runs")
    experiments = load_all(Path(options.config))
    values, seeds = parse_levels(options.levels), range(options.seeds)
    found = evaluate.ablate(experiments, options.out, values=values, seeds=seeds, count=options.count)
    _console(140).print(dials.table(found, f"{len(found)} experiments, dials turned"))
    print(options.out / "ablations.json")


def _rank(options: argparse.Namespace) -> None:
    """Tries meters and prints the table."""
    makers = {"shipped": meter.packaged_meter, **BASELINES}
    if options.run is not None:
        makers = {"run": lambda: export.open_meter(options.run, options.weights), **makers}
    names = tuple(makers) if options.meters == "all" else tuple(options.meters.split(","))
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise ValueError(
            f"There is no meter {', '.join(unknown)}; there are {', '.join(makers)} (`run` with --run DIR)."
        )
    meters = {name: makers[name]() for name in names}
    if options.pairs:
        pairs = read_pairs(options.pairs)
        results = trials.benchmark_on_pairs(meters, pairs, options.clips or options.pairs.parent)
        title = f"{len(pairs)} judged pairs"
    else:
        results = trials.benchmark_on_scenes(meters, trials.SETS[options.set], options.worlds, options.groups)
        title = f"{options.worlds} held-out worlds ({options.set}), pairs at least {evaluate_ranking.APART:g} apart"
    _console(160).print(evaluate_ranking.table(results, title))
    if options.out:
        evaluate_ranking.write(results, options.out)
        print(options.out)


if __name__ == "__main__":
    commands.command(body)
