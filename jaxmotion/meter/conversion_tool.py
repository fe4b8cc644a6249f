"""`python -m jaxmotion.score convert`: other people's numbers of motion as our scores, and the other way round."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_file
from jaxmotion.foundation.text_files import json_line
from jaxmotion.meter import benchmark, conversion
from jaxmotion.meter.baselines import fit_into
from jaxmotion.meter.estimate import Clip
from jaxmotion.meter.meter import packaged_meter
from jaxmotion.meter.peer_files import FILES, Entry, check_number, complete_shape, options_of, read_numbers, read_shape
from jaxmotion.meter.peers import NUMBER, OURS, PEERS, Peer, Shape
from jaxmotion.meter.score_files import find_videos
from jaxmotion.meter.windows import WindowSpec
from jaxmotion.video.clip_files import SUFFIXES
from jaxmotion.video.container import BadClipError
from jaxmotion.video.motion_scale import HIGHEST, LOWEST, speed
from jaxmotion.video.score_lists import read_scores

FIT, TABLES = "fit", "tables"
ALL_FRAMES = WindowSpec(step=1e-3, canvas=partial(fit_into, 480))
LONGEST = 60.0
"""Seconds of a video that is measured: all its frames are in memory."""
IF_STILL = {"object": "the camera stands still", "camera": "nothing moves by itself"}
WIDTH = max(map(len, PEERS))
DESCRIPTION = """Says what another's number of motion usually means on our scale, and the other way round.

  python -m jaxmotion.score convert vmaf 12                                  a number
  python -m jaxmotion.score convert codec 3.1 --fps 24 --size 1280x720       one in pixels per frame
  python -m jaxmotion.score convert codec a.mp4                              what that file's number is, and means
  python -m jaxmotion.score convert kandinsky predictions.json --out scores.jsonl   all numbers of a file
  python -m jaxmotion.score convert vmaf --back 6                            their number for a score of ours
  python -m jaxmotion.score convert tables                                   how much each number knows
  python -m jaxmotion.score convert fit --clips clips                        all tables anew
  python -m jaxmotion.score convert fit --peer kandinsky --numbers predictions.json --scores scores.jsonl --out my.json

Peers:
""" + "\n".join(f"  {name:{WIDTH}}  {peer.title}" for name, peer in PEERS.items())
EPILOG = """A table says what the scores of clips with that number usually are, and between which values 8 of 10 clips
lie. One number cannot tell objects from the camera: what it says of each is what such clips usually do. Kandinsky's
table is laid down (score = 1 + 3 x number) and not fitted, as its network is not here; the last example fits one to
your clips, and --tables my.json uses it. docs/motion_scores.md has the spreads.

A FILE is .json, .jsonl, .csv or .tsv: rows with the clip's name and the number (its usual names; --key for another),
or, as Kandinsky's `inference` returns them, lists by name. fps, width, height and seconds of a clip are taken from its
row, from the options, or from the clip itself where it is there. Training reads the file that --out writes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command `convert`."""
    parser.set_defaults(run=_run)
    parser.add_argument(
        "peer", choices=(*PEERS, FIT, TABLES), metavar="PEER", help="whose number it is; or fit, or tables"
    )
    parser.add_argument("value", nargs="?", metavar="NUMBER|FILE", help="the number, a file of numbers, or a video")
    parser.add_argument("--fps", type=_positive, metavar="F", help="frames per second of the clips")
    parser.add_argument("--size", type=_size, metavar="WxH", help="their width and height in pixels, such as 1280x720")
    parser.add_argument("--seconds", type=_positive, metavar="S", help="how long they are")
    parser.add_argument("--key", default="", metavar="NAME", help="the number's name in the file, if it is not found")
    parser.add_argument("--back", type=float, metavar="SCORE", help="convert a score of ours into the peer's number")
    parser.add_argument(
        "--axis", choices=OURS, help="of --back: which score it is (default both: that of both speeds together)"
    )
    parser.add_argument("--tables", type=Path, default=conversion.TABLE, metavar="FILE", help="tables that `fit` wrote")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write scores here (.jsonl); of fit: the tables (default: the package's)",
    )
    fit = parser.add_argument_group("options of fit")
    fit.add_argument("--scenes", "--worlds", type=int, default=250, metavar="N", help="drawn scenes (default 250)")
    fit.add_argument("--clips", nargs="+", default=[], metavar="PATH", help="and these real clips")
    fit.add_argument("--peer", dest="fitted", choices=tuple(PEERS), help="fit this peer only, to the next two")
    fit.add_argument("--numbers", type=Path, metavar="FILE", help="the peer's numbers of your clips")
    fit.add_argument("--scores", type=Path, metavar="FILE", help="our scores of them (--out of `score`)")


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs the command."""
    if options.peer == FIT:
        if (options.value, options.back) != (None, None):
            parser.error("fit takes no number; it has --scenes and --clips, or --peer, --numbers and --scores")
        _fit_tables(options, parser)
        return
    if options.fitted or options.numbers or options.scores or options.clips:
        parser.error("--peer, --numbers, --scores and --clips are for: convert fit")
    if options.peer != TABLES and (options.value is None) == (options.back is None):
        parser.error(
            f"a number, a file or --back is needed, and one of them only, such as: convert {options.peer} "
            + ("predictions.json" if options.peer == "kandinsky" else "12")
        )
    if options.axis and options.back is None:
        parser.error("--axis goes with --back")
    if options.out is not None and not (options.value or "").lower().endswith(FILES):
        parser.error(f"--out is for files of numbers ({', '.join(FILES)}) and for: convert fit")
    tables = conversion.load(options.tables)
    if options.peer == TABLES:
        print("\n".join(describe_tables(tables)))
        return
    width, height = options.size or (0, 0)
    shape = Shape(options.fps or 0.0, width, height, options.seconds or 0.0)
    if options.back is not None:
        _print_back(options, tables, shape)
    elif options.value.lower().endswith(FILES):
        _convert_file(options, tables, shape)
    elif options.value.lower().endswith(SUFFIXES):
        _convert_video(options, tables)
    else:
        _convert_number(options, tables, shape)


def describe_tables(tables: Json) -> Iterator[str]:
    """Yields the lines of a table, in Markdown, of how much each peer's number says of our scores."""
    yield "| peer | of | rank correlation | +- of 8 in 10 clips | real clips inside | median error | there and back |"
    yield "|---|---|---|---|---|---|---|"
    for name in PEERS:
        table = tables[name]
        if "note" in table:
            yield f"| {name} | {', '.join(table['to_ours'])} | {table['note']} | | | | exact |"
            continue
        for axis in table["to_ours"]:
            real = table.get("real", {}).get(axis)
            checked = f"{real['inside']:.0%} | {real['error']:.2f}" if real else " | "
            yield (
                f"| {name} | {axis} | {table['rho'][axis]:.2f} | {table['spread'][axis]:.2f} | {checked} "
                f"| {table['round_trip'][axis]:.2f} |"
            )


def _convert_number(options: argparse.Namespace, tables: Json, shape: Shape) -> None:
    peer = PEERS[options.peer]
    try:
        value = float(options.value)
    except ValueError:
        raise ValueError(
            f"{options.value} is no number, nor a file that ends in one of {', '.join(FILES)}, nor a video."
        ) from None
    value = check_number(value, peer, f"The number of {options.peer}")
    _print_scores(value * _factor(options.peer, shape), options.peer, tables)


def _factor(name: str, shape: Shape) -> float:
    """Returns what makes the table's unit of a peer's.

    Raises:
        ValueError: what the unit needs was not given.
    """
    unit = PEERS[name].unit
    if not all(getattr(shape, need) for need in unit.needs):
        raise ValueError(f"{name} counts in {unit.name}; give {' and '.join(options_of(unit))}.")
    return unit.factor(shape)


def _print_scores(value: float, name: str, tables: Json) -> None:
    """Prints our scores for one number, and on stderr what is to be known of them."""
    for axis, interval in conversion.convert(value, name, tables).items():
        print(f"{axis:7s} {_say(interval, '5.2f')}")
    for axis, interval in conversion.convert_alone(value, name, tables).items():
        print(f"{axis:7s} {_say(interval, '5.2f')}   if {IF_STILL[axis]}")
    for remark in _remarks(value, name, tables):
        print(remark, file=sys.stderr)


def _say(interval: conversion.Interval, form: str) -> str:
    """Returns a median, and the interval where it is known."""
    low, median, high = interval
    around = "" if math.isnan(low) else f"   (8 of 10 clips: {low:{form.lstrip('5')}} to {high:{form.lstrip('5')}})"
    return f"{median:{form}}{around}"


def _remarks(value: float, name: str, tables: Json) -> Iterator[str]:
    """Yields what is to be known of the scores for a number."""
    table = tables[name]
    if "note" in table:
        yield f"{name}: {table['note']}; how far clips lie from that is not known (--help says how to fit it to yours)."
    else:
        for first, last in dict.fromkeys((at[0], at[-1]) for at in (each["at"] for each in table["to_ours"].values())):
            if not first <= value <= last:
                yield f"{value:.4g} is outside of what the table knows ({first:.4g} to {last:.4g}); its end is given."
    if tuple(PEERS[name].tells) == (NUMBER,):
        yield (
            "One number cannot tell objects from the camera: what it says of each is what such clips usually do "
            f"(rank correlation {table['rho']['object']:.2f} and {table['rho']['camera']:.2f}, with both together "
            f"{table['rho']['both']:.2f})."
        )


def _print_back(options: argparse.Namespace, tables: Json, shape: Shape) -> None:
    """Prints the peer's number for a score of ours."""
    name, score = options.peer, options.back
    if not LOWEST <= score <= HIGHEST:
        raise ValueError(f"--back is {score:g}; our scores are {LOWEST:g} to {HIGHEST:g}.")
    factor = _factor(name, shape)
    for axis in [options.axis] if options.axis else _axes_of(PEERS[name]):
        low, median, high = (number / factor for number in conversion.convert_back(score, name, tables, axis))
        print(f"{name} {_say((low, median, high), '.4g')}   for {axis} {score:g}")


def _axes_of(peer: Peer) -> tuple[str, ...]:
    """Returns the scores that are converted back where none is named."""
    return ("both",) if NUMBER in peer.tells else tuple(peer.tells)


def _convert_video(options: argparse.Namespace, tables: Json) -> None:
    """Measures a video as the peer does, and prints its number and what it means."""
    name, path = options.peer, options.value
    try:
        shape = read_shape(path)
        value = _measure(PEERS[name], path, shape)
    except BadClipError as error:
        raise ValueError(f"{path}: {error}.") from error
    unit = PEERS[name].unit
    print(f"{name:7s} {value / (unit.factor(shape) if unit.needs else 1.0):.4g} {unit.name}".rstrip())
    _print_scores(value, name, tables)


def _measure(peer: Peer, path: str, shape: Shape) -> float:
    """Returns a peer's number of a video, in the unit of its table."""
    if peer.read is not None:
        return peer.read(path) * peer.unit.factor(shape)
    if peer.measure is not None:
        return peer.measure(_read_clip(path, shape))
    raise ValueError("The network of Kandinsky's predictor is not here, so it can measure no video; give its numbers.")


def _read_clip(path: str, shape: Shape) -> Clip:
    """Decodes all frames of a video.

    Raises:
        BadClipError: it is too long to be held.
        ValueError: it cannot be decoded.
    """
    if shape.seconds > LONGEST:
        raise BadClipError(f"it lasts {shape.seconds:.0f} s; cut it into clips of {LONGEST:g} s or less")
    return benchmark.whole_clip(Path(path), ALL_FRAMES)


def _convert_file(options: argparse.Namespace, tables: Json, shape: Shape) -> None:
    """Writes our scores for all numbers of a file: JSON lines, which training reads."""
    name, path = options.peer, Path(options.value)
    if options.out is not None:
        _check_out(options.out, path)
    entries = read_numbers(path, PEERS[name], options.key)
    rows = [_record(entry, name, tables, complete_shape(entry, PEERS[name], shape, path)) for entry in entries]
    unnamed = sum(not entry.clip for entry in entries)
    if unnamed:
        print(f"{unnamed} of {len(entries)} clips have no name in {path}; training needs a 'path'.", file=sys.stderr)
    text = "".join(map(json_line, rows))
    if options.out is None:
        print(text, end="")
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(options.out) as part:
        part.write_bytes(text.encode())
    print(f"{len(rows)} {'clip' if len(rows) == 1 else 'clips'}; {options.out}", file=sys.stderr)


def _check_out(out: Path, path: Path) -> None:
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out} must end in .jsonl.")
    if out.exists() and os.path.samefile(out, path):
        raise ValueError(f"--out {out} is the file of the numbers; choose another one.")


def _record(entry: Entry, name: str, tables: Json, shape: Shape) -> Json:
    """Returns the row for a clip: our scores and their ranges, and what has no counterpart here."""
    factor = PEERS[name].unit.factor(shape)
    found = conversion.convert({key: value * factor for key, value in entry.numbers.items()}, name, tables)
    ranges = {f"{axis}_range": [round(low, 3), round(high, 3)] for axis, (low, _, high) in found.items()}
    others = {key: value for key, value in entry.numbers.items() if key not in PEERS[name].tells}
    return {
        **({"path": entry.clip} if entry.clip else {}),
        **{axis: round(median, 3) for axis, (_, median, _) in found.items()},
        **({} if any(math.isnan(low) for low, _, _ in found.values()) else ranges),
        **others,
        "meter": f"{name} ({tables[name].get('note', 'converted')})",
    }


def _fit_tables(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fits the tables of all peers to drawn scenes and clips, or those of one to its numbers and our scores."""
    paired = (options.fitted, options.numbers, options.scores)
    if any(paired):
        if not all(paired) or options.out is None:
            parser.error("to fit one peer, give --peer, --numbers, --scores and --out")
        tables = conversion.load(options.tables)
        tables[options.fitted] = _fit_to_pairs(options)
    else:
        videos = find_videos(options.clips) if options.clips else []
        meter = packaged_meter()
        conversion.check_count(options.scenes)
        real = conversion.measure(_read_clips(videos), meter) if videos else None
        scenes = conversion.measure(conversion.draw_scenes(options.scenes), meter)
        tables = {"meter": meter.name, **conversion.fit(scenes, real)}
    out = options.out or conversion.TABLE
    with atomic_file(out) as part:
        part.write_text(json.dumps(tables, indent=1) + "\n")
    print(out)


def _read_clips(videos: Sequence[str]) -> Iterator[Clip]:
    for video in tqdm(videos, "real clips", unit="clip", leave=False):
        try:
            clip = _read_clip(video, read_shape(video))
        except BadClipError as error:
            raise ValueError(f"{video}: {error}.") from error
        yield clip


def _fit_to_pairs(options: argparse.Namespace) -> Json:
    """Fits a peer's tables to its numbers and our scores of clips that both files name."""
    path, peer = options.numbers, PEERS[options.fitted]
    entries = read_numbers(path, peer, options.key)
    unnamed = next((entry for entry in entries if not entry.clip), None)
    if unnamed is not None:
        raise ValueError(f"{unnamed.place} names no clip, so that there is no score of ours to compare it with.")
    places = {os.path.realpath(path.parent / entry.clip): index for index, entry in enumerate(entries)}
    scores = read_scores(options.scores, path.parent, places)
    missing = [entry.clip for index, entry in enumerate(entries) if index not in scores]
    if missing:
        print(
            f"{len(missing)} of {len(entries)} clips of {path} have no score in {options.scores}: {missing[0]}, ...",
            file=sys.stderr,
        )
    width, height = options.size or (0, 0)
    given = Shape(options.fps or 0.0, width, height, options.seconds or 0.0)
    numbers: dict[str, list[float]] = {name: [] for name in peer.tells}
    for index in scores:
        factor = peer.unit.factor(complete_shape(entries[index], peer, given, path))
        for name, column in numbers.items():
            column.append(entries[index].numbers[name] * factor)
    ours = [conversion.our_scores(speed(each.object), speed(each.camera)) for each in scores.values()]
    columns = np.array(ours).reshape(-1, len(OURS)).T
    return conversion.fit_pairs(
        options.fitted,
        {name: np.array(column) for name, column in numbers.items()},
        dict(zip(OURS, columns, strict=True)),
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is no size; write it as 1280x720, width first")
    return int(parts[0]), int(parts[1])
