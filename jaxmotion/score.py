"""`python -m jaxmotion.score`: how much the objects and the camera of your clips move."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from jaxmotion.foundation import command_line as commands
from jaxmotion.meter import benchmark as trials
from jaxmotion.meter import conversion, label, meter, plot, tool, windows
from jaxmotion.meter import score_files as files
from jaxmotion.meter import sinks as write
from jaxmotion.meter.baselines import BASELINES
from jaxmotion.meter.estimate import Named
from jaxmotion.runs import export

DESCRIPTION = """Says how much the objects and how much the camera of your clips move, each on a scale of 1 to 10.

  python -m jaxmotion.score clips                               one line of JSON for each clip, printed
  python -m jaxmotion.score clips --out scores.jsonl --plot     into a file, with pictures of how they are spread
  python -m jaxmotion.score 'shots/**/*.mov' a.mp4 list.txt --out scores.parquet
  python -m jaxmotion.score --metadata clips/metadata.jsonl     into a data set's own list
  python -m jaxmotion.score clips --meter tracks --out pseudo_labels.jsonl     by points that are followed, instead
  python -m jaxmotion.score label clips --out pairs.csv         a page on which you say which of two clips moves more
  python -m jaxmotion.score convert vmaf 12                     what another's number usually means here
  python -m jaxmotion.score ship --run runs/meter --out my_meter.safetensors   weights for --meter, from a trained run

A PATH is a folder (searched through), a video, a pattern, or a list: .txt with one path a line, .csv or .jsonl with a
column path or file_name. A run that was stopped goes on where it was when the same command is given again; clips whose
content is known are not measured again."""

EPILOG = """What is said about a clip:
  path            as you gave it
  object, camera  scores from 1 (still) to 10: the speed of what moves by itself, and of the camera, on a logarithmic
                  scale that knows neither frame rate nor resolution (jaxmotion.video.motion_scale)
  move            what the camera mostly does: static, pan, tilt, zoom or roll
  confidence      0 to 1: how likely both scores are within 1 of the truth, as the meter believes
  object_speed, camera_speed   the speeds behind the scores, in frame diagonals per second
  seconds, fps, width, height  of the video, as it is shown
  hash, meter     of the file's content (all of it up to 16 MiB, else 16 MiB spread over it); which meter measured
  windows         the same for every window of about 2 seconds (start and end in seconds), if there is more than one
  sampled         the number of windows asked for, if a long clip has more than that
  note            what is wrong with the file, if it could be scored in part: at least one whole window can be decoded

Files that cannot be scored are named on stderr and in OUT.bad.jsonl, each with its reason; they stop nothing. The exit
code is 0 if there is any score, 2 if there is none.

With --metadata, rows get "motion": {"object", "camera", "unit", "source"}. If "motion" means something else in that
file already, it stays, and the key is "motion_score". Nothing else in the file changes."""

ENDINGS = (".jsonl", write.PARQUET)


def body(arguments: list[str]) -> None:
    """Parses and does what was asked."""
    if arguments[:1] == ["label"]:
        label.command(arguments[1:])
        return
    if arguments[:1] == ["ship"]:
        _ship(arguments[1:])
        return
    if arguments[:1] == ["convert"]:
        _convert(arguments[1:])
        return
    options = _parser().parse_args(arguments)
    if not options.paths and options.metadata is None:
        _parser().error("a PATH is needed: a folder, videos, a pattern or a list (--help shows examples)")
    raise SystemExit(_score(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxmotion.score",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="folders, videos, patterns, lists")
    parser.add_argument("--out", type=_out, metavar="FILE", help="write .jsonl or .parquet (default: print JSON lines)")
    parser.add_argument(
        "--metadata", type=Path, metavar="FILE", help="add the scores to this metadata.jsonl (of its clips, if no PATH)"
    )
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
    return parser


def _out(name: str) -> Path:
    if not name.endswith(ENDINGS):
        raise argparse.ArgumentTypeError(f"{name} ends in neither of {', '.join(ENDINGS)}")
    return Path(name)


def _score(options: argparse.Namespace) -> int:
    if options.windows < 0 or options.batch < 1 or options.threads < 1:
        raise ValueError(
            f"--windows {options.windows} --batch {options.batch} --threads {options.threads}: windows must be 0 or "
            "more, the others 1 or more."
        )
    if options.metadata is not None:
        write.check_metadata(options.metadata)
    videos = files.find_videos(options.paths or [str(options.metadata)])

    _keep_compiled()
    chosen, canvas = _meter(options.meter)
    wanted = windows.Wanted(meter.FRAMES, meter.STEP, canvas)
    started = time.perf_counter()
    with write.sink_for(options.out, options.metadata, videos) as (sink, bad):
        settings = {"wanted": wanted, "most": options.windows, "batch": options.batch, "threads": options.threads}
        tally = tool.score_videos(videos, chosen, sink, **settings, bad=bad, progress=sys.stderr)
    seconds = time.perf_counter() - started
    measured = len(tally.records) - tally.known
    print(
        f"{measured} clips scored in {seconds:.1f} s ({measured / max(seconds, 1e-9):.1f} a second)"
        + (f", {tally.known} known from before" if tally.known else "")
        + (f", {len(tally.bad)} that cannot be scored" if tally.bad else "")
        + (f" (named in {write.bad_beside(options.out)})" if tally.bad and options.out else "")
        + (f"; {options.out}" if options.out else ""),
        file=sys.stderr,
    )
    if options.plot is not None and tally.records:
        spread = options.plot if options.plot.name else (options.out or Path("scores")).with_suffix(".png")
        stills = partial(windows.stills, wanted=windows.Wanted(canvas=_thumbnail))
        print(plot.plot_scores(tally.records, spread), file=sys.stderr)
        sheet = spread.with_name(f"{spread.stem}.extremes.png")
        print(plot.contact_sheet(tally.records, sheet, stills), file=sys.stderr)
    return 0 if tally.records else 2


def _keep_compiled() -> None:
    """Keeps compiled programs in the user's cache, so that only the first run waits for the compiler."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxmotion" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _meter(name: str) -> tuple[tool.NamedMeter, Callable[[int, int], tuple[int, int]]]:
    """The meter of that name, and the size at which it wants videos to be read."""
    if name == "shipped":
        return meter.shipped(), meter.canvas
    if name in BASELINES:
        return Named(BASELINES[name](), name), _for_tracks
    if Path(name).is_file():
        return meter.load(Path(name)), meter.canvas
    known = ", ".join(("shipped", *BASELINES))
    raise ValueError(f"There is no meter {name!r}, and no such file; there are {known}, and files of weights.")


def _ship(arguments: list[str]) -> None:
    """Writes the weights of a trained run as a meter."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmotion.score ship",
        description="Writes the averaged weights of a run of configs/motion_estimator.py as one file for --meter.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"{options.out} must end in .safetensors")
    export.ship_meter(options.run, options.out)
    print(f"{options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


def _convert(arguments: list[str]) -> None:
    """Says what a peer's number usually means in our scores, or fits the tables anew."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmotion.score convert",
        description=conversion.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("peer", choices=(*conversion.PEERS, "fit"), help="whose number it is; fit makes the tables")
    parser.add_argument("value", type=float, nargs="?", help="the number")
    parser.add_argument("--worlds", type=int, default=600, metavar="N", help="fit: on so many worlds (default 600)")
    parser.add_argument("--out", type=Path, default=conversion.TABLE, metavar="FILE", help="fit: where the tables go")
    options = parser.parse_args(arguments)
    if options.peer == "fit":
        clips = trials.draw(trials.CONVERSION, options.worlds)
        tables = conversion.fit(conversion.measure(clips, meter.shipped()))
        options.out.write_text(json.dumps(tables, indent=1) + "\n")
        print(options.out)
        return
    if options.value is None:
        parser.error(f"a number is needed, such as: convert {options.peer} 12")
    for name, (low, median, high) in conversion.convert(options.value, options.peer, conversion.load()).items():
        print(f"{name:7s} {median:5.2f}   (8 of 10 clips: {low:.2f} to {high:.2f})")


def _for_tracks(height: int, width: int) -> tuple[int, int]:
    return _at_most(480, height, width)


def _at_most(side: int, height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, side / max(height, width))
    return max(16, round(height * scale)), max(16, round(width * scale))


def _thumbnail(height: int, width: int) -> tuple[int, int]:
    return _at_most(240, height, width)


if __name__ == "__main__":
    commands.command(body)
