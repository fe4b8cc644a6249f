"""Precomputed sets: clips that were encoded once, as latents, text features and labels, and need not be again.

    python -m jaxmotion.prepare --config configs/motionstone.py --data.path clips --out prepared/clips
    python -m jaxmotion.train --config configs/motionstone.py:prepared --data.path prepared/clips --run runs/mine

A set is a tensorflow-datasets folder of ArrayRecord shards; TensorFlow is not needed to read it, nor to write it. Which
arrays it has is up to the system that it was made for: `System.precomputable`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxmotion.data.precompute.records import DIGEST, ID, Layout, read_picture, read_text
from jaxmotion.data.precompute.settings import CLIPS, SETTINGS, labels_and_texts
from jaxmotion.data.source import Buckets, DataConfig, DataSource, Example, Shape
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.entries import FPS
from jaxmotion.foundation.files import is_file_name, read_json

BUCKETS = "buckets.json"
"""The shapes of the clips, where there are several; each has a set of its own in a folder below."""
INFO = "dataset_info.json"
"""Written last: a folder without it is not finished."""
NAME, SPLIT = "clips", "train"


@register("Prepared")
@dataclasses.dataclass(frozen=True)
class PrecomputedLatents(DataConfig):
    """A precomputed set in place of clips. Frames, size and rate must be those that it was made with."""

    path: str
    """The folder that `python -m jaxmotion.prepare` wrote."""
    frames: int = 49
    """Length of a clip."""
    fps: float = 8.0
    """Frames per second."""
    size: tuple[int, int] = (480, 720)
    """(height, width) of the clips."""
    verify: bool = True
    """Whether every record is checked against its digest when it is read."""

    def open(self, report: Path | None = None) -> DataSource:
        """Opens the set; clips that cannot be used were left out when it was made.

        Raises:
            FileNotFoundError: there is no set, or it is not finished.
            ValueError: it was made with other frames, size or rate.
        """
        folder, mine = Path(self.path), Shape(self.frames, *self.size)
        if not (folder / BUCKETS).is_file():
            return self._source(folder)
        names = read_json(folder / BUCKETS)
        shapes = [Shape(*map(int, name.split("x"))) for name in names]
        if mine not in shapes:
            raise ValueError(
                f"The prepared set in {folder} has the shapes {', '.join(names)}; data is {mine}. Take one of them: "
                "set data.frames and data.size, system.frames and system.size."
            )
        alike = [dataclasses.replace(self, path=str(folder / str(s)), frames=s.frames, size=s.size) for s in shapes]
        return Buckets([one._source(Path(one.path)) for one in alike])

    def _source(self, folder: Path) -> PrecomputedSource:
        if not (folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} holds no prepared set ({SETTINGS} is missing); make one first.")
        if not (folder / INFO).is_file():
            raise FileNotFoundError(
                f"The prepared set in {folder} is not finished; run the same `jaxmotion.prepare` again."
            )
        _check_places(folder / INFO)
        settings = read_json(folder / SETTINGS)
        for name, ours in (("frames", self.frames), ("fps", self.fps), ("size", list(self.size))):
            theirs = settings[CLIPS][name]
            if theirs != ours:
                raise ValueError(f"The prepared set in {folder} has {name} {theirs}; data.{name} is {ours}.")
        return PrecomputedSource(self, settings)


def _check_places(info: Path) -> None:
    """Raises ValueError if the description of a set sends its reader to another folder."""
    splits = read_json(info).get("splits", ())
    elsewhere = [template for each in splits if not is_file_name(template := each.get("filepathTemplate", "{SPLIT}"))]
    if elsewhere:
        raise ValueError(f"{info}: filepathTemplate {elsewhere[0]!r} leads out of the folder of the set.")


class PrecomputedSource(DataSource):
    """The records of a precomputed set."""

    config: PrecomputedLatents

    def __init__(self, config: PrecomputedLatents, settings: Json):
        super().__init__(config)
        self.settings = settings
        labels, self.texts = labels_and_texts(settings)
        self.optional_entries = labels
        self.layout = Layout.read(Path(config.path), labels, tuple(self.texts.values()))
        # Earlier versions kept numbers that were not known; they are no labels and stay in the file.
        self.entries = tuple(dict.fromkeys((*self.layout.arrays, *self.layout.pictures, *labels, FPS)))

    def __len__(self) -> int:
        return len(self._records)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Reads a record: the entries of the set, its texts, `fps` and `id`.

        Raises:
            ValueError: the record is not what was written.
        """
        stored, layout = self._records[index], self.layout
        if self.config.verify and layout.digest(stored) != stored[DIGEST]:
            raise ValueError(
                f"Record {index} of the prepared set in {self.config.path} is damaged: its digest is not that of "
                "its content. Delete the shard and prepare again."
            )
        return {
            **{name: np.asarray(stored[name]) for name in layout.arrays},
            **{name: read_picture(stored[name]) for name in layout.pictures},
            **{name: np.float32(stored[name]) for name in layout.numbers},
            **{name: read_text(stored[name]) for name in layout.texts},
            FPS: np.float32(self.config.fps),
            ID: stored[ID].decode(),
        }

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the open files: every process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    @functools.cached_property
    def _records(self) -> Sequence[Mapping[str, Any]]:
        return datasets().builder_from_directory(self.config.path).as_data_source(split=SPLIT)


def datasets() -> ModuleType:
    """Imports tensorflow-datasets when it is needed.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError("Prepared sets need tensorflow-datasets; pip install 'jaxmotion[prepare]'.") from error
    return tensorflow_datasets
