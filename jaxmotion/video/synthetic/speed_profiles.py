"""Speed profiles over time: even, speeding up, swaying, starting late, trembling, in bursts, to and fro.

A profile is a signed factor for each step between frames; the mean of its absolute values is 1, so that the mean speed
under it is the requested one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

SpeedProfile = Float[np.ndarray, " T-1"]


def draw_speed_profile(kind: str, steps: int, seconds: float, rng: np.random.Generator) -> SpeedProfile:
    """The profile of that kind (see `SPEED_PROFILES`) for so many steps of so many seconds each."""
    profile = SPEED_PROFILES[kind]((np.arange(steps) + 0.5) * seconds, rng)
    mean = np.abs(profile).mean()
    return profile / mean if mean > 1e-6 else np.ones(steps)


def _ramp(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    start, end = rng.uniform(0.1, 2.0, 2)
    return np.interp(time, (0, time[-1] + 1e-9), (start, end))


def _late(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moving = time > rng.uniform(0, 0.7) * time[-1]
    return np.where(moving if rng.random() < 0.5 else ~moving, 1.0, 0.02)


def _tremble(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hertz, phase, weight = rng.uniform(0.7, 3.5, 3), rng.uniform(0, 6.3, 3), rng.uniform(0.3, 1, 3)
    return np.sin(6.2832 * hertz * time[:, None] + phase) @ weight


SPEED_PROFILES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "even": lambda time, rng: np.ones(len(time)),
    "ramp": _ramp,
    "sway": lambda time, rng: np.sin(6.2832 * rng.uniform(0.25, 1.2) * time + rng.uniform(0, 6.3)),
    "late": _late,
    "tremble": _tremble,
    "burst": lambda time, rng: np.exp(-(((time - rng.uniform(0, time[-1])) / (0.25 * time[-1] + 1e-9)) ** 2)),
    "to and fro": lambda time, rng: np.sign(np.sin(6.2832 * rng.uniform(0.4, 1.0) * time + rng.uniform(0, 6.3)) + 1e-9),
}
