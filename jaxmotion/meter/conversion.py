"""Conversion between other motion measures and our scores, by tables fitted to many clips, with their spread.

A table says, for every value of a peer's number (`peers`), what the object score, the camera score and the score of
both speeds together usually are (median, and between which values 8 of 10 clips lie), and, for every score of ours,
what the peer's number usually is. Most peers have one number and we have two: what a table then says of objects and of
the camera is what clips with such a number usually do, and no property of the clip; `rho` says how much the number
knows of it. Who knows that only one of them moves reads the table for that (`alone`).

Tables are fitted to drawn scenes and to real clips, all measured by the meter in the package. `real` says how well they
do on real clips that they were not fitted to.

Kandinsky's numbers cannot be computed here. Their table is laid down, not fitted: score = 1 + 3 x number, for objects
and for the camera. It joins the ends of both scales, and takes the number below which their README calls a clip static,
0.5, to score 2.5, a speed of about `motion_scale.V0`: the slowest that people call motion. It has no spread.
`fit_pairs` fits one to numbers and scores of the same clips.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr
from tqdm import tqdm

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.meter.benchmark import CONVERSION
from jaxmotion.meter.estimate import Clip, MotionMeter
from jaxmotion.meter.peers import NUMBER, OURS, PEERS, Peer
from jaxmotion.video import motion_scale
from jaxmotion.video.synthetic.cluttered_scenes import SceneDistribution

TABLE = Path(__file__).parent / "weights" / "conversion.json"
SCENES = dataclasses.replace(CONVERSION, frames=48, fps=24.0, sprites=SceneDistribution().sprites)
"""Scenes that tables are fitted to: at usual frame rates, for what is measured on neighbouring frames. Sprites do what
they do in training: circles and swings are drawn per frame and would be trembles."""
PLACES = 25
"""Values for which a table has an entry."""
NEAREST = 0.15
"""Share of the clips whose neighbours' spread an entry tells."""
FEWEST = 40
ALONE = {"object": "camera", "camera": "object"}
"""The other axis of each."""
LAID_DOWN = "not fitted: score = 1 + 3 x number"
Interval = tuple[float, float, float]
"""10th percentile, median and 90th percentile; of a table that is laid down, the ends are NaN."""


def draw_scenes(count: int) -> Iterator[Clip]:
    """Draws scenes to fit tables to, one at a time: together they would take gigabytes."""
    sampler = SCENES.sampler()
    for example in tqdm(sampler.clips(count), "drawing scenes", count, unit="clip", leave=False):
        yield Clip.at(example[VIDEO], float(example[FPS]))


def measure(clips: Iterable[Clip], meter: MotionMeter) -> dict[str, Float[np.ndarray, " N"]]:
    """Returns all measures of clips: our scores, and the numbers of the peers that can be computed here."""
    measured = {name: peer.measure for name, peer in PEERS.items() if peer.measure is not None}
    rows = []
    for clip in clips:
        estimate = meter([clip])[0]
        ours = our_scores(estimate.object_speed, estimate.camera_speed)
        rows.append([*ours, *(number(clip) for number in measured.values())])
    return dict(zip((*OURS, *measured), np.array(rows).T, strict=True))


def our_scores(object_speed: float, camera_speed: float) -> tuple[float, float, float]:
    """Returns the scores of `OURS` for two speeds in diagonals per second."""
    speeds = np.array([object_speed, camera_speed, object_speed + camera_speed])
    object_score, camera, both = motion_scale.score(speeds).tolist()
    return object_score, camera, both


def fit(
    scenes: Mapping[str, Float[np.ndarray, " N"]], real: Mapping[str, Float[np.ndarray, " M"]] | None = None
) -> Json:
    """Fits the tables of all peers to the measures of drawn scenes and of real clips.

    Raises:
        ValueError: there are too few clips.
    """
    count = len(scenes["both"])
    check_count(count)
    there = 0 if real is None else len(real["both"])
    tables: Json = {"scenes": count, "real_clips": there}
    for name, peer in PEERS.items():
        if peer.measure is None:
            tables[name] = _lay_down(peer)
            continue
        together = scenes if real is None else {key: np.concatenate([scenes[key], real[key]]) for key in scenes}
        tables[name] = _fit_peer(peer, {NUMBER: together[name]}, together)
        if real is not None:
            tables[name]["real"] = _check_on_real(_fit_peer(peer, {NUMBER: scenes[name]}, scenes), real[name], real)
    return tables


def fit_pairs(
    peer: str, numbers: Mapping[str, Float[np.ndarray, " N"]], ours: Mapping[str, Float[np.ndarray, " N"]]
) -> Json:
    """Fits the tables of one peer to its numbers and our scores of the same clips.

    Args:
        peer: its name.
        numbers: its numbers by their names.
        ours: our scores by the names in `OURS`.

    Raises:
        ValueError: there are too few clips.
    """
    check_count(len(ours["both"]))
    return {**_fit_peer(PEERS[peer], numbers, ours), "clips": len(ours["both"])}


def convert(value: float | Mapping[str, float], peer: str, tables: Json) -> dict[str, Interval]:
    """Returns our scores for a peer's numbers, by name: 10th percentile, median and 90th percentile of the clips.

    Args:
        value: the numbers by their names, or one for all of them; speeds where the peer has a unit.
        peer: its name.
        tables: of `load` or `fit`.

    Raises:
        ValueError: there is no such peer.
    """
    known = check_peer(peer)
    return {
        ours: _interpolate(tables[peer]["to_ours"][ours], value[number] if isinstance(value, Mapping) else value)
        for number, told in known.tells.items()
        for ours in told
    }


def convert_alone(value: float, peer: str, tables: Json) -> dict[str, Interval]:
    """Returns the score of each axis if the other one stands still, for a peer's only number; where tables have it.

    Raises:
        ValueError: there is no such peer.
    """
    check_peer(peer)
    return {axis: _interpolate(table, value) for axis, table in tables[peer].get("alone", {}).items()}


def convert_back(score: float, peer: str, tables: Json, axis: str = "both") -> Interval:
    """Returns a peer's number for a score of ours.

    Args:
        score: the object score, the camera score, or that of both speeds (`motion_scale.score(object_speed +
            camera_speed)`).
        peer: its name.
        tables: of `load` or `fit`.
        axis: which of `OURS` it is.

    Raises:
        ValueError: there is no such peer, or it has no number for this axis.
    """
    check_peer(peer)
    there = tables[peer]["from_ours"]
    if axis not in there:
        raise ValueError(f"{peer} has no number for {axis}; it has them for {', '.join(there)}.")
    return _interpolate(there[axis], score)


def load(path: Path = TABLE) -> Json:
    """Loads tables: by default those in the package.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in PEERS if not {"to_ours", "from_ours"} <= set(tables[name])]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no tables of conversion; `convert fit` writes them ({error!r}).") from error
    if missing:
        raise ValueError(f"{path} has no tables for {', '.join(missing)}; write it anew with `convert fit`.")
    return tables


def check_peer(peer: str) -> Peer:
    """Returns the peer of that name.

    Raises:
        ValueError: there is none.
    """
    if peer not in PEERS:
        raise ValueError(f"There is no table for {peer!r}; there are {', '.join(PEERS)}.")
    return PEERS[peer]


def check_count(count: int) -> None:
    """Checks that there are clips enough for a table.

    Raises:
        ValueError: there are fewer.
    """
    if count < FEWEST:
        raise ValueError(f"A table needs {FEWEST} clips or more; got {count}.")


def _fit_peer(peer: Peer, numbers: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> Json:
    pairs = {axis: (numbers[number], ours[axis]) for number, told in peer.tells.items() for axis in told}
    to_ours = {axis: _table(number, score) for axis, (number, score) in pairs.items()}
    from_ours = {axis: _table(score, number) for axis, (number, score) in pairs.items()}
    alone = {}
    if NUMBER in peer.tells:
        for axis, other in ALONE.items():
            still = ours[other] < motion_scale.STATIC
            if still.sum() >= FEWEST:
                alone[axis] = _table(numbers[NUMBER][still], ours[axis][still])
    return {
        "to_ours": to_ours,
        "from_ours": from_ours,
        "alone": alone,
        "rho": {axis: round(_rank_correlation(*pair), 3) for axis, pair in pairs.items()},
        "spread": {axis: _spread(to_ours[axis], number) for axis, (number, _) in pairs.items()},
        "round_trip": {axis: _round_trip(to_ours[axis], from_ours[axis]) for axis in pairs},
    }


def _rank_correlation(number: np.ndarray, score: np.ndarray) -> float:
    return float(spearmanr(number, score)[0])  # pyright: ignore[reportArgumentType]


def _lay_down(peer: Peer) -> Json:
    """Returns the tables of Kandinsky's numbers (see above)."""
    numbers = [0.0, peer.highest]
    scores = [motion_scale.LOWEST, motion_scale.HIGHEST]
    return {
        "note": LAID_DOWN,
        "to_ours": {axis: {"at": numbers, "median": scores} for axis in peer.tells},
        "from_ours": {axis: {"at": scores, "median": numbers} for axis in peer.tells},
    }


def _check_on_real(fitted: Json, number: np.ndarray, ours: Mapping[str, np.ndarray]) -> Json:
    """Returns how tables do on clips that they were not fitted to.

    inside: share of the clips whose score lies between the 10th and the 90th percentile. off: median of the score less
    the table's. error: median of its absolute value.
    """
    checks = {}
    for axis, table in fitted["to_ours"].items():
        low, median, high = np.array([_interpolate(table, value) for value in number]).T
        inside = (low - 0.005 <= ours[axis]) & (ours[axis] <= high + 0.005)
        off = ours[axis] - median
        checks[axis] = {
            "inside": round(float(inside.mean()), 2),
            "off": round(float(np.median(off)), 2),
            "error": round(float(np.median(np.abs(off))), 2),
        }
    return checks


def _spread(table: Mapping[str, Sequence[float]], numbers: np.ndarray) -> float:
    """Returns half the distance between the 10th and the 90th percentile, median over the clips: scores."""
    low, _, high = np.array([_interpolate(table, value) for value in numbers]).T
    return round(float(np.median(high - low)) / 2, 2)


def _round_trip(to_ours: Mapping[str, Sequence[float]], from_ours: Mapping[str, Sequence[float]]) -> float:
    """Returns the largest difference between a score and what is left of it after both conversions."""
    scores = np.array(from_ours["at"])
    again = [_interpolate(to_ours, _interpolate(from_ours, score)[1])[1] for score in scores]
    return round(float(np.abs(np.array(again) - scores).max()), 2)


def _table(of: np.ndarray, to: np.ndarray) -> dict[str, list[float]]:
    """Fits the rising median of `to` at quantiles of `of`, with the spread of the clips around."""
    at = np.quantile(of, np.linspace(0.02, 0.98, PLACES))
    near = max(16, int(NEAREST * len(of)))
    around = [to[np.argsort(np.abs(of - place), kind="stable")[:near]] for place in at]
    columns = {name: np.array([np.quantile(part, share) for part in around]) for name, share in _SHARES.items()}
    return {
        "at": _round_digits(at),
        **{name: _round_digits(isotonic_regression(column).x) for name, column in columns.items()},
    }


_SHARES = {"low": 0.1, "median": 0.5, "high": 0.9}


def _interpolate(table: Mapping[str, Sequence[float]], value: float) -> Interval:
    low, median, high = (
        float(np.interp(value, table["at"], table[name])) if name in table else float("nan") for name in _SHARES
    )
    return low, median, high


def _round_digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
