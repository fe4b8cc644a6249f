"""Data and an evaluation for the fourth system, as a user writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmotion.data.source import DataConfig, DataSource
from jaxmotion.evaluation.evaluation import Evaluation, KeyNumber
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video.synthetic.captions import CAPTION
from tests.support.fourth_system import DRIFT, WAYS


@register()
@dataclasses.dataclass(frozen=True)
class Drifting(DataConfig):
    """Random pictures that drift."""

    frames: int = 4
    fps: float = 8.0
    size: tuple[int, int] = (16, 16)

    def open(self, report=None):
        return DriftingSource(self)

    def held_out_examples(self, count, entries):
        return [DriftingSource(self).load(1000 + index) for index in range(count)]


class DriftingSource(DataSource):
    optional_entries = (DRIFT,)

    def __len__(self):
        return 8

    def load(self, index, rng=None):
        picture = np.random.default_rng(index).integers(0, 256, (*self.config.size, 3), np.uint8)
        way = list(WAYS.values())[index % 4]
        frames = [np.roll(picture, np.multiply(way, n), (0, 1)) for n in range(self.config.frames)]
        fps, drift = np.float32(self.config.fps), np.array(way, np.float32)
        return {VIDEO: np.stack(frames), FPS: fps, DRIFT: drift, CAPTION: "", "id": f"clip {index}"}


@register()
@dataclasses.dataclass(frozen=True)
class Spread(Evaluation):
    """How much clips of different ways differ, in grey levels."""

    def entries(self, controls):
        return (DRIFT,)

    def measure(self, generate, scenes: Sequence, fps: float) -> Mapping:
        ways = [{DRIFT: "left"}, {DRIFT: "right"}]
        clips = np.stack([generate(scene, ways, 0).astype(float) for scene in scenes])
        return {"spread": float(np.abs(clips[:, 0] - clips[:, 1]).mean())}

    def key_numbers(self, numbers):
        return (KeyNumber("spread", numbers["spread"], "Clips of different ways differ"),)
