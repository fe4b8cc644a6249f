"""Noise schedules: the share of signal at each of N training steps.

A `Schedule` is a plain value that says what was chosen; `alpha_bar` computes the table from it, in float64.
Time runs from t = 0 (almost clean) to t = N - 1 (almost or only noise).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np

from jaxmotion.foundation.config_json import register

BetaCurve = Literal["scaled_linear", "linear"]


@register()
@dataclasses.dataclass(frozen=True)
class Schedule:
    """The betas of a diffusion process and the two changes that published models make to them.

    betas: `linear` spaces beta_t evenly (DDPM, arXiv:2006.11239, Sec. 4); `scaled_linear` spaces sqrt(beta_t) evenly
        (Stable Diffusion).
    snr_shift: the signal-to-noise ratio of every step is divided by this (CogVideoX-2B: 3; 1 changes nothing).
    zero_terminal_snr: the last step holds no signal at all (arXiv:2305.08891, Algorithm 1).
    """

    betas: BetaCurve = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000
    snr_shift: float = 1.0
    zero_terminal_snr: bool = False

    def __post_init__(self):
        if self.betas not in _BETAS:
            raise ValueError(f"Schedule.betas is {self.betas!r}; it can be {' or '.join(map(repr, _BETAS))}.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"Betas must rise inside (0, 1); got {self.beta_start} to {self.beta_end}.")
        if self.steps < 2:
            raise ValueError(f"A schedule needs at least 2 steps; got {self.steps}.")
        if self.snr_shift <= 0:
            raise ValueError(
                f"Schedule.snr_shift divides signal-to-noise ratios and must be > 0; got {self.snr_shift}."
            )

    @property
    def alpha_bar(self) -> np.ndarray:
        """float64 [N]: the share of variance that is signal, alpha_bar_t = prod_{s<=t} (1 - beta_s)."""
        return _alpha_bar(self)


def scaled_linear(beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Schedule:
    """Returns the schedule of Stable Diffusion 1.5 (and, before its changes, of CogVideoX)."""
    return Schedule("scaled_linear", beta_start, beta_end, steps)


def linear(beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000) -> Schedule:
    """Returns the schedule of DDPM. AnimateDiff trains on `linear(0.00085, 0.012)`."""
    return Schedule("linear", beta_start, beta_end, steps)


def snr_shift(schedule: Schedule, scale: float) -> Schedule:
    """Returns the schedule with every signal-to-noise ratio divided by `scale`. Shifts multiply."""
    return dataclasses.replace(schedule, snr_shift=schedule.snr_shift * scale)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Returns the schedule at zero terminal SNR: its last step is pure noise.

    Applied after any `snr_shift`, as CogVideoX does.
    """
    return dataclasses.replace(schedule, zero_terminal_snr=True)


_BETAS = {
    "scaled_linear": lambda first, last, steps: np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2,
    "linear": lambda first, last, steps: np.linspace(first, last, steps, dtype=np.float64),
}


@functools.lru_cache(maxsize=32)
def _alpha_bar(schedule: Schedule) -> np.ndarray:
    betas = _BETAS[schedule.betas](schedule.beta_start, schedule.beta_end, schedule.steps)
    alpha_bar = _shift(np.cumprod(1.0 - betas), schedule.snr_shift)
    if schedule.zero_terminal_snr:
        alpha_bar = _without_terminal_signal(alpha_bar)
    alpha_bar.setflags(write=False)
    return alpha_bar


def _shift(alpha_bar: np.ndarray, scale: float) -> np.ndarray:
    """a <- a / (s + (1 - s) a), which divides a / (1 - a) by s.

    Source: CogVideoX's scheduler (diffusers, CogVideoXDDIMScheduler), after arXiv:2403.03206, Sec. 5.3.2.
    """
    return alpha_bar / (scale + (1.0 - scale) * alpha_bar)


def _without_terminal_signal(alpha_bar: np.ndarray) -> np.ndarray:
    """sqrt(alpha_bar) shifted to end at 0 and scaled to begin where it began. Source: arXiv:2305.08891, Algorithm 1."""
    signal = np.sqrt(alpha_bar)
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return signal**2
