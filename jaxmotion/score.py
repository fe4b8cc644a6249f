"""`python -m jaxmotion.score`: how much the objects and the camera of your clips move."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from jaxmotion.foundation import command_line
from jaxmotion.meter import conversion_tool, label, meter, plot, sinks, tool, windows
from jaxmotion.meter.baselines import BASELINES, fit_into
from jaxmotion.meter.estimate import IdentifiedMeter, MotionEstimate, NamedMeter
from jaxmotion.meter.score_files import find_videos
from jaxmotion.runs import export
from jaxmotion.video.motion_scale import STEP

DESCRIPTION = """Says how much the objects and how much the camera of your clips move, each on a scale of 1 to 10.

  python -m jaxmotion.score clips                               one line of JSON for each clip, printed
  python -m jaxmotion.score clips --out scores.jsonl --plot     into a file, with pictures of how they are spread
  python -m jaxmotion.score 'shots/**/*.mov' a.mp4 list.txt --out scores.parquet
  python -m jaxmotion.score --metadata clips/metadata.jsonl     into a data set's own list
  python -m jaxmotion.score clips --meter tracks --out pseudo_labels.jsonl     by tracked points, instead
  python -m jaxmotion.score label clips --out pairs.csv         a page on which you say which of two clips moves more
  python -m jaxmotion.score convert vmaf 12                     what another's number usually means here
  python -m jaxmotion.score export --run runs/meter --out my_meter.safetensors   weights for --meter, from a trained run

A PATH is a folder (searched through), a video, a pattern, or a list: .txt with one path a line, or any list of clips
that training reads, with captions or without. Hidden files, bins and __MACOSX are no clips. A run that was stopped goes
on where it was when the same command is given again; clips whose content is known are not measured again."""

EPILOG = """A record has:
  path            as you gave it
  object, camera  scores from 1 (still) to 10: the speed of what moves by itself, and of the camera, on a logarithmic
                  scale that knows neither frame rate nor resolution (jaxmotion.video.motion_scale)
  move            what the camera mostly does: static, pan, tilt, zoom or roll
  confidence      0 to 1: how likely both scores are within 1 of the truth, as the meter estimates
  object_speed, camera_speed   the speeds behind the scores, in frame diagonals per second
  seconds, fps, width, height  of the video, as it is shown
  hash, meter     of the file's content (all of it up to 16 MiB, else 16 MiB spread over it); which meter measured
  cuts            how many cuts were found, if any; windows end there, and what changes at a cut is no motion
  windows         the same for every window of about 2 seconds (start and end in seconds), if there is more than one
  sampled         the limit --windows, if a long clip has more windows than that
  note            what is wrong with the file, if it could be scored in part: at least one whole window can be decoded

--meter codec, farneback, ssim and the like measure one number: object and camera are then the same, and move and
confidence say nothing.

Files that cannot be scored are named on stderr and in OUT.bad.jsonl, each with its reason; they stop nothing. The exit
code is 0 if there is any score, 2 if there is none.

With --metadata, rows get "motion": {"object", "camera", "unit", "source"}. If "motion" means something else in that
file already, it stays, and the key is "motion_score". Nothing else in the file changes."""

PROGRAM = "python -m jaxmotion.score"
MEASURE = "measure"
"""The command that is meant where none is named."""
EARLIER_NAMES = {"ship": "export"}
"""Names of commands in earlier versions, which still do."""
ENDINGS = (".jsonl", sinks.PARQUET)


def estimate(clip: UInt8[np.ndarray, "T H W 3"], fps: float) -> MotionEstimate:
    """Estimates how much the objects and the camera of a clip move; `jaxmotion.estimate_motion` is the same."""
    return meter.estimate_motion(clip, fps)


def body(arguments: list[str]) -> None:
    """Parses the command line and runs the command."""
    parser, commands = _parsers()
    first = arguments[0] if arguments else ""
    if first in EARLIER_NAMES:
        print(f"{first} is called {EARLIER_NAMES[first]} now.", file=sys.stderr)
        arguments = [EARLIER_NAMES[first], *arguments[1:]]
    elif first not in commands and first not in ("-h", "--help"):
        meant = difflib.get_close_matches(first, commands, n=1, cutoff=0.75)
        if meant and not os.path.exists(first):
            parser.error(f"there is no file {first}; the command is called {meant[0]}")
        arguments = [MEASURE, *arguments]
    options = parser.parse_args(arguments)
    code = options.run(options, commands[options.command])
    if code is not None:
        raise SystemExit(code)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the parser of the whole command line, and those of the commands by name."""
    looks = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(prog=PROGRAM, usage=f"{PROGRAM} [COMMAND] ...", description=DESCRIPTION, **looks)
    subparsers = parser.add_subparsers(prog=PROGRAM, dest="command", required=True, metavar="COMMAND", title="commands")
    measure = subparsers.add_parser(
        MEASURE,
        usage=f"{PROGRAM} PATH ... [options]",
        help="score clips; the word may be left out",
        description=DESCRIPTION,
        epilog=EPILOG,
        **looks,
    )
    _add_measure_options(measure)
    label_parser = subparsers.add_parser(
        "label", help="judge pairs of clips on a page", description=label.DESCRIPTION, epilog=label.EPILOG, **looks
    )
    label.add_options(label_parser)
    convert = subparsers.add_parser(
        "convert",
        usage=f"{PROGRAM} convert PEER [NUMBER|FILE] [options]",
        help="bring another's number to this scale",
        description=conversion_tool.DESCRIPTION,
        epilog=conversion_tool.EPILOG,
        **looks,
    )
    conversion_tool.add_options(convert)
    export_parser = subparsers.add_parser(
        "export",
        help="write the weights of a trained run for --meter",
        description="Writes the averaged weights of a run of configs/motion_estimator.py as one file for --meter.",
        **looks,
    )
    _add_export_options(export_parser)
    parser.epilog = f"options of {MEASURE}:\n{measure.format_help().partition('options:')[2].strip(chr(10))}"
    return parser, {MEASURE: measure, "label": label_parser, "convert": convert, "export": export_parser}


def _add_measure_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_measure)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="folders, videos, patterns, lists")
    parser.add_argument("--out", type=_out, metavar="FILE", help="write .jsonl or .parquet (default: print JSON lines)")
    parser.add_argument(
        "--metadata", type=Path, metavar="FILE", help="add the scores to this metadata.jsonl (of its clips, if no PATH)"
    )
    parser.add_argument("--no-cuts", action="store_true", help="do not look for cuts; clips are single shots")
    parser.add_argument(
        "--plot",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="PNG",
        help="draw how scores are spread and a sheet of the extremes: OUT.png and OUT.extremes.png, or as named",
    )
    parser.add_argument(
        "--windows",
        type=int,
        default=32,
        metavar="N",
        help="look at N windows of about 2 s at most, spread evenly over the clip; 0: at all (default 32)",
    )
    parser.add_argument(
        "--meter",
        default="shipped",
        metavar="NAME",
        help=f"shipped (default), a file of weights, or {', '.join(BASELINES)}",
    )
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="windows measured at a time (default 16)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=int, default=cores, metavar="N", help="files read at a time (default: one a core)"
    )


def _out(name: str) -> Path:
    if not name.endswith(ENDINGS):
        raise argparse.ArgumentTypeError(f"{name} ends in neither of {', '.join(ENDINGS)}")
    return Path(name)


def _measure(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Scores clips; returns the exit code."""
    if not options.paths and options.metadata is None:
        parser.error("a PATH is needed: a folder, videos, a pattern or a list (--help shows examples)")
    if options.windows < 0 or options.batch < 1 or options.threads < 1:
        raise ValueError(
            f"--windows {options.windows} --batch {options.batch} --threads {options.threads}: windows must be 0 or "
            "more, the others 1 or more."
        )
    if options.metadata is not None:
        sinks.check_metadata(options.metadata)
    videos = find_videos(options.paths or [str(options.metadata)])

    _cache_compiled_programs()
    chosen, canvas = _meter(options.meter)
    started = time.perf_counter()
    with sinks.open_sink(options.out, options.metadata, videos) as (sink, report_bad):
        summary = tool.score_videos(
            videos,
            chosen,
            sink,
            spec=windows.WindowSpec(meter.FRAMES, STEP, canvas, cuts=not options.no_cuts),
            progress=sys.stderr,
            max_windows=options.windows,
            batch=options.batch,
            threads=options.threads,
            report_bad=report_bad,
        )
    print(_outcome(summary, time.perf_counter() - started, options.out), file=sys.stderr)
    if options.plot is not None and summary.records:
        spread = options.plot if options.plot.name else (options.out or Path("scores")).with_suffix(".png")
        stills = partial(windows.stills, spec=windows.WindowSpec(canvas=_thumbnail_size))
        print(plot.plot_scores(summary.records, spread), file=sys.stderr)
        sheet = spread.with_name(f"{spread.stem}.extremes.png")
        print(plot.draw_contact_sheet(summary.records, sheet, stills), file=sys.stderr)
    return 0 if summary.records else 2


def _outcome(summary: tool.Summary, seconds: float, out: Path | None) -> str:
    """Returns the sentence that ends a run."""
    measured = len(summary.records) - summary.known
    clips = "1 clip" if measured == 1 else f"{measured} clips"
    return (
        f"{clips} scored in {seconds:.1f} s ({measured / max(seconds, 1e-9):.1f} a second)"
        + (f", {summary.known} known from before" if summary.known else "")
        + (f", {len(summary.bad)} that cannot be scored" if summary.bad else "")
        + (f" (named in {sinks.bad_files_path(out)})" if summary.bad and out else "")
        + (f"; {out}" if out else "")
    )


def _cache_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache, so that only the first run waits for the compiler."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache = _user_cache()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _user_cache() -> Path | None:
    """Returns the folder of the user's cache; None if there is no home, as in some containers, or it is read only."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = (Path(given) if given else Path.home() / ".cache") / "jaxmotion" / "compiled"
        cache.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):
        return None
    return cache if os.access(cache, os.W_OK) else None


def _meter(name: str) -> tuple[IdentifiedMeter, Callable[[int, int], tuple[int, int]]]:
    """Returns the meter of that name, and the size at which videos are decoded for it."""
    if name == "shipped":
        return meter.packaged_meter(), meter.canvas
    if name in BASELINES:
        return NamedMeter(BASELINES[name](), name), partial(fit_into, 480)
    if Path(name).is_file():
        return meter.load_meter(Path(name)), meter.canvas
    known = ", ".join(("shipped", *BASELINES))
    raise ValueError(f"There is no meter {name!r}, and no such file; there are {known}, and files of weights.")


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_export)
    parser.add_argument("--run", dest="directory", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")


def _export(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Writes the weights of a trained run as a meter."""
    if options.out.suffix != ".safetensors":
        parser.error(f"{options.out} must end in .safetensors")
    export.export_meter(options.directory, options.out)
    print(f"{options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


def _thumbnail_size(height: int, width: int) -> tuple[int, int]:
    return fit_into(240, height, width)


if __name__ == "__main__":
    command_line.command(body)
