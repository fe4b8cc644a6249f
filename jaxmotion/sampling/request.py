"""What a person asks for: a photo, a sentence, and how much it should move.

Photos come in any size and mode; `load_photo` brings them to the uint8 RGB picture of the model's size.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmotion.diffusion.sampling import Noise, Sampling
from jaxmotion.systems.livephoto.intensity import LEVELS
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.video.motion_scale import HIGHEST, LOWEST

SEEDS = 2**32
"""Seeds are whole numbers below this."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A photo to animate, the sentence that says how, and the levels to do it at.

    What is left `None` is taken from the `Sampling` of the experiment.
    """

    image: str | Path
    """The photo: JPEG, PNG, WebP, TIFF, GIF (its first frame), of any size and mode."""
    prompt: str = ""
    """What moves, and how."""
    levels: tuple[int, ...] | None = None
    """LivePhoto's motion levels, 1 (nearly still) to 10; one clip each. None: its default, 5."""
    scores: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """Of a system with scores, those asked for by their names, each 1 to 10: (("object", (1, 5, 10)), ...). One clip
    for each combination; 5 where nothing is said."""
    seed: int = 0
    """The same seed gives the same clip; all levels start from the same noise."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance scale on the text."""
    guidances: tuple[tuple[str, float], ...] = ()
    """Guidance scales on other conditions, by name, such as (("object", 2.0),)."""
    prior: tuple[float, float] | None = None
    """Prior inversion's strength on the first and on the last frame, each in [0, 1]; (0, 0) switches it off."""
    frames: int | None = None
    """Length of the clip. Other lengths than that of training work as far as the network knows their places."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels."""
    preview: str | Path | None = None
    """Weights of a tiny decoder that decodes the clip; see `convert.preview`."""
    fps: float | None = None
    """Frames per second the clip is written at; the model's own motion per frame stays as it is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", None if self.levels is None else checked_levels(self.levels))
        for name, values in self.scores:
            checked_scores(name, values)
        seed = _whole(self.seed)
        if seed is None or not 0 <= seed < SEEDS:
            raise ValueError(f"A seed is a whole number from 0 to {SEEDS - 1}; got {self.seed!r}.")
        if self.fps is not None and not 0.0 < self.fps <= 240.0:
            raise ValueError(f"Frames per second must be above 0 and at most 240; got {self.fps}.")
        if self.frames is not None and self.frames < 2:
            raise ValueError(f"A clip has two frames or more; got {self.frames}.")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"A size is height and width in pixels; got {self.size}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"Sampling takes at least one step; got {self.steps}.")
        if self.guidance is not None and not np.isfinite(self.guidance):
            raise ValueError(f"The guidance scale must be a number, such as 7.5; got {self.guidance}.")
        if self.prior is not None:
            PriorInversion(*self.prior)  # raises when a strength is outside [0, 1]

    def sampling(self, default: Sampling) -> Sampling:
        """`default` with what this request asks for put in."""
        asked: dict[str, Any] = {}
        if self.steps is not None:
            asked["sampler"] = dataclasses.replace(default.sampler, steps=self.steps)
        if self.guidance is not None:
            asked["guidance"] = self.guidance
        if self.guidances:
            asked["guidance_scales"] = tuple({**dict(default.guidance_scales), **dict(self.guidances)}.items())
        if self.prior is not None:
            asked["initial_noise"] = PriorInversion(*self.prior) if any(self.prior) else Noise()
        return dataclasses.replace(default, **asked)


def parse_levels(text: str) -> tuple[int, ...]:
    """The levels of a command line: `5` or `1,5,10`.

    Raises:
        ValueError: a part is no whole number, or outside 1..10.
    """
    return checked_levels([part.strip() for part in text.split(",") if part.strip()])


def checked_levels(levels: Sequence[Any]) -> tuple[int, ...]:
    """Levels as whole numbers in the order asked, each once.

    Raises:
        ValueError: there is none, or one is no whole number in 1..10.
    """
    if not levels:
        raise ValueError(f"No motion level was asked for; give whole numbers from 1 to {LEVELS}, e.g. 1,5,10.")
    whole = [_whole(level) for level in levels]
    for level, came in zip(whole, levels, strict=True):
        if level is None or not 1 <= level <= LEVELS:
            raise ValueError(f"Motion levels are whole numbers from 1 (nearly still) to {LEVELS}; got {came!r}.")
    return tuple(dict.fromkeys(level for level in whole if level is not None))


def parse_scores(name: str, text: str) -> tuple[float, ...]:
    """The scores of a command line: `5`, `1,5.5,10`.

    Raises:
        ValueError: a part is no number, or outside 1..10.
    """
    return checked_scores(name, [part.strip() for part in text.split(",") if part.strip()])


def checked_scores(name: str, values: Sequence[Any]) -> tuple[float, ...]:
    """Scores as numbers in the order asked, each once.

    Raises:
        ValueError: there is none, or one is no number in 1..10.
    """
    found = []
    for came in values:
        try:
            value = float(came)
        except (TypeError, ValueError):
            value = float("nan")
        if not LOWEST <= value <= HIGHEST:
            raise ValueError(f"The {name} score is a number from 1 (still) to 10; got {came!r}.")
        found.append(value)
    if not found:
        raise ValueError(f"No {name} score was asked for; give numbers from 1 to 10, e.g. 1,5,10.")
    return tuple(dict.fromkeys(found))


def _whole(value: Any) -> int | None:
    """The whole number that a number or a piece of text stands for, or None."""
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None
