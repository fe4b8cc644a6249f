"""`python -m jaxmotion.evaluate`: measures what a trained run can do, and how well motion is measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from jaxmotion.evaluation.evaluation import comparison, numbers_path
from jaxmotion.foundation import command_line as commands
from jaxmotion.meter import benchmark, meter
from jaxmotion.meter import ranking as evaluate_ranking
from jaxmotion.meter.baselines import BASELINES
from jaxmotion.runs import evaluate, export
from jaxmotion.runs.experiment import load_all
from jaxmotion.runs.trained import open_run
from jaxmotion.video.pairs import read_pairs

PROGRAM = "python -m jaxmotion.evaluate"
DESCRIPTION = """Measures what a trained run can do, and how well motion is measured.

  python -m jaxmotion.evaluate --run runs/first
  python -m jaxmotion.evaluate --run runs/first control --images photos --values 1,5,10 --seeds 4
  python -m jaxmotion.evaluate --run runs/first report
  python -m jaxmotion.evaluate ranking
  python -m jaxmotion.evaluate ablations --config configs/ablations/motionstone.py --out runs/ablations

Without a subcommand, the evaluations of the run's config are measured, all or those that are named, and written as
evaluate/NAME.json and NAME.png in the run folder. `python -m jaxmotion.evaluate run --help` has the options."""

RUN = """Measures the evaluations of a run's config (`Experiment.evaluations`), all or those that are named.

  python -m jaxmotion.evaluate --run runs/first
  python -m jaxmotion.evaluate --run runs/first control --images photos --values 1,5,10 --seeds 4

`control`, the control curve, is in every config unless it says otherwise: every scene is animated with each numeric
control swept from low to high, with every seed. It says how well the measured motion follows the control (Spearman's
rho), how still the lowest value is, how much a control moves other motion than its own in each scene (cross-talk), and,
where control and measure share a unit, how far clips are from what was asked (calibration error). Writes
evaluate/NAME.json and evaluate/NAME.png in the run folder; `report` shows them.

On pictures (--images) nobody says where the objects are: then it is what moves by itself, and the motion meter is asked
as well; --masks says it. Captions are read from the pictures' folder as from a folder of clips."""

RANKING = """Puts clips in order with the motion meter and what one would use instead, and says how often that is right:
on worlds with photographs and ways of motion that training never shows, or on pairs that people have judged.

  python -m jaxmotion.evaluate ranking
  python -m jaxmotion.evaluate ranking --pairs pairs.csv --clips clips --out ranking.json
  python -m jaxmotion.evaluate ranking --run runs/meter --meters run,ssim"""

ABLATIONS = """Trains every experiment of a file, measures the evaluations of each and prints one table.

  python -m jaxmotion.evaluate ablations --config FILE --out runs/ablations

What is done already is kept: trained runs, and numbers that were measured in the same way."""

REPORT = """Writes report.html into the run folder: clips at several values of each control, what was measured, the
loss. It needs no other file and no network.

  python -m jaxmotion.evaluate report --run runs/first --images photos"""


def body(arguments: list[str]) -> None:
    """Parses, measures, prints."""
    parser = commands.parser("jaxmotion.evaluate", DESCRIPTION, config=False, run="the folder of a trained run")
    parser.add_argument("-h", "--help", action="help", help="show this help and leave")
    subcommands = parser.add_subparsers(metavar="{run,report,ranking,ablations}", title="subcommands", required=True)
    _add_run(_subparser(subcommands, "run", "the evaluations of a run (the default)", RUN, _evaluate))
    _add_report(_subparser(subcommands, "report", "one page that shows a run", REPORT, _report))
    _add_ranking(_subparser(subcommands, "ranking", "compare meters of motion", RANKING, _rank))
    _add_ablations(_subparser(subcommands, "ablations", "compare experiments", ABLATIONS, _ablate))
    options = parser.parse_args(_with_subcommand_first(arguments, tuple(subcommands.choices)))
    options.branch(options)


def _with_subcommand_first(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """Moves the subcommand before the options; `run` if there is none: `--run DIR NAME` is enough."""
    if arguments in ([], ["-h"], ["--help"]):
        return ["--help"]
    for at, argument in enumerate(arguments):
        is_value = at > 0 and arguments[at - 1].startswith("--") and "=" not in arguments[at - 1]
        if argument in names and not is_value:
            return [argument, *arguments[:at], *arguments[at + 1 :]]
    return ["run", *arguments]


def _subparser(
    subcommands: argparse._SubParsersAction, name: str, summary: str, text: str, branch: Callable
) -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    made = subcommands.add_parser(name, help=summary, description=text, formatter_class=shape, allow_abbrev=False)
    made.set_defaults(branch=branch)
    return made


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="evaluations of the run's config (default all)")
    _add_run_folder(parser)
    _add_scenes(parser)
    _add_sweep(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    _add_run_folder(parser)
    _add_scenes(parser)


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(("shipped", "run", *BASELINES))
    parser.add_argument("--run", type=Path, metavar="DIR", help="a trained motion estimator, the meter `run`")
    commands.add_weights_option(parser)
    parser.add_argument("--meters", default="all", help=f"which: {known} (default all)")
    parser.add_argument("--set", choices=tuple(benchmark.SETS), default="clear", help="which worlds (default clear)")
    parser.add_argument("--worlds", type=int, default=300, help="clips with known motion (default 300)")
    parser.add_argument("--groups", type=int, default=30, help="groups of which one axis changes (default 30)")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="judged pairs (csv or jsonl) in place of worlds")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="where their clips lie (default: beside the file)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also writes all numbers as JSON")


def _add_ablations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", required=True, help="a Python file with experiments; all are taken")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the folder of their runs")
    parser.add_argument("--count", type=int, default=evaluate.COUNT, help=f"scenes (default {evaluate.COUNT})")
    _add_sweep(parser)


def _add_run_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, metavar="DIR", required=True, help="the folder of a trained run")
    commands.add_weights_option(parser)


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    count = evaluate.COUNT
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="pictures to animate, with captions beside them, such as captions.jsonl (default: held-out scenes)",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="pictures that are not black on the objects, named as those of --images (default: what moves by itself)",
    )
    parser.add_argument("--count", type=int, default=count, help=f"held-out scenes, without --images (default {count})")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--values", "--levels", type=_numbers, metavar="LIST", help="values of the swept controls, such as 1,5,10"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="clips of each scene and value (default: the config's)")


def _numbers(text: str) -> tuple[float, ...]:
    """Ascending numbers of a command line, whole ones as int: `1,5,10`."""
    found = [float(part) for part in text.split(",") if part.strip()]
    return tuple(int(number) if number.is_integer() else number for number in sorted(set(found)))


def _changes(options: argparse.Namespace) -> dict[str, object]:
    """The fields of evaluations that the command line changes."""
    changes: dict[str, object] = {}
    if options.values is not None:
        changes["values"] = options.values
    if options.seeds is not None:
        changes["seeds"] = tuple(range(options.seeds))
    return changes


def _evaluate(options: argparse.Namespace) -> None:
    """Measures evaluations of a run and prints a table of each."""
    run = open_run(options.run, options.weights)
    found = evaluate.evaluate(
        run,
        options.names,
        images=options.images,
        masks=options.masks,
        count=options.count,
        changes=_changes(options),
    )
    for name, numbers in found.items():
        _console(120).print(run.experiment.evaluations[name].table(numbers))
        print(numbers_path(options.run, name))


def _report(options: argparse.Namespace) -> None:
    run = open_run(options.run, options.weights)
    print(evaluate.report(run, options.images, masks=options.masks, count=options.count))


def _ablate(options: argparse.Namespace) -> None:
    """Trains, measures, and prints one table."""
    experiments = load_all(Path(options.config))
    found = evaluate.ablate(experiments, options.out, count=options.count, changes=_changes(options))
    keys = {
        name: [
            key
            for each, numbers in measured.items()
            for key in experiments[name].evaluations[each].key_numbers(numbers)
        ]
        for name, measured in found.items()
    }
    _console(140).print(comparison(keys, f"{len(found)} experiments"))
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
        results = benchmark.benchmark_on_pairs(meters, pairs, options.clips or options.pairs.parent)
        title = f"{len(pairs)} judged pairs"
    else:
        results = benchmark.benchmark_on_scenes(meters, benchmark.SETS[options.set], options.worlds, options.groups)
        title = f"{options.worlds} held-out worlds ({options.set}), pairs at least {evaluate_ranking.APART:g} apart"
    _console(160).print(evaluate_ranking.table(results, title))
    if options.out:
        evaluate_ranking.write(results, options.out)
        print(options.out)


def _console(width: int) -> Console:
    """The terminal, or where there is none, such as in a file, something as wide as the table needs."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


if __name__ == "__main__":
    commands.command(body)
