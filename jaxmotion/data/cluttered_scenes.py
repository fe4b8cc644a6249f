"""Cluttered scenes as training data for motion estimators; `video.synthetic.cluttered_scenes` draws them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxmotion.foundation.config_json import register
from jaxmotion.video.synthetic.cluttered_scenes import GROUND_TRUTH, SceneDistribution, SceneSampler

_RENAMED = {
    "actors": "sprites",
    "actor_counts": "sprite_counts",
    "actor_speed": "sprite_speed",
    "actor_size": "sprite_size",
    "paces": "speed_profiles",
    "streams": "flow_regions",
    "props": "static_sprites",
    "film": "degradations",
}
"""Fields by their earlier names."""


@register("Worlds", fields=_RENAMED)
@dataclasses.dataclass(frozen=True)
class ClutteredScenes(SceneDistribution):
    """Cluttered scenes with known motion."""

    clips: int = 1_000_000
    """How many clips make one epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips < 1:
            raise ValueError(f"clips is {self.clips}; an epoch has at least 1.")

    def open(self, report: Path | None = None) -> ClutteredScenesSource:
        """Reads the photos. `report` is there because all data sources have it; nothing can be broken here."""
        del report
        return ClutteredScenesSource(self, self.sampler())


class ClutteredScenesSource:
    """The clips of a `ClutteredScenes` config: `source[i]` names one, `load` makes it, `example(i)` does both."""

    def __init__(self, config: ClutteredScenes, sampler: SceneSampler):
        self.config, self.sampler = config, sampler
        self.photos = sampler.photos

    labels = GROUND_TRUTH

    def __len__(self) -> int:
        return self.config.clips

    def __getitem__(self, index: int) -> int:
        """The record of a clip: its index."""
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} is asked for; there are {len(self)}.")
        return int(index)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The clip of that index; see `load`."""
        return self.load(self[index], rng)

    def load(self, record: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Renders a clip; see `SceneSampler.clip`."""
        return self.sampler.clip(record, rng)
