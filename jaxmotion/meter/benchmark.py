"""Benchmarks of motion meters: drawn scenes with known motion, and pairs of real clips that people have judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.meter import ranking, windows
from jaxmotion.meter.estimate import Clip, MotionMeter
from jaxmotion.meter.meter import canvas
from jaxmotion.video import motion_scale
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
"""`HARD` without what hides motion: damaged pictures, empty backdrops, parallax, tiny objects."""
CONVERSION = dataclasses.replace(HARD, split="train", seed=2028)
"""Scenes that tables of conversion are fitted on."""
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


def draw_groups(axis: str, count: int) -> tuple[list[Clip], int]:
    """Draws clips of `count` groups in which only that axis' speed changes, and returns also the number of speeds."""
    field = {"camera": "camera_speed", "object": "sprite_speed"}[axis]
    by_speed = [_draw(dataclasses.replace(GROUP, **{field: (speed, speed)}), count)[0] for speed in SPEEDS]
    return [clips[index] for index in range(count) for clips in by_speed], len(SPEEDS)


def benchmark_on_scenes(meters: Mapping[str, MotionMeter], scenes: SceneDistribution, count: int, groups: int) -> Json:
    """Returns pairs, ranks and cross-talk of every meter on `count` scenes and `groups` groups; see `ranking`."""
    clips, truth = _draw(scenes, count)
    results = {name: ranking.ranking_metrics(speeds(meter, clips, name), truth) for name, meter in meters.items()}
    if groups:
        talk: dict[str, Json] = {name: {} for name in meters}
        for index, axis in enumerate(ranking.AXES):
            alike, size = draw_groups(axis, groups)
            for name, meter in meters.items():
                scores = motion_scale.score(speeds(meter, alike, name))
                talk[name][axis] = ranking.cross_talk(scores.reshape(groups, size, 2), index)
        results = {name: {**result, "cross_talk": talk[name]} for name, result in results.items()}
    return results


def benchmark_on_pairs(meters: Mapping[str, MotionMeter], pairs: Sequence[Pair], root: Path) -> Json:
    """Returns the share of judged pairs that every meter puts in the right order."""
    names, judged = index_pairs(pairs)
    spec = windows.WindowSpec(canvas=canvas)
    clips = [whole_clip(root / name, spec) for name in tqdm(names, "reading clips", unit="clip", leave=False)]
    results = {}
    for name, meter in meters.items():
        found = speeds(meter, clips, name)
        by_axis = {axis: ranking.judged_pairs(judged, index) for index, axis in enumerate(ranking.AXES)}
        results[name] = {
            axis: ranking.pairs_right(found[:, index], by_axis[axis]) for index, axis in enumerate(ranking.AXES)
        }
        results[name]["speeds"] = {clip: found[index].tolist() for index, clip in enumerate(names)}
    return results


def speeds(meter: MotionMeter, clips: Sequence[Clip], name: str) -> Float[np.ndarray, "N 2"]:
    """Returns a meter's speeds of object and camera, clip by clip."""
    estimates = [meter([clip])[0] for clip in tqdm(clips, name, unit="clip", leave=False)]
    return np.array([[estimate.object_speed, estimate.camera_speed] for estimate in estimates], np.float64)


def whole_clip(path: Path, spec: windows.WindowSpec) -> Clip:
    """Decodes all of a file, with frames about `spec.step` seconds apart."""
    long = dataclasses.replace(spec, frames=100_000)
    group = windows.plan_windows(str(path), long, 0).groups[0]
    decoded = windows.decode_windows(str(path), group, long)
    if decoded.clips[0] is None:
        raise ValueError(f"{path}: {decoded.reason}.")
    return decoded.clips[0]


def index_pairs(pairs: Sequence[Pair]) -> tuple[list[str], list[tuple[int, int, str, str]]]:
    """Returns the clips that pairs name, and the pairs with indices in place of names."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    places: Mapping[str, int] = {name: index for index, name in enumerate(names)}
    return names, [(places[pair.a], places[pair.b], pair.stronger_object, pair.stronger_camera) for pair in pairs]


def draw_clips(scenes: SceneDistribution, count: int) -> list[Clip]:
    """Draws the first clips of some scenes."""
    return _draw(scenes, count)[0]


def _draw(config: SceneDistribution, count: int) -> tuple[list[Clip], np.ndarray]:
    clips, truth = [], []
    for example in tqdm(config.sampler().clips(count), "drawing scenes", count, unit="clip", leave=False):
        clips.append(Clip.at(example[VIDEO], float(example[FPS])))
        truth.append((float(example["object"]), float(example["camera"])))
    return clips, np.array(truth)
