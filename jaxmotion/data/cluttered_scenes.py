"""Cluttered scenes as training data for motion estimators; `video.synthetic.cluttered_scenes` draws them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxmotion.data.source import DataConfig, DataSource, Example
from jaxmotion.foundation.config_json import register
from jaxmotion.video.synthetic.cluttered_scenes import GROUND_TRUTH, SceneDistribution, SceneSampler
from jaxmotion.video.synthetic.photos import photos_digest

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
class ClutteredScenes(SceneDistribution, DataConfig):
    """Cluttered scenes with known motion."""

    clips: int = 1_000_000
    """How many clips make one epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips < 1:
            raise ValueError(f"clips is {self.clips}; an epoch has at least 1.")

    def open(self, report: Path | None = None) -> DataSource:
        """Reads the photos; there are no broken clips to report."""
        del report
        return ClutteredScenesSource(self, self.sampler())


class ClutteredScenesSource(DataSource):
    """The clips of a `ClutteredScenes` config."""

    config: ClutteredScenes
    optional_entries = GROUND_TRUTH

    def __init__(self, config: ClutteredScenes, sampler: SceneSampler):
        super().__init__(config)
        self.sampler = sampler

    def __len__(self) -> int:
        return self.config.clips

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Renders a clip; see `SceneSampler.clip`."""
        return self.sampler.clip(index, rng)

    def fingerprint(self) -> str:
        return photos_digest(self.sampler.photos)
