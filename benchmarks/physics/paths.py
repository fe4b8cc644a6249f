"""Motion over time in closed form: curves, moves along them, and the maps that follow from these.

Lengths are frame diagonals, angles radians, sizes natural logarithms, times seconds. A path is a list of moves; its map
at a time is a 3 x 3 matrix in the plane (x to the right, y down, the origin in the middle of the frame).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

Times = Float[np.ndarray, " N"]
Maps = Float[np.ndarray, "N 3 3"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A position over time that begins at 0 and whose speed is `rate` a second, on the mean of what is drawn.

    kind: `even`; `ramp`, whose speed rises or falls by the share `a` until the time `b`; `part`, even from the time `a`
    to `b` and at rest otherwise; `ease`, slow at 0 and at `b`; `turning`, to and fro between -a and a; `waves`, sines
    of the rates `hertz` and `phases`.
    """

    kind: Literal["even", "ramp", "part", "ease", "turning", "waves"]
    rate: float
    a: float = 0.0
    b: float = 1.0
    hertz: tuple[float, ...] = ()
    phases: tuple[float, ...] = ()

    def __call__(self, t: Times) -> Times:
        """Returns the position at some times."""
        return getattr(self, f"_{self.kind}")(np.asarray(t, np.float64))

    def _even(self, t: Times) -> Times:
        return self.rate * t

    def _ramp(self, t: Times) -> Times:
        return self.rate * ((1 - self.a) * t + self.a * t**2 / self.b)

    def _part(self, t: Times) -> Times:
        return self.rate * (np.clip(t, self.a, self.b) - self.a)

    def _ease(self, t: Times) -> Times:
        turn = 2 * np.pi / self.b
        return self.rate * (t - np.sin(turn * t) / turn)

    def _turning(self, t: Times) -> Times:
        way = np.mod(self.rate * t + self.a, 4 * self.a)
        return np.where(way < 2 * self.a, way, 4 * self.a - way) - self.a

    def _waves(self, t: Times) -> Times:
        turns = 2 * np.pi * np.array(self.hertz)
        swing = np.sin(turns * t[:, None] + self.phases) - np.sin(self.phases)
        return self.rate * np.sqrt(2 / len(turns)) * (swing / turns).sum(-1)


@dataclasses.dataclass(frozen=True)
class Move:
    """One motion along a curve.

    kind: `shift` goes `towards` an angle; `zoom` and `roll` go about a point of the plane; `circle` goes along one of
    the radius `reach` and starts at the angle `towards`; `turn` turns a pinhole camera of the focal length `reach`
    sideways, about an axis at right angles to `towards`.
    """

    kind: Literal["shift", "zoom", "roll", "circle", "turn"]
    curve: Curve
    towards: float = 0.0
    about: tuple[float, float] = (0.0, 0.0)
    reach: float = 1.0

    def at(self, t: Times) -> Maps:
        """Returns its maps at some times."""
        return getattr(self, f"_{self.kind}")(self.curve(t))

    def _shift(self, s: Times) -> Maps:
        return shifts(s * np.cos(self.towards), s * np.sin(self.towards))

    def _zoom(self, s: Times) -> Maps:
        return self._about(np.exp(s)[:, None, None] * np.eye(2))

    def _roll(self, s: Times) -> Maps:
        return self._about(rotations(s))

    def _circle(self, s: Times) -> Maps:
        angle = self.towards + s / self.reach
        return shifts(
            self.reach * (np.cos(angle) - np.cos(self.towards)), self.reach * (np.sin(angle) - np.sin(self.towards))
        )

    def _turn(self, s: Times) -> Maps:
        upright = np.eye(3)[None].repeat(len(s), 0)
        upright[:, 0, 0], upright[:, 0, 2] = np.cos(s), np.sin(s)
        upright[:, 2, 0], upright[:, 2, 2] = -np.sin(s), np.cos(s)
        across = np.eye(3)
        across[:2, :2] = rotations(np.array([self.towards]))[0]
        lens = np.diag([self.reach, self.reach, 1.0])
        whole = lens @ across @ upright @ across.T @ np.linalg.inv(lens)
        return whole / whole[:, 2:, 2:]

    def _about(self, linear: Float[np.ndarray, "N 2 2"]) -> Maps:
        maps = np.eye(3)[None].repeat(len(linear), 0)
        maps[:, :2, :2] = linear
        maps[:, :2, 2] = self.about - linear @ np.array(self.about)
        return maps


def maps_at(moves: tuple[Move, ...], t: Times) -> Maps:
    """Returns the product of all moves' maps, the last one nearest to the point."""
    whole = np.eye(3)[None].repeat(len(t), 0)
    for move in moves:
        whole = whole @ move.at(t)
    return whole


def shifts(x: Times, y: Times) -> Maps:
    """Returns maps that shift by x and y."""
    maps = np.eye(3)[None].repeat(len(x), 0)
    maps[:, 0, 2], maps[:, 1, 2] = x, y
    return maps


def rotations(angle: Times) -> Float[np.ndarray, "N 2 2"]:
    """Returns rotations, clockwise as seen."""
    return np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)


def put(maps: Float[np.ndarray, "*N 3 3"], points: Float[np.ndarray, "*N P 2"]) -> Float[np.ndarray, "*N P 2"]:
    """Maps points, the same under every map or others, with the perspective division."""
    x, y = points[..., 0], points[..., 1]
    across, down, depth = (  # no matrix product: for arrays this thin, threads of BLAS cost more than they bring
        maps[..., row, 0, None] * x + maps[..., row, 1, None] * y + maps[..., row, 2, None] for row in range(3)
    )
    return np.stack([across / depth, down / depth], -1)
