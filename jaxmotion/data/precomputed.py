"""A prepared set: clips that were encoded once, as latents, text features and scores, and need not be again.

    python -m jaxmotion.prepare --config configs/motionstone.py --data.path clips --out prepared/clips
    python -m jaxmotion.train --config configs/motionstone.py:prepared --data.path prepared/clips --run runs/mine

It is a tensorflow-datasets folder of ArrayRecord shards; TensorFlow is not needed to read it, nor to write it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxmotion.data.buckets import Buckets, Shape
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import CAMERA, FPS, IMAGE, MOMENTS, OBJECT, TEXT_FEATURES
from jaxmotion.video.synthetic.captions import CAPTION

SETTINGS = "settings.json"
"""What the set was made with; another setting is another set."""
BUCKETS = "buckets.json"
"""The shapes of the clips, where there are several; each has a set of its own in a folder below."""
INFO = "dataset_info.json"
"""Written last: a folder without it is not finished."""
NAME, SPLIT, VERSION = "clips", "train", "1.0.0"
DIGEST = "digest"
ENCODERS, SCORES, WEIGHTS = "encoders", "scores", "weights"
"""Keys of the settings: what encoded the clips, which scores the records have, and digests of the weights."""
ARRAYS = (MOMENTS, TEXT_FEATURES)


@register("Prepared")
@dataclasses.dataclass(frozen=True)
class PrecomputedLatents:
    """A prepared set in place of clips. Frames, size and rate must be those that it was made with."""

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

    def open(self, report: Path | None = None) -> PrecomputedSource | Buckets:
        """Opens the set. `report` is there because all data sources have it; bad clips were left out when preparing.

        Raises:
            FileNotFoundError: there is no set, or it is not finished.
            ValueError: it was made with other frames, size or rate.
        """
        del report
        folder, mine = Path(self.path), Shape(self.frames, *self.size)
        if not (folder / BUCKETS).is_file():
            return self._source(folder)
        names = json.loads((folder / BUCKETS).read_text())
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
        settings = json.loads((folder / SETTINGS).read_text())
        if SCORES not in settings[ENCODERS]:
            raise ValueError(f"The prepared set in {folder} was made by an earlier version; prepare it again.")
        for name, ours in (("frames", self.frames), ("fps", self.fps), ("size", list(self.size))):
            theirs = settings["clips"][name]
            if theirs != ours:
                raise ValueError(f"The prepared set in {folder} has {name} {theirs}; data.{name} is {ours}.")
        return PrecomputedSource(self, settings)


class PrecomputedSource:
    """The records of a `PrecomputedLatents` config: `source[i]` names one, `load` reads it, `example(i)` does both."""

    entries = (MOMENTS, IMAGE, TEXT_FEATURES, OBJECT, CAMERA, FPS)
    """What a batch is made of, instead of a video."""

    def __init__(self, config: PrecomputedLatents, settings: Mapping[str, Any]):
        self.config, self.settings = config, settings
        self.labels = tuple(settings[ENCODERS][SCORES])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> int:
        """The number of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"Record {index} is asked for; there are {len(self)}.")
        return int(index)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The record of that index; see `load`."""
        return self.load(self[index], rng)

    def load(self, record: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Reads a record: `moments` [t h w 2C], `image` uint8 [H W 3], `text_features` [L D], scores, `caption`, `id`.

        Raises:
            ValueError: the record is not what was written.
        """
        stored = self._records[record]
        if self.config.verify and digest_of(stored) != stored[DIGEST]:
            raise ValueError(
                f"Record {record} of the prepared set in {self.config.path} is damaged: its digest is not that of "
                "its content. Delete the shard and prepare again."
            )
        return {
            **{name: np.asarray(stored[name]) for name in ARRAYS},
            IMAGE: np.asarray(Image.open(io.BytesIO(stored[IMAGE]))),
            OBJECT: np.float32(stored[OBJECT]),
            CAMERA: np.float32(stored[CAMERA]),
            FPS: np.float32(self.config.fps),
            CAPTION: stored[CAPTION].decode(),
            "id": stored["id"].decode(),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: every process opens its own."""
        return {"config": self.config, "settings": self.settings, "labels": self.labels}

    @functools.cached_property
    def _records(self) -> Any:
        return datasets().builder_from_directory(self.config.path).as_data_source(split=SPLIT)


def digest_of(stored: Mapping[str, Any]) -> bytes:
    """What a record's content amounts to; any changed bit changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ARRAYS:
        array = np.ascontiguousarray(stored[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    for name in (IMAGE, CAPTION, "id"):
        value = stored[name]
        digest.update(value if isinstance(value, bytes) else str(value).encode())
    digest.update(np.array([stored[OBJECT], stored[CAMERA]], np.float32).tobytes())
    return digest.digest()


def datasets() -> Any:
    """tensorflow-datasets, imported when it is needed.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError("Prepared sets need tensorflow-datasets; pip install 'jaxmotion[prepare]'.") from error
    return tensorflow_datasets
