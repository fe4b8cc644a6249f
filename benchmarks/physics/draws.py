"""Random cameras, things, backdrops and formats, out of which conditions are put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from benchmarks.physics.clip import Clip, Shot, Surface, Thing, true_motion
from benchmarks.physics.paths import Curve, Move
from benchmarks.physics.photographs import Photograph
from jaxmotion.video import motion_scale

LANDSCAPE = ((320, 180), (256, 144), (320, 240), (360, 202), (288, 192), (384, 160), (240, 180))
UPRIGHT = ((180, 320), (202, 360), (180, 240), (144, 256))
SQUARE = ((240, 240), (200, 200), (320, 320))
SIZES = (*LANDSCAPE, *LANDSCAPE, *UPRIGHT, *SQUARE)
RATES = (8, 10, 12, 15, 24, 24, 25, 30, 30, 48, 50, 60)
CAMERAS = ("pan", "pan", "zoom", "roll", "shake", "turn", "pan+zoom", "pan+roll")
THINGS = ("line", "line", "circle", "sway", "rotate", "scale", "line+rotate")
AREAS = (0.02, 0.4)
"""Share of the picture that things cover, drawn evenly by logarithm."""
MOST_TURNS = 1.5
"""Rounds a second of a circle at most."""
FASTEST_TURN = 4.0
"""Radians a second of a thing that turns."""
FASTEST_GROWTH = 1.2
TRIALS = 30


def file_name(words: str) -> str:
    """Returns words as a part of the name of a file."""
    return re.sub(r"\W+", "_", words)


class Drawing:
    """One clip while it is drawn; the same seed, condition and index give the same clip."""

    def __init__(self, name: str, condition: str, seed: Sequence[int], photographs: Mapping[str, Photograph]):
        self.name, self.condition = name, condition
        self.rng = np.random.default_rng(list(seed))
        self.photographs = photographs
        self.size, self.fps, self.seconds = (320, 180), 24.0, 2.0

    def choose(self, options):
        """Returns one of some options."""
        return options[int(self.rng.integers(len(options)))]

    def log(self, low: float, high: float) -> float:
        """Returns a number that is drawn evenly by logarithm."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def speed(self, low: float = 2.0, high: float = 9.0) -> float:
        """Returns the speed of a score that is drawn evenly."""
        return float(motion_scale.speed(self.rng.uniform(low, high)))

    def format(
        self,
        sizes: Sequence[tuple[int, int]] = SIZES,
        rates: Sequence[float] = RATES,
        seconds: tuple[float, float] = (1.5, 4.0),
    ) -> None:
        """Draws the size, the frame rate and the length."""
        self.size, self.fps = self.choose(sizes), float(self.choose(rates))
        self.seconds = float(self.rng.uniform(*seconds))

    @property
    def times(self) -> np.ndarray:
        """Returns the times of the frames."""
        return np.arange(max(2, round(self.seconds * self.fps))) / self.fps

    def backdrop(self, *, span: tuple[float, float] = (0.45, 0.95)) -> Surface:
        """A window of a photograph; of some windows the one whose emptiest parts show most."""
        width, height = self.size
        options = []
        for _ in range(10):
            name = self.choose(list(self.photographs))
            tall, wide = self.photographs[name].shape[:2]
            shorter, diagonal = min(tall, wide), float(np.hypot(width, height))
            fits = min(wide / width, tall / height) * diagonal / shorter
            share = min(self.rng.uniform(*span), fits)
            half = np.array([width, height]) / diagonal * share * shorter / [wide, tall] / 2
            place = half + self.rng.random(2) * np.maximum(1 - 2 * half, 0)
            detail = _detail(self.photographs[name], place, half)
            options.append((detail, name, share, place))
        _, name, share, place = max(options, key=lambda option: option[0])
        return Surface(
            photograph=name,
            place=(float(place[0]), float(place[1])),
            span=float(share),
            turn=float(self.rng.normal(0, 0.08)),
            mirrored=bool(self.rng.random() < 0.5),
            gain=float(self.rng.uniform(0.7, 1.15)),
            lift=float(self.rng.uniform(-10, 25)),
        )

    def wall(self, kind: str = "wall") -> Surface:
        """A backdrop with little on it."""
        return Surface(
            photograph=self.choose(list(self.photographs)),
            span=float(self.rng.uniform(0.4, 0.7)),
            kind=kind,  # pyright: ignore[reportArgumentType]
            seed=int(self.rng.integers(2**31)),
        )

    def skin(self, radius: float, *, plain: bool = True) -> Surface:
        """The surface of a thing: mostly a part of a photograph, sometimes plain, if it may be."""
        if self.rng.random() < 0.12 and plain:
            return Surface(self.choose(list(self.photographs)), kind="wall", seed=int(self.rng.integers(2**31)))
        options = []
        for _ in range(5):
            name = self.choose(list(self.photographs))
            tall, wide = self.photographs[name].shape[:2]
            span = min(float(self.rng.uniform(0.5, 1.3)), 0.45 / radius)
            half = radius * span * min(tall, wide) / np.array([wide, tall])
            place = half + self.rng.random(2) * np.maximum(1 - 2 * half, 0)
            options.append((_detail(self.photographs[name], place, half), name, span, place))
        _, name, span, place = max(options, key=lambda option: option[0])
        return Surface(
            photograph=name,
            place=(float(place[0]), float(place[1])),
            span=span,
            turn=float(self.rng.uniform(-3, 3)),
            gain=float(self.rng.uniform(0.6, 1.25)),
            lift=float(self.rng.uniform(-30, 50)),
        )

    def curve(self, rate: float, room: float, kinds: Sequence[str] = ("even", "even", "ramp", "ease", "part")) -> Curve:
        """A curve of that mean speed which stays within `room` of its beginning; to and fro if need be."""
        length = self.times[-1]
        way = float(self.rng.choice([-1, 1]))
        if rate * length > room:
            return Curve("turning", rate, float(self.rng.uniform(0.5, 1.0) * room))
        kind = self.choose(list(kinds))
        if kind == "ramp":
            return Curve("ramp", way * rate, float(self.rng.uniform(-0.9, 0.9)), length)
        if kind == "ease":
            return Curve("ease", way * rate, b=length)
        if kind == "part":
            share = float(self.rng.uniform(0.4, 0.8))
            start = float(self.rng.uniform(0, 1 - share)) * length
            return Curve("part", way * rate / share, start, start + share * length)
        return Curve("even", way * rate)

    def camera(self, kind: str, speed: float, *, room: float = np.inf) -> tuple[Move, ...]:
        """A camera of about that speed.

        kind: pan, zoom, roll, shake, turn or two of them. room: how far, in diagonals, it may get from where it began.
        """
        kinds = kind.split("+")
        share = speed / len(kinds) ** 0.7
        return tuple(move for each in kinds for move in getattr(self, f"_{each}")(share, room))

    def _pan(self, speed: float, room: float) -> list[Move]:
        free = self.rng.random() < 0.5
        angle = self.rng.uniform(0, 2 * np.pi) if free else self.rng.choice([0, 0.5, 1, 1.5]) * np.pi
        return [Move("shift", self.curve(speed, room), float(angle))]

    def _zoom(self, speed: float, room: float) -> list[Move]:
        return [Move("zoom", self.curve(2 * speed, 0.8), about=self._point(0.08))]

    def _roll(self, speed: float, room: float) -> list[Move]:
        return [Move("roll", self.curve(2 * speed, np.inf), about=self._point(0.08))]

    def _turn(self, speed: float, room: float) -> list[Move]:
        width, height = self.size
        focal = width / np.hypot(width, height) / 2 / np.tan(np.radians(self.rng.uniform(30, 60)) / 2)
        angle = self.rng.choice([0.0, 0.0, np.pi / 2]) + self.rng.normal(0, 0.1)
        curve = self.curve(speed / focal / 1.15, min(0.35, room / focal))
        return [Move("turn", curve, float(angle), reach=float(focal))]

    def _shake(self, speed: float, room: float) -> list[Move]:
        moves = []
        for angle in (0.0, np.pi / 2):
            hertz, phases = self.rng.uniform(1, 6, 2), self.rng.uniform(0, 2 * np.pi, 2)
            curve = Curve("waves", 0.75 * speed, hertz=tuple(hertz.tolist()), phases=tuple(phases.tolist()))
            moves.append(Move("shift", curve, angle))
        hertz, phases = self.rng.uniform(1, 4, 1), self.rng.uniform(0, 2 * np.pi, 1)
        roll = Curve("waves", 0.4 * speed, hertz=tuple(hertz.tolist()), phases=tuple(phases.tolist()))
        return [*moves, Move("roll", roll)]

    def _point(self, spread: float) -> tuple[float, float]:
        x, y = self.rng.normal(0, spread, 2)
        return float(x), float(y)

    def thing(self, kind: str, speed: float, area: float) -> Thing:
        """A thing of about that speed that covers about that share of the frame.

        kind: line, circle, sway, rotate, scale, or two of them.
        """
        width, height = self.size
        frame = np.array([width, height]) / np.hypot(width, height)
        radius = float(np.sqrt(area * frame.prod() / np.pi))
        kinds = kind.split("+")
        moves, start = [], self.rng.uniform(-0.5, 0.5, 2) * np.maximum(frame - 2.4 * radius, 0.05)
        for each in kinds:
            share = speed / len(kinds) ** 0.5
            length = share * self.times[-1]
            if each == "line":
                angle = self.rng.uniform(0, 2 * np.pi) if self.rng.random() < 0.5 else self.rng.choice([0, np.pi])
                reach = float(self.rng.uniform(0.12, 0.24))
                curve = self.curve(share, reach if length > 0.45 else np.inf)
                toward = np.array([np.cos(angle), np.sin(angle)])
                if curve.kind == "turning":
                    start = start * 0.3
                else:
                    start = -toward * np.sign(curve.rate) * length / 2 + self.rng.normal(0, 0.04, 2)
                moves.append(Move("shift", curve, float(angle)))
            elif each == "circle":
                reach = float(max(self.rng.uniform(0.05, 0.16), share / (2 * np.pi * MOST_TURNS)))
                angle = self.rng.uniform(0, 2 * np.pi)
                start = reach * np.array([np.cos(angle), np.sin(angle)]) + 0.4 * start
                way = float(self.rng.choice([-1, 1]))
                moves.append(Move("circle", Curve("even", way * share), float(angle), reach=reach))
            elif each == "sway":
                start = 0.4 * start
                moves += [
                    Move("shift", Curve("waves", 0.78 * share, hertz=(h,), phases=(p,)), angle)
                    for angle, h, p in zip(
                        (0.0, np.pi / 2),
                        self.rng.uniform(0.7, 2.0, 2).tolist(),
                        self.rng.uniform(0, 6, 2).tolist(),
                        strict=True,
                    )
                ]
            elif each == "rotate":
                moves.append(Move("roll", self.curve(min(share / (radius * 2 / 3), FASTEST_TURN), np.inf)))
            elif each == "scale":
                moves.append(Move("zoom", self.curve(min(share / (radius * 2 / 3), FASTEST_GROWTH), 0.35)))
        moves.sort(key=lambda move: move.kind in ("roll", "zoom"))
        box = float(self.log(0.5, 2.0)) if self.rng.random() < 0.35 else 0.0
        bends = tuple(self.rng.uniform(-0.22, 0.22, 3).tolist()) if not box and self.rng.random() < 0.7 else ()
        skin = self.skin(radius, plain="rotate" not in kinds)  # nobody sees a plain disc turn
        return Thing(skin, radius, (float(start[0]), float(start[1])), tuple(moves), bends, box)

    def things(self, speed: float | None = None, kinds: Sequence[str] = THINGS, most: int = 2) -> tuple[Thing, ...]:
        """One thing or more, whose areas add up to one of `AREAS`."""
        count = 2 if most > 1 and self.rng.random() < 0.25 else 1
        area = self.log(*AREAS)
        return tuple(
            self.thing(self.choose(list(kinds)), self.speed(3.0, 9.0) if speed is None else speed, area / count)
            for _ in range(count)
        )

    def clip(self, *scenes: Shot, times: np.ndarray | None = None, **settings) -> Clip:
        """Returns the clip of some shots."""
        moments = self.times if times is None else times
        return Clip(
            self.name,
            self.condition,
            *self.size,
            self.fps,
            tuple(float(t) for t in moments),
            tuple(scenes),
            seed=int(self.rng.integers(2**31)),
            **settings,
        )

    def shown(self, draw: Callable[[], Clip]) -> Clip:
        """Draws again until the things that move, if there are any, cover a share of the picture within `AREAS`."""
        for _ in range(TRIALS):
            clip = draw()
            if not any(shot.things for shot in clip.scenes):
                return clip
            if 0.8 * AREAS[0] <= true_motion(clip).area <= 1.15 * AREAS[1]:
                return clip
        raise RuntimeError(f"{self.name}: no clip of {TRIALS} shows its things.")


def _detail(photograph: Photograph, place: np.ndarray, half: np.ndarray) -> float:
    """Returns how much the emptier quarter of a window shows: its mean gradient."""
    tall, wide = photograph.shape[:2]
    x0, y0 = np.clip((place - half) * [wide, tall], 0, [wide - 8, tall - 8]).astype(int)
    x1, y1 = np.clip((place + half) * [wide, tall], [x0 + 8, y0 + 8], [wide, tall]).astype(int)
    small = cv2.resize(photograph[y0:y1, x0:x1], (64, 64), interpolation=cv2.INTER_AREA)
    grey = small.mean(-1)
    across, down = np.gradient(grey)
    cells = np.hypot(across, down).reshape(4, 16, 4, 16).mean((1, 3))
    return float(np.quantile(cells, 0.25))
