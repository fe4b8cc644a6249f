"""Clips of several shapes: every clip belongs to the bucket that suits it, and a batch is made of one bucket."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Of a clip: how many frames, and their height and width in pixels."""

    frames: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def __str__(self) -> str:
        return "x".join(map(str, self))


def nearest(shapes: Sequence[Shape], height: int, width: int) -> Shape:
    """The shape for a clip of that height and width: the nearest aspect ratio, then most frames, then most pixels."""

    def rank(shape: Shape) -> tuple[float, int, int]:
        off = abs(math.log(shape.width / shape.height) - math.log(width / height))
        return round(off, 6), -shape.frames, -shape.height * shape.width

    return min(shapes, key=rank)


class Buckets:
    """One data source for each shape that clips have. It can be read like one source, whose clips differ in shape."""

    def __init__(self, parts: Sequence[Any]):
        """`parts` are sources with a `config` that has `frames` and `size`, at least one of them."""
        self.parts = tuple(parts)
        self.labels = self.parts[0].labels
        if hasattr(self.parts[0], "entries"):
            self.entries = self.parts[0].entries

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Those of the parts."""
        return tuple(Shape(part.config.frames, *part.config.size) for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> tuple[int, Any]:
        """(part, its record) of a clip."""
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} is asked for; there are {len(self)}.")
        for number, part in enumerate(self.parts):
            if index < len(part):
                return number, part[index]
            index -= len(part)
        raise AssertionError("The lengths of the parts have changed.")

    def load(self, record: tuple[int, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The clip of a record, as its part loads it."""
        number, own = record
        return self.parts[number].load(own, rng)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The clip of that index."""
        return self.load(self[index], rng)

    def __str__(self) -> str:
        counted = zip(self.shapes, self.parts, strict=True)
        return f"{len(self.parts)} buckets: " + ", ".join(f"{shape} ({len(part)} clips)" for shape, part in counted)


def parts_of(source: Any) -> tuple[Any, ...]:
    """The sources of the shapes that a source has; itself, where all clips are alike."""
    return source.parts if isinstance(source, Buckets) else (source,)
