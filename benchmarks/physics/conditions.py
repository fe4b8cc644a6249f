"""Conditions: what the clips of the benchmark show, and how many there are of each kind."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.physics.clip import Clip, Shot
from benchmarks.physics.draws import CAMERAS, LANDSCAPE, SQUARE, UPRIGHT, Drawing, file_name
from benchmarks.physics.paths import Curve, Move
from benchmarks.physics.photographs import Photograph

SEED = 2031


def draw_clips(photographs: Mapping[str, Photograph], seed: int = SEED, only: str | None = None) -> list[Clip]:
    """Draws the clips of all conditions, or of one; none is rendered yet."""
    chosen = CONDITIONS if only is None else {only: CONDITIONS[only]}
    return [
        draw(Drawing(f"{file_name(condition)}_{index:02d}", condition, (seed, _number(condition), index), photographs))
        for condition, (count, draw) in chosen.items()
        for index in range(count)
    ]


def _number(condition: str) -> int:
    return zlib.crc32(condition.encode())


def _light_loss(d: Drawing) -> dict:
    """Half of the clips go through the Python call as they are, the others through files."""
    return {"by": "call"} if d.rng.random() < 0.4 else {"crf": int(d.rng.integers(18, 27))}


def _still(d: Drawing) -> Clip:
    d.format()
    return d.clip(Shot(d.backdrop()), effects=(("noise", {"sigma": d.rng.uniform(0, 4)}),), **_light_loss(d))


def _camera_only(kind: str, low: float = 2.0, high: float = 8.5) -> Callable[[Drawing], Clip]:
    def draw(d: Drawing) -> Clip:
        d.format(seconds=(1.5, 3.5))
        return d.clip(Shot(d.backdrop(), d.camera(d.choose(kind.split(",")), d.speed(low, high))), **_light_loss(d))

    return draw


def _thing_only(kinds: str, low: float = 3.0, high: float = 9.0) -> Callable[[Drawing], Clip]:
    def draw(d: Drawing) -> Clip:
        d.format()
        return d.shown(
            lambda: d.clip(Shot(d.backdrop(), (), d.things(d.speed(low, high), kinds.split(","))), **_light_loss(d))
        )

    return draw


def _both_shot(d: Drawing) -> Shot:
    camera = d.camera(d.choose(CAMERAS), d.speed(2.0, 7.5), room=0.18)
    return Shot(d.backdrop(), camera, d.things(d.speed(3.0, 8.5)))


def _both(d: Drawing) -> Clip:
    d.format()
    return d.shown(lambda: d.clip(_both_shot(d), **_light_loss(d)))


def _followed(d: Drawing) -> Clip:
    """The camera goes along with a thing, which stays where it is in the picture."""
    d.format(seconds=(1.5, 3.0))

    def draw() -> Clip:
        pan = d.camera("pan", d.speed(4.0, 8.5))
        thing = d.thing("line", 0.001, d.log(0.04, 0.3))
        back = tuple(dataclasses.replace(move, towards=move.towards + np.pi) for move in pan)
        return d.clip(Shot(d.backdrop(), pan, (dataclasses.replace(thing, moves=back),)), **_light_loss(d))

    return d.shown(draw)


def _any_shot(d: Drawing, kind: str) -> Shot:
    if kind == "both":
        return _both_shot(d)
    camera = d.camera(d.choose(CAMERAS), d.speed(2.5, 8.0)) if kind == "camera" else ()
    return Shot(d.backdrop(), camera, d.things(d.speed(3.0, 8.5)) if kind == "thing" else ())


def _any(d: Drawing, **settings) -> Clip:
    """A still, a camera, a thing, or both."""
    kind = d.choose(["still", "camera", "camera", "thing", "thing", "both", "both"])
    return d.shown(lambda: d.clip(_any_shot(d, kind), **settings))


def _plain(d: Drawing) -> Clip:
    """A thing before a still wall that shows nothing, or little."""
    d.format()
    wall = d.wall("wall" if d.rng.random() < 0.6 else "gallery")
    grain = (("noise", {"sigma": d.rng.uniform(0, 3)}),)
    if wall.kind == "gallery" and d.rng.random() < 0.4:
        return d.clip(Shot(wall, d.camera("pan", d.speed(2.5, 6.5), room=0.5)), effects=grain, **_light_loss(d))
    return d.shown(lambda: d.clip(Shot(wall, (), d.things()), effects=grain, **_light_loss(d)))


def _watermark(d: Drawing) -> Clip:
    d.format()
    kind = d.choose(["middle", "middle", "middle", "corner", "rows"])
    mark = {
        "height": d.rng.uniform(0.08, 0.2) if kind != "rows" else d.rng.uniform(0.05, 0.09),
        "width": d.rng.uniform(0.45, 0.9) if kind == "middle" else 0.35,
        "x": 0.5 if kind == "middle" else float(d.choose([0.04, 0.96])),
        "y": d.rng.uniform(0.35, 0.65) if kind == "middle" else float(d.choose([0.05, 0.95])),
        "rows": float(kind == "rows"),
        "small": float(kind == "middle" and d.rng.random() < 0.5),
        "alpha": d.rng.uniform(0.2, 0.7),
        "grey": float(d.choose([255, 255, 255, 200, 20])),
    }
    return _any(d, effects=(("mark", mark),), crf=int(d.rng.integers(20, 32)))


def _bars(d: Drawing) -> Clip:
    d.format(sizes=(*LANDSCAPE, *LANDSCAPE, *SQUARE, *UPRIGHT))
    sides = d.rng.random() < 0.5
    share = d.rng.uniform(0.06, 0.33 if d.rng.random() < 0.4 else 0.2)
    bars = {"sides": share if sides else 0.0, "ends": 0.0 if sides else share, "grey": float(d.choose([0, 0, 0, 16]))}
    return _any(d, effects=(("bars", bars),), crf=int(d.rng.integers(18, 32)))


def _subtitles(d: Drawing) -> Clip:
    d.format(sizes=(*LANDSCAPE, *UPRIGHT))
    return _any(d, effects=(("subtitles", {"seconds": d.rng.uniform(0.7, 2.0)}),), crf=int(d.rng.integers(18, 32)))


def _noise(d: Drawing) -> Clip:
    d.format()
    grain = {"sigma": d.log(4, 20), "coarse": float(d.rng.random() < 0.4)}
    return _any(d, effects=(("noise", grain),), crf=int(d.rng.integers(18, 34)))


def _blur(d: Drawing) -> Clip:
    """Out of focus, going out of focus, or with the blur of an open shutter."""
    d.format()
    kind = d.choose(["lens", "lens", "racking", "shutter", "shutter"])
    before, after = (d.log(1.5, 7.0) for _ in range(2))
    if kind == "shutter":
        return _any(d, shutter=d.rng.uniform(0.4, 1.0), crf=20)
    focus = {"before": before, "after": after if kind == "racking" else before}
    return _any(d, effects=(("focus", focus),), crf=20)


def _compressed(low: int, high: int) -> Callable[[Drawing], Clip]:
    def draw(d: Drawing) -> Clip:
        d.format(rates=(12, 15, 24, 25, 30, 30, 50, 60))
        return _any(d, crf=int(d.rng.integers(low, high + 1)))

    return draw


def _duplicates(d: Drawing) -> Clip:
    """Every second, third or fifth frame shown again, or some frames at random."""
    d.format(rates=(12, 15, 24, 24, 25, 30, 30, 48, 60))
    times = d.times
    index = np.arange(len(times))
    kind = d.choose(["second", "third", "fifth", "random"])
    if kind == "random":
        held = d.rng.random(len(times)) < 0.2
        held[0] = False
        index = np.maximum.accumulate(np.where(held, 0, index))
    else:
        every = {"second": 2, "third": 3, "fifth": 5}[kind]
        index = index - (index % every == every - 1)
    return _any(d, times=times[index], crf=int(d.rng.integers(18, 28)))


def _flash(d: Drawing) -> Clip:
    d.format()
    flash = {
        "start": d.rng.uniform(0.1, 0.6) * d.seconds,
        "seconds": d.log(0.05, 0.4),
        "strength": d.log(0.5, 3.0),
        "every": d.choose([0.0, 0.0, 0.0, 0.7]),
    }
    return _any(d, effects=(("flash", flash),), crf=int(d.rng.integers(18, 28)))


def _fade(d: Drawing) -> Clip:
    """To a grey or from one, over a part of the clip, or from one still into the next."""
    d.format(seconds=(2.0, 4.0))
    start = d.rng.uniform(0.1, 0.5) * d.seconds
    end = start + d.rng.uniform(0.4, 1.2)
    if d.rng.random() < 0.3:
        mix = np.clip((d.times - start) / (end - start), 0, 1)
        shots = np.where(mix >= 1, 1, 0)
        scenes = Shot(d.backdrop()), Shot(d.backdrop())
        return d.clip(*scenes, shots=tuple(shots.tolist()), mix=tuple(np.where(mix >= 1, 0, mix).tolist()), crf=22)
    back = d.rng.random() < 0.5
    fade = {"start": 0.0 if back else start, "end": end - start if back else end, "back": float(back)}
    fade |= {"most": d.choose([1.0, 1.0, 0.7]), "grey": float(d.choose([0, 0, 255]))}
    return _any(d, effects=(("fade", fade),), crf=int(d.rng.integers(18, 28)))


def _exposure(d: Drawing) -> Clip:
    d.format()
    if d.rng.random() < 0.3:
        light = {"hertz": d.rng.uniform(1, 11), "strength": d.rng.uniform(0.03, 0.12), "phase": d.rng.uniform(0, 6)}
        return _any(d, effects=(("flicker", light),), crf=22)
    before = d.log(0.4, 1.6)
    start = d.rng.uniform(0, 0.5) * d.seconds
    gain = {"before": before, "after": d.log(0.4, 1.6), "start": start, "end": start + d.log(0.1, 2.0)}
    return _any(d, effects=(("exposure", gain),), crf=22)


def _cut(d: Drawing) -> Clip:
    """Two or three shots; half of them only of stills."""
    d.format(seconds=(2.5, 4.5))
    count = d.choose([2, 2, 3])
    ends = np.sort(d.rng.uniform(0.15, 0.85, count - 1)) * d.seconds
    shots = tuple(np.searchsorted(ends, d.times).tolist())
    kinds = ["still"] * count
    if d.rng.random() < 0.5:
        kinds = d.choose([["camera"] * 3, ["both", "thing", "both"]])[:count]
    return d.shown(lambda: d.clip(*(_any_shot(d, kind) for kind in kinds), shots=shots, crf=22))


def _of_size(sizes: tuple[tuple[int, int], ...], seconds: tuple[float, float], **settings) -> Callable[[Drawing], Clip]:
    def draw(d: Drawing) -> Clip:
        d.format(sizes=sizes, seconds=seconds, **settings)
        return _any(d, crf=int(d.rng.integers(18, 30)))

    return draw


def _short(d: Drawing) -> Clip:
    """Two frames, or a few."""
    d.format()
    d.seconds = float(d.choose([2, 2, 3, 4, 6])) / d.fps
    return _any(d, **_light_loss(d))


def _uneven(d: Drawing) -> Clip:
    """A camera or a thing that moves for a part of the clip only."""
    d.format(seconds=(3.5, 6.0))
    length = d.rng.uniform(0.5, 1.5)
    start = d.rng.uniform(0, d.seconds - length)
    curve = Curve("part", d.speed(6.0, 9.0), start, start + length)
    moves = (Move("shift", curve, d.rng.uniform(0, 6)),)
    if d.rng.random() < 0.6:
        return d.clip(Shot(d.backdrop(), moves), **_light_loss(d))
    curve = dataclasses.replace(curve, rate=d.rng.uniform(0.15, 0.3) / length)
    thing = d.thing("line", 0.01, d.log(0.02, 0.3))
    thing = dataclasses.replace(thing, moves=(dataclasses.replace(moves[0], curve=curve),))
    return d.clip(Shot(d.backdrop(), (), (thing,)), **_light_loss(d))


CONDITIONS: Mapping[str, tuple[int, Callable[[Drawing], Clip]]] = {
    "still": (12, _still),
    "pan": (24, _camera_only("pan")),
    "fast pan": (14, _camera_only("pan", 8.0, 9.5)),
    "zoom": (16, _camera_only("zoom", 2.0, 8.0)),
    "roll": (16, _camera_only("roll")),
    "shake": (22, _camera_only("shake", 2.5, 7.5)),
    "turning camera": (10, _camera_only("turn", 2.0, 8.0)),
    "two moves": (14, _camera_only("pan+zoom,pan+roll,pan+shake,zoom+roll")),
    "object: line": (24, _thing_only("line")),
    "object: circle": (18, _thing_only("circle,sway")),
    "object: turn": (14, _thing_only("rotate", 3.0, 7.0)),
    "object: size": (12, _thing_only("scale", 3.0, 6.0)),
    "object and camera": (44, _both),
    "followed object": (10, _followed),
    "plain backdrop": (30, _plain),
    "watermark": (28, _watermark),
    "bars": (28, _bars),
    "subtitles": (12, _subtitles),
    "noise": (16, _noise),
    "blur": (18, _blur),
    "crf 34 to 45": (22, _compressed(34, 45)),
    "crf 51": (8, _compressed(51, 51)),
    "duplicated frames": (18, _duplicates),
    "flash": (12, _flash),
    "fade": (14, _fade),
    "exposure": (12, _exposure),
    "cut": (16, _cut),
    "portrait": (14, _of_size(UPRIGHT, (1.5, 3.5))),
    "square": (8, _of_size(SQUARE, (1.5, 3.5))),
    "96 px": (14, _of_size(((96, 96), (128, 96), (96, 128), (170, 96), (96, 170)), (1.5, 3.5))),
    "720 px": (8, _of_size(((1280, 720), (720, 1280), (960, 720)), (1.0, 2.0), rates=(12, 24, 30))),
    "1080 px": (4, _of_size(((1920, 1080), (1080, 1920)), (1.0, 1.5), rates=(12, 24))),
    "8 fps": (10, _of_size(LANDSCAPE, (2.0, 4.0), rates=(8,))),
    "60 fps": (10, _of_size(LANDSCAPE, (1.5, 3.0), rates=(60,))),
    "short": (12, _short),
    "uneven": (14, _uneven),
}
"""Conditions by name: the number of clips, and what draws one."""
