"""Requests: a picture to animate, a sentence, values of the system's controls, and how to sample."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

from jaxmotion.diffusion.sampling import Sampling

SEEDS = 2**32
"""Seeds are whole numbers below this."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A picture to animate, the sentence that says how, and values of controls. `None` takes what the run has."""

    image: str | Path
    """JPEG, PNG, WebP, TIFF, GIF (its first frame), of any size and mode."""
    prompt: str = ""
    """Description of the clip."""
    controls: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)
    """Values by control, such as {"object": (2, 9), "camera": (5,)}: one clip for each combination. Controls that are
    not named are at their default."""
    seed: int = 0
    """The same seed gives the same clip; all clips of a request start from the same noise."""
    steps: int | None = None
    """Denoising steps. Where sampling starts from an inverted picture, the inversion takes the same share of them as
    in the run; one that `sampling` sets to another number stays."""
    guidance: float | None = None
    """Classifier-free guidance scale on the text."""
    guidance_scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Guidance scales on other conditions, by name, such as {"object": 2.0}."""
    sampling: Sampling | None = None
    """How to sample, in place of the run's own; steps and guidance are changed in it."""
    frames: int | None = None
    """Length of the clip. Other lengths than that of training work as far as the network knows their places."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels."""
    preview: str | Path | None = None
    """Weights of a tiny decoder that decodes the clip; see `weights.preview_decoder`."""
    fps: float | None = None
    """Frames per second the clip is written at; the model's own motion per frame stays as it is."""

    def __post_init__(self) -> None:
        if not isinstance(self.controls, Mapping):
            raise ValueError(f"Controls are values by name, such as {{'object': (2, 9)}}; got {self.controls!r}.")
        seed = _integer(self.seed)
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
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"The guidance scale must be a number, such as 7.5; got {self.guidance}.")

    def resolve_sampling(self, default: Sampling) -> Sampling:
        """Returns the sampling settings of this request; `default` are those of the run."""
        found = self.sampling or default
        if self.steps is not None:
            own = found.inversion_steps if found.inversion_steps != default.inversion_steps else None
            found = found.with_steps(self.steps)
            found = found if own is None else dataclasses.replace(found, inversion_steps=own)
        if self.guidance is not None:
            found = dataclasses.replace(found, guidance=self.guidance)
        if self.guidance_scales:
            scales = {**dict(found.guidance_scales), **self.guidance_scales}
            found = dataclasses.replace(found, guidance_scales=tuple(scales.items()))
        return found


def _integer(value: SupportsIndex) -> int | None:
    """The whole number that a value stands for, or None."""
    try:
        return operator.index(value)
    except TypeError:
        return None
