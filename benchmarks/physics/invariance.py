"""The same scene at other frame rates, in other sizes and lying on its side: a score must stay within 0.5.

A group is one scene in all its forms. Its spread is the range of measured minus true, so that a form whose true speed
differs a little (a circle's chords are shorter at fewer frames a second) is compared with its own truth.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.physics.clip import Clip, Shot, Surface, Thing
from benchmarks.physics.draws import Drawing, file_name
from benchmarks.physics.paths import Move
from benchmarks.physics.photographs import Photograph
from benchmarks.physics.report import Results
from jaxmotion.video.motion_scale import AXES

INVARIANCE = "invariance"
SEED = 2035
GROUPS = 12
"""Scenes of each kind."""
RATES = (8, 12, 24, 30, 60)
SIZES = ((128, 72), (192, 108), (256, 144), (384, 216), (640, 360))
SCENES = (("pan", ""), ("zoom", ""), ("", "line"), ("roll", ""), ("", "circle"), ("pan", "line"))
"""What the camera and a thing do, in turn."""


def draw_invariance(photographs: Mapping[str, Photograph]) -> list[Clip]:
    """Draws the groups of all kinds; the condition of a clip is its kind, and its name begins with its group's."""
    return [
        clip
        for kind, draw in KINDS.items()
        for index in range(GROUPS)
        for clip in draw(_scene(kind, index, photographs))
    ]


def spreads(results: Results) -> dict:
    """Returns, for each kind, how far the forms of a scene lie apart, in scores."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, clip in enumerate(results.clips):
        groups[clip.condition][clip.name.rpartition("_")[0]].append(index)
    summary = {}
    for kind, members in groups.items():
        ranges = np.array([np.ptp(results.off[index], axis=0) for index in members.values()])
        worst = {axis: list(members)[int(ranges[:, i].argmax())] for i, axis in enumerate(AXES)}
        summary[kind] = {
            axis: {
                "groups": len(ranges),
                "median": round(float(np.median(ranges[:, i])), 3),
                "largest": round(float(ranges[:, i].max()), 3),
                "within 0.5": round(float((ranges[:, i] <= 0.5).mean()), 3),
                "worst": worst[axis],
            }
            for i, axis in enumerate(AXES)
        }
    return summary


def format_spreads(summary: Mapping) -> str:
    """Returns the spreads as a Markdown table."""
    lines = ["| same scene at another | axis | scenes | median spread | largest | within 0.5 |", "|---" * 6 + "|"]
    for kind, axes in summary.items():
        for axis, part in axes.items():
            largest = f"{part['largest']:.2f} ({part['worst']})"
            near = f"{100 * part['within 0.5']:.0f} %"
            lines.append(f"| {kind} | {axis} | {part['groups']} | {part['median']:.2f} | {largest} | {near} |")
    return "\n".join(lines) + "\n"


def _scene(kind: str, index: int, photographs: Mapping[str, Photograph]) -> Clip:
    name = f"{file_name(kind)}_{index:02d}"
    d = Drawing(name, kind, (SEED, zlib.crc32(kind.encode()), index), photographs)
    d.size, d.fps, d.seconds = (256, 144), 24.0, 2.0
    camera, thing = SCENES[index % len(SCENES)]

    def draw() -> Clip:
        moves = d.camera(camera, d.speed(3.0, 7.0), room=0.2) if camera else ()
        things = (_plain_outline(d.thing(thing, d.speed(4.0, 7.5), d.log(0.05, 0.3))),) if thing else ()
        return d.clip(Shot(dataclasses.replace(d.backdrop(), mirrored=False), moves, things), by="call")

    return d.shown(draw)


def _plain_outline(thing: Thing) -> Thing:
    return dataclasses.replace(thing, bends=(), box=0.0)


def _rates(scene: Clip) -> list[Clip]:
    seconds = scene.times[-1] + 1 / scene.fps
    return [
        dataclasses.replace(
            scene,
            name=f"{scene.name}_{rate}",
            fps=float(rate),
            times=tuple((np.arange(round(seconds * rate)) / rate).tolist()),
        )
        for rate in RATES
    ]


def _sizes(scene: Clip) -> list[Clip]:
    return [dataclasses.replace(scene, name=f"{scene.name}_{w}", width=w, height=h) for w, h in SIZES]


def _sides(scene: Clip) -> list[Clip]:
    turned = dataclasses.replace(
        scene,
        name=f"{scene.name}_turned",
        width=scene.height,
        height=scene.width,
        scenes=tuple(
            Shot(
                _turn_surface(shot.backdrop),
                tuple(_turn_move(move) for move in shot.camera),
                tuple(_turn_thing(thing) for thing in shot.things),
            )
            for shot in scene.scenes
        ),
    )
    return [dataclasses.replace(scene, name=f"{scene.name}_upright"), turned]


def _turn_surface(surface: Surface) -> Surface:
    return dataclasses.replace(surface, turn=surface.turn - np.pi / 2)


def _turn_move(move: Move) -> Move:
    return dataclasses.replace(move, towards=move.towards + np.pi / 2, about=_turn_point(move.about))


def _turn_thing(thing: Thing) -> Thing:
    return dataclasses.replace(
        thing,
        surface=_turn_surface(thing.surface),
        start=_turn_point(thing.start),
        moves=tuple(_turn_move(move) for move in thing.moves),
    )


def _turn_point(point: tuple[float, float]) -> tuple[float, float]:
    return -point[1], point[0]


KINDS: Mapping[str, Callable[[Clip], list[Clip]]] = {"frame rate": _rates, "size": _sizes, "on its side": _sides}
"""What differs within a group, and what gives all forms of a scene."""
