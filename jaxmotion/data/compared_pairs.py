"""Pairs of real clips with human judgements and measured labels: the paper's training data for the motion estimator.

A pair comes from a file of judgements (`data.pairs`), from labels of single clips, or from both; where something is
missing the label is not a number, and the losses leave it out.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation: 5,000 judged pairs, pseudo-labels of single clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmotion.data.clips import Clips
from jaxmotion.data.source import DataConfig, DataSource, Example
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.video.motion_scale import AXES
from jaxmotion.video.pairs import STRONGER, Pair, locate_pairs, read_pairs
from jaxmotion.video.score_lists import read_scores
from jaxmotion.video.synthetic.captions import CAPTION

SIGNS = {"a": 1.0, "b": -1.0, "tie": 0.0, "": float("nan")}


@register("Judged")
@dataclasses.dataclass(frozen=True)
class ComparedPairs(DataConfig):
    """Pairs of real clips. At least one of `pairs` and `labels` must be given."""

    path: str
    """A folder of clips or a list of them."""
    pairs: str = ""
    """A csv or jsonl file of judged pairs (`python -m jaxmotion.score label` writes one)."""
    labels: str = ""
    """A jsonl file with `path`, `object` and `camera` for single clips, such as pseudo-labels."""
    frames: int = 9
    """Length of a clip."""
    fps: float = 8.0
    """Frames per second at which frames are taken."""
    size: tuple[int, int] = (144, 256)
    """(height, width); frames are cropped about the middle and resized."""
    on_bad: Literal["skip", "stop"] = "skip"
    """Whether a file that cannot be used is skipped or stops the run."""

    def __post_init__(self) -> None:
        if not self.pairs and not self.labels:
            raise ValueError("Compared pairs need a file of pairs or labels; set data.pairs, data.labels or both.")

    def open(self, report: Path | None = None) -> DataSource:
        """Lists the clips and reads their labels.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: a list cannot be read, names clips that are not there, or leaves no pair.
        """
        listed = Clips(self.path, frames=self.frames, fps=self.fps, size=self.size, on_bad=self.on_bad)
        source = listed.open_as_one(report)
        places = {str(Path(file.path).resolve()): index for index, file in enumerate(source.files)}
        labels = read_scores(Path(self.labels), Path(self.path), places) if self.labels else {}
        compared = _pairs_of_clips(Path(self.pairs), Path(self.path), places) if self.pairs else _every(sorted(labels))
        if not compared:
            raise ValueError(f"No pair is left: {self.pairs or self.labels} names none of the clips in {self.path}.")
        return ComparedPairsSource(self, source, compared, labels)


class ComparedPairsSource(DataSource):
    """The pairs of a `ComparedPairs` config."""

    config: ComparedPairs
    optional_entries = (*AXES, *STRONGER)

    def __init__(
        self,
        config: ComparedPairs,
        clips: DataSource,
        pairs: list[tuple[int, int, Pair | None]],
        labels: Mapping[int, tuple[float, float]],
    ):
        super().__init__(config)
        self.clips, self.pairs, self.labels = clips, pairs, labels

    def __len__(self) -> int:
        return len(self.pairs)

    def fingerprint(self) -> str:
        return f"{self.clips.fingerprint()} {self.pairs} {sorted(self.labels.items())}"

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Reads a pair: `video` uint8 [2 T H W 3], `object` and `camera` [2], `stronger_object`, `stronger_camera`.

        The last two are 1 if the first moves more, -1 if the second does, 0 for a tie. Unknown labels are NaN.
        """
        first, second, pair = self.pairs[index]
        examples = [self.clips.load(clip, rng) for clip in (first, second)]
        nothing = (float("nan"),) * 2
        labels = np.array([self.labels.get(clip, nothing) for clip in (first, second)], np.float32)
        verdicts = (pair.stronger_object, pair.stronger_camera) if pair else ("", "")
        return {
            VIDEO: np.stack([example[VIDEO] for example in examples]),
            FPS: examples[0][FPS],
            CAPTION: "",
            "id": " ".join(example["id"] for example in examples),
            **{axis: labels[:, place] for place, axis in enumerate(AXES)},
            **{name: np.float32(SIGNS[word]) for name, word in zip(STRONGER, verdicts, strict=True)},
        }


def _pairs_of_clips(path: Path, root: Path, places: Mapping[str, int]) -> list[tuple[int, int, Pair | None]]:
    """Judged pairs with the clips' indices; those whose clips cannot be used are left out."""
    folder = root if root.is_dir() else root.parent
    found = []
    for pair in locate_pairs(read_pairs(path), folder):
        a, b = (places.get(str(Path(name).resolve())) for name in (pair.a, pair.b))
        if a is not None and b is not None:
            found.append((a, b, pair))
    return found


def _every(indices: list[int]) -> list[tuple[int, int, Pair | None]]:
    """Labelled clips two by two: each with the next of a fixed shuffle."""
    order = np.random.default_rng(0).permutation(indices).tolist()
    return [(a, b, None) for a, b in zip(order, [*order[1:], *order[:1]], strict=True) if a != b]
