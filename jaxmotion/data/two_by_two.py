"""Single clips two by two: rows like those of judged pairs, so that both can be in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from jaxmotion.data.source import DataConfig, DataSource, Example, Shape
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video.pairs import SECOND_VIDEO, STEP_SECONDS, STRONGER
from jaxmotion.video.synthetic.captions import CAPTION


@register()
@dataclasses.dataclass(frozen=True)
class TwoByTwo(DataConfig):
    """The clips of other data, two by two."""

    of: DataConfig
    """The data; its clips have one shape."""

    @property
    def frames(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Length of a clip."""
        return self.of.frames

    @property
    def fps(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Frames per second."""
        return self.of.fps

    @property
    def size(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(height, width) in pixels."""
        return self.of.size

    def with_shape(self, frames: int, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, of=self.of.with_shape(frames, size))

    def open(self, report: Path | None = None) -> DataSource:
        """Opens the clips; see `DataConfig.open`."""
        source = self.of.open(report)
        if len(source.parts) > 1 or len(source) < 2:
            raise ValueError(f"Clips two by two are of one shape, and at least two; there are {source}.")
        return TwoByTwoSource(self, source)


class TwoByTwoSource(DataSource):
    """The clips of a source, two by two."""

    entries: Sequence[str] = (VIDEO, SECOND_VIDEO, FPS)

    def __init__(self, config: DataConfig, clips: DataSource):
        super().__init__(config)
        self.clips = clips
        self.optional_entries = (*clips.optional_entries, *STRONGER, STEP_SECONDS)
        self.requested_entries = clips.requested_entries

    @property
    def further_shape(self) -> Shape | None:
        return self.shapes[0]

    def __len__(self) -> int:
        return len(self.clips) // 2

    def fingerprint(self) -> str:
        return self.clips.fingerprint()

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Loads two clips: `video`, `second_video`, and the entries of both, [2 ...]; nobody has judged them."""
        two = [self.clips.load(2 * index + place, rng) for place in range(2)]
        steps = len(two[0][VIDEO]) - 1
        return {
            VIDEO: two[0][VIDEO],
            SECOND_VIDEO: two[1][VIDEO],
            FPS: np.float32(two[0][FPS]),
            CAPTION: "",
            "id": " ".join(str(each["id"]) for each in two),
            **{name: np.stack([each[name] for each in two]) for name in self.clips.optional_entries},
            **dict.fromkeys(STRONGER, np.float32("nan")),
            STEP_SECONDS: np.stack([np.full(steps, 1 / each[FPS], np.float32) for each in two]),
        }
