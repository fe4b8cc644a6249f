"""Clips with a story: each shows one thing that has misled meters of motion, and says what is right.

The right values follow from the paths as those of all clips do; what is a matter of definition (a watermark is no
object, a flash is no motion) is 1.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.physics.clip import Clip, Shot, Surface, Thing
from benchmarks.physics.draws import Drawing, file_name
from benchmarks.physics.paths import Curve, Move
from benchmarks.physics.photographs import Photograph
from jaxmotion.video.motion_scale import speed

NAMED = "named"
SEED = 2033
BACKDROPS = 3
"""Backdrops, and directions, in which each story is told."""


def draw_named(photographs: Mapping[str, Photograph]) -> list[Clip]:
    """Draws every story on several backdrops."""
    clips = []
    for story, tell in STORIES.items():
        for index in range(BACKDROPS):
            drawing = Drawing(
                f"{file_name(story)}_{index}", story, (SEED, zlib.crc32(story.encode()), index), photographs
            )
            for clip in tell(drawing, index):
                clips.append(clip)
    return clips


def _pan(rate: float, angle: float = 0.0, **curve: float) -> tuple[Move, ...]:
    kind = "part" if curve else "even"
    return (Move("shift", Curve(kind, rate, **curve), angle),)


def _both_ways(clip: Clip) -> list[Clip]:
    """The same clip for the Python call and for the command."""
    name = clip.name
    return [dataclasses.replace(clip, name=f"{name}_{by}", by=by, crf=18) for by in ("call", "command")]


def _object_before_wall(d: Drawing, index: int) -> list[Clip]:
    """10 % of the picture at 0.8 diagonals a second before a plain still wall: camera 1."""
    d.size, d.fps, d.seconds = ((320, 180), (240, 240), (180, 320))[index], 24.0, 2.0
    frame = np.array(d.size) / np.hypot(*d.size)
    radius = float(np.sqrt(0.1 * frame.prod() / np.pi))
    to_and_fro = Curve("turning", 0.8, 0.14)
    circle = Move("circle", Curve("even", 0.8), reach=0.12)
    moves = ((Move("shift", to_and_fro),), (circle,), (Move("shift", to_and_fro, np.pi / 2),))[index]
    thing = Thing(d.skin(radius), radius, (0.0, 0.0), moves)
    return [d.clip(Shot(d.wall(), (), (thing,)), crf=20)]


def _watermark_over_pan(d: Drawing, index: int) -> list[Clip]:
    """A translucent text in the middle of a pan of 0.16 diagonals a second: object 1, camera 6."""
    d.size = (336, 188)
    mark = {"height": 0.16, "width": 0.75, "x": 0.5, "y": 0.5, "rows": 0, "small": 1, "grey": 255}
    mark["alpha"] = (0.3, 0.45, 0.6)[index]
    return [d.clip(Shot(d.backdrop(), _pan(0.16, index)), effects=(("mark", mark),), crf=23)]


def _fast_pan(d: Drawing, index: int) -> list[Clip]:
    d.fps = (24.0, 30.0, 12.0)[index]
    return [d.clip(Shot(d.backdrop(), _pan((0.45, 0.6, 0.8)[index], index)), crf=20)]


def _shake(d: Drawing, index: int) -> list[Clip]:
    """4 Hz, mean speed 0.16: of frames 1/8 s apart all show the same."""
    d.fps = (24.0, 32.0, 60.0)[index]
    rate = 0.16 * np.pi / 2 / np.sqrt(2)
    curve = Curve("waves", rate, hertz=(4.0,), phases=((0.0, 0.3, 0.6)[index],))
    return [d.clip(Shot(d.backdrop(), (Move("shift", curve, index),)), crf=20)]


def _hard_compression(d: Drawing, index: int) -> list[Clip]:
    camera = (_pan(0.1), (Move("zoom", Curve("even", 0.2)),), ())[index]
    return [d.clip(Shot(d.backdrop(), camera), crf=51)]


def _two_frames(d: Drawing, index: int) -> list[Clip]:
    d.fps, d.seconds = 60.0, 2 / 60
    return _both_ways(d.clip(Shot(d.backdrop(), (_pan(0.05), _pan(0.3, 1.0), ())[index])))


def _side_bars(d: Drawing, index: int) -> list[Clip]:
    """A pan of score 6.5 between black bars."""
    bars = {"sides": (0.125, 0.2, 0.34)[index], "ends": 0.0, "grey": 0}
    return [d.clip(Shot(d.backdrop(), _pan(float(speed(6.5)), index)), effects=(("bars", bars),), crf=20)]


def _flash_on_still(d: Drawing, index: int) -> list[Clip]:
    flash = {"start": 0.8, "seconds": (0.05, 0.2, 0.5)[index], "strength": (3.0, 1.5, 0.8)[index], "every": 0.0}
    return [d.clip(Shot(d.backdrop()), effects=(("flash", flash),), crf=20)]


def _fade_of_still(d: Drawing, index: int) -> list[Clip]:
    fade = {"start": 0.5, "end": 1.8, "back": float(index == 1), "most": 1.0, "grey": (0.0, 0.0, 255.0)[index]}
    return [d.clip(Shot(d.backdrop()), effects=(("fade", fade),), crf=20)]


def _pan_within(d: Drawing, index: int) -> list[Clip]:
    """5 s of which 1 s pans: camera 5.15, by the call and by the command."""
    d.seconds, d.fps = 5.0, (24.0, 30.0, 12.0)[index]
    start = (2.0, 0.5, 3.7)[index]
    rate = float(speed(5.15)) * (d.times[-1] - d.times[0])
    return _both_ways(d.clip(Shot(d.backdrop(), _pan(rate, index, a=start, b=start + 1.0))))


def _portrait(d: Drawing, index: int) -> list[Clip]:
    """A pan and a tilt of the same speed in an upright clip."""
    d.size = (180, 320)
    rate, backdrop = float(speed((3.87, 5.5, 2.5)[index])), d.backdrop()
    clips = [d.clip(Shot(backdrop, _pan(rate, angle)), crf=20) for angle in (0.0, np.pi / 2)]
    return [dataclasses.replace(c, name=f"{c.name}_{w}") for c, w in zip(clips, ("pan", "tilt"), strict=True)]


def _cut_between_stills(d: Drawing, index: int) -> list[Clip]:
    d.seconds = 2.0 + index
    shots = tuple((d.times > 0.45 * d.seconds).astype(int).tolist())
    return [d.clip(Shot(d.backdrop()), Shot(d.backdrop()), shots=shots, crf=20)]


def _held_frames(d: Drawing, index: int) -> list[Clip]:
    """12 pictures a second in a file of 24, or 20 in 60, or 24 in 30: the mean speed stays."""
    d.fps, shown = ((24.0, 12), (60.0, 20), (30.0, 24))[index]
    times = np.floor(d.times * shown + 1e-6) / shown
    return [d.clip(Shot(d.backdrop(), _pan(0.12, index)), times=times, crf=20)]


def _gallery(d: Drawing, index: int) -> list[Clip]:
    """A pan over a wall with a few pictures on it."""
    wall: Surface = d.wall("gallery")
    return [d.clip(Shot(wall, _pan(0.1, index)), crf=20)]


STORIES: Mapping[str, Callable[[Drawing, int], list[Clip]]] = {
    "object before a plain wall": _object_before_wall,
    "watermark over a pan": _watermark_over_pan,
    "fast pan": _fast_pan,
    "shake at 4 Hz": _shake,
    "crf 51": _hard_compression,
    "two frames at 60 fps": _two_frames,
    "bars at the sides": _side_bars,
    "flash on a still": _flash_on_still,
    "fade of a still": _fade_of_still,
    "pan within 5 s": _pan_within,
    "portrait pan and tilt": _portrait,
    "cut between stills": _cut_between_stills,
    "held frames": _held_frames,
    "pan over a gallery": _gallery,
}
