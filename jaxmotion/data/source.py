"""Data sources: the clips that a system is trained on, wherever they come from.

A `DataConfig` is what an experiment names; `open` returns its `DataSource`. An example is a dict: the batch entries of
one clip, the texts, and `id`, which names the clip. Loader workers import the modules of data sources; these import no
JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import FPS, TEXT, VIDEO
from jaxmotion.foundation.example import Example
from jaxmotion.video.synthetic.captions import CAPTION


class Shape(NamedTuple):
    """Frames of a clip, and their height and width in pixels."""

    frames: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def __str__(self) -> str:
        return "x".join(map(str, self))


class DataConfig:
    """Base of the configs that name a data source: frozen dataclasses with `@register()`, which have these fields."""

    frames: int
    """Length of a clip."""
    fps: float
    """Frames per second."""
    size: tuple[int, int]
    """Height and width in pixels."""

    def open(self, report: Path | None = None) -> DataSource:
        """Opens the data.

        Args:
            report: a file of JSON lines to which clips that cannot be used are added.

        Raises:
            FileNotFoundError: something is missing.
            ValueError: no clip can be used.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it is opened.")

    def held_out_examples(self, count: int, entries: Sequence[str]) -> list[Example] | None:
        """Returns examples with these entries that training never sees, for evaluations; None if there are none."""
        return None

    def with_shape(self, frames: int, size: tuple[int, int]) -> Self:
        """Returns this config for clips of another length and size."""
        return dataclasses.replace(self, frames=frames, size=size)  # pyright: ignore[reportArgumentType]

    @property
    def how_to_label(self) -> str:
        """One sentence on how this data can get entries that it lacks; empty if there is no way."""
        return ""


class DataSource:
    """Base of data sources. A subclass has `__len__`, `load`, and attributes where the defaults do not fit."""

    entries: Sequence[str] = (VIDEO, FPS)
    """Entries of every example, all of which are stacked into batches."""
    optional_entries: Sequence[str] = ()
    """Further entries of every example, stacked into batches for systems that read them."""
    requested_entries: Sequence[str] = ()
    """Those of the optional entries that somebody asked for; a system that reads none of them is refused."""
    texts: Mapping[str, str] = {TEXT: CAPTION}
    """Batch entries of token ids, and the texts of an example that they are made of. A text is a string, tokens [B L],
    or a list of as many strings in every example, tokens [B N L]."""
    most_captions: int = 1
    """Captions of the clip that has most. Loading draws one; a precomputed set stores one in each record."""
    settings: Json | None = None
    """The settings that a precomputed set was made with (JSON values); None: nothing is precomputed."""

    def __init__(self, config: DataConfig):
        self.config = config

    @property
    def parts(self) -> tuple[DataSource, ...]:
        """Sources of one shape each; a batch is made of one of them."""
        return (self,)

    @property
    def mixed(self) -> tuple[tuple[DataSource, float], ...]:
        """Sources that share every batch of this one, and how many clips of each come for those of the others."""
        return ((self, 1.0),)

    @property
    def weight(self) -> float:
        """How many batches of this part come for those of others."""
        return len(self)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of the clips of each part."""
        return (Shape(self.config.frames, *self.config.size),)

    @property
    def further_shape(self) -> Shape | None:
        """The shape of the second clips of pairs; None: clips are single."""
        return None

    def __len__(self) -> int:
        """Returns how many clips make an epoch."""
        raise NotImplementedError(f"{type(self).__name__} must say how many clips it has.")

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Loads the clip of an index: a random moment or variant of it when a generator is given."""
        raise NotImplementedError(f"{type(self).__name__} must say how a clip is loaded.")

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        """Loads exactly this clip, without a substitute; None if it cannot be used."""
        return self.load(index, rng)

    def fingerprint(self) -> str:
        """Returns a digest of what the clips are made of beside the config, such as files and their dates."""
        return ""

    def example(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Loads the clip of an index.

        Raises:
            IndexError: there is no such clip.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} is asked for; there are {len(self)}.")
        return self.load(int(index), rng)

    def __getitem__(self, index: int) -> Example:
        return self.example(index)

    def __iter__(self) -> Iterator[Example]:
        return map(self.example, range(len(self)))

    def __str__(self) -> str:
        return f"{len(self)} clips"


class Buckets(DataSource):
    """Several sources, one for each shape of clips, read as one source."""

    def __init__(self, parts: Sequence[DataSource]):
        super().__init__(parts[0].config)
        self._parts = tuple(parts)
        first = self._parts[0]
        self.entries, self.optional_entries = first.entries, first.optional_entries
        self.requested_entries, self.texts, self.settings = first.requested_entries, first.texts, first.settings
        self.most_captions = max(part.most_captions for part in self._parts)

    @property
    def parts(self) -> tuple[DataSource, ...]:
        return self._parts

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(shape for part in self.parts for shape in part.shapes)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        part, index = self._locate(index)
        return part.load(index, rng)

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        part, index = self._locate(index)
        return part.load_or_skip(index, rng)

    def fingerprint(self) -> str:
        return " ".join(part.fingerprint() for part in self.parts)

    def _locate(self, index: int) -> tuple[DataSource, int]:
        """Returns the part of a clip and the clip's index in it."""
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(f"Clip {index + len(self)} is asked for; there are {len(self)}.")

    def __str__(self) -> str:
        counted = zip(self.shapes, self.parts, strict=True)
        return f"{len(self.parts)} buckets: " + ", ".join(f"{shape} ({len(part)} clips)" for shape, part in counted)


def nearest(shapes: Sequence[Shape], height: int, width: int) -> Shape:
    """Returns the shape that suits a clip: the nearest aspect ratio, then most frames, then most pixels."""

    def rank(shape: Shape) -> tuple[float, int, int]:
        off = abs(math.log(shape.width / shape.height) - math.log(width / height))
        return round(off, 6), -shape.frames, -shape.height * shape.width

    return min(shapes, key=rank)
