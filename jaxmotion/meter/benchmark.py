"""What meters are tried on: worlds they have never seen, and pairs of real clips that somebody has judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.meter import ranking, windows
from jaxmotion.meter.estimate import Clip, Meter
from jaxmotion.meter.meter import canvas
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.pairs import Pair
from jaxmotion.video.synthetic.cluttered_scenes import SceneDistribution

HARD = SceneDistribution(
    split="held_out",
    frames=16,
    sprites=("travel", "circle", "swing", "travel+turn", "bend"),
    speed_profiles=("burst", "to and fro", "even"),
    seed=2025,
)
"""Photographs, and ways and paces of motion (circles, swings, bursts, to and fro), that training never shows."""
CLEAR = dataclasses.replace(
    HARD,
    degradations=(),
    plain=0.0,
    static_sprites=0.0,
    parallax=0.0,
    flow_regions=0.0,
    sprite_size=(0.1, 0.6),
    seed=2027,
)
"""The same without what hides motion: damaged pictures, empty backdrops, parallax, tiny objects."""
CONVERSION = dataclasses.replace(HARD, split="train", seed=2028)
"""What tables of conversion are fitted on."""
SETS = {"clear": CLEAR, "hard": HARD}
SPEEDS = (0.02, 0.06, 0.2)
"""Diagonals per second of the axis that changes in a group."""
GROUP = dataclasses.replace(
    HARD,
    camera=("pan", "zoom", "roll"),
    sprites=("travel", "travel+turn"),
    sprite_counts=(1,),
    sprite_size=(0.15, 0.5),
    camera_speed=(0.08, 0.08),
    sprite_speed=(0.08, 0.08),
    speed_profiles=("even",),
    flow_regions=0.0,
    degradations=(),
    seed=2026,
)
"""Groups differ in one axis only; the other goes at 0.08 diagonals per second."""


def group(axis: str, count: int) -> tuple[list[Clip], int]:
    """Clips of `count` groups in which only that axis' speed changes, group by group; and how many speeds there are."""
    field = {"camera": "camera_speed", "object": "sprite_speed"}[axis]
    by_speed = [_clips(dataclasses.replace(GROUP, **{field: (speed, speed)}), count)[0] for speed in SPEEDS]
    return [clips[index] for index in range(count) for clips in by_speed], len(SPEEDS)


def try_on_worlds(meters: Mapping[str, Meter], worlds: SceneDistribution, count: int, groups: int) -> dict[str, Any]:
    """Pairs, ranks and cross-talk of every meter on `count` worlds and `groups` groups; see `evaluate.ranking`."""
    clips, truth = _clips(worlds, count)
    results = {name: ranking.ranked(speeds(meter, clips, name), truth) for name, meter in meters.items()}
    if groups:
        talk: dict[str, dict[str, Any]] = {name: {} for name in meters}
        for index, axis in enumerate(ranking.AXES):
            alike, size = group(axis, groups)
            for name, meter in meters.items():
                scores = unit.score(speeds(meter, alike, name))
                talk[name][axis] = ranking.cross_talk(scores.reshape(groups, size, 2), index)
        results = {name: {**result, "cross_talk": talk[name]} for name, result in results.items()}
    return results


def try_on_pairs(meters: Mapping[str, Meter], pairs: Sequence[Pair], root: Path) -> dict[str, Any]:
    """The share of judged pairs that every meter puts in the right order."""
    names, judged = indexed(pairs)
    wanted = windows.Wanted(canvas=canvas)
    clips = [whole_clip(root / name, wanted) for name in tqdm(names, "reading clips", unit="clip", leave=False)]
    results = {}
    for name, meter in meters.items():
        found = speeds(meter, clips, name)
        by_axis = {axis: ranking.judged_pairs(judged, index) for index, axis in enumerate(ranking.AXES)}
        results[name] = {
            axis: ranking.pairs_right(found[:, index], by_axis[axis]) for index, axis in enumerate(ranking.AXES)
        }
        results[name]["speeds"] = {clip: found[index].tolist() for index, clip in enumerate(names)}
    return results


def speeds(meter: Meter, clips: Sequence[Clip], name: str) -> Float[np.ndarray, "N 2"]:
    """What a meter says about clips: the speeds of object and camera."""
    readings = [meter([clip])[0] for clip in tqdm(clips, name, unit="clip", leave=False)]
    return np.array([[reading.object_speed, reading.camera_speed] for reading in readings], np.float64)


def whole_clip(path: Path, wanted: windows.Wanted) -> Clip:
    """All frames of a file, `wanted.step` seconds apart, about."""
    long = dataclasses.replace(wanted, frames=100_000)
    part = windows.plan(str(path), long, 0).parts[0]
    read = windows.read(str(path), part, long)
    if read.clips[0] is None:
        raise ValueError(f"{path}: {read.reason}.")
    return read.clips[0]


def indexed(pairs: Sequence[Pair]) -> tuple[list[str], list[tuple[int, int, str, str]]]:
    """The clips that pairs name, and the pairs with indices in place of names."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    places: Mapping[str, int] = {name: index for index, name in enumerate(names)}
    return names, [(places[pair.a], places[pair.b], pair.stronger_object, pair.stronger_camera) for pair in pairs]


def draw(worlds: SceneDistribution, count: int) -> list[Clip]:
    """The first clips of some worlds."""
    return _clips(worlds, count)[0]


def _clips(config: SceneDistribution, count: int) -> tuple[list[Clip], np.ndarray]:
    clips, truth = [], []
    for example in tqdm(config.sampler().clips(count), "drawing scenes", count, unit="clip", leave=False):
        clips.append(Clip.at(example[VIDEO], float(example[FPS])))
        truth.append((float(example["object"]), float(example["camera"])))
    return clips, np.array(truth)
