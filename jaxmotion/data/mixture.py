"""Several sources mixed by weights, clip by clip: every batch has its share of each.

    Mixture({"judged": ComparedPairs(...), "drawn": TwoByTwo(ClutteredScenes())}, {"judged": 1.0, "drawn": 3.0})

Sources agree on the entries that every example has. What only some of them know, such as scores, is NaN in the others.
Batches have one shape; where the sources have several, each shape mixes the parts that have it, and comes as often as
the weights ask for. Which clip comes when is a function of seed and step alone, so a mixture is resumed exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from jaxmotion.data.source import Buckets, DataConfig, DataSource, Example, Shape
from jaxmotion.foundation.config_json import Json, register


@register()
@dataclasses.dataclass(frozen=True)
class Mixture(DataConfig):
    """Several data sets, mixed by weights. All have clips of the same length, size and rate."""

    of: dict[str, DataConfig]
    """The data sets by name."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """How many clips of each come for those of the others, by name; 1 where nothing is said, 0 leaves one out."""

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("A mixture needs at least one data set.")
        unknown = sorted(self.weights.keys() - self.of.keys())
        if unknown:
            raise ValueError(f"There is a weight for {unknown[0]!r}, but the mixture has {', '.join(self.of)}.")
        if min(self.shares.values()) < 0 or not any(self.shares.values()):
            raise ValueError(f"The weights are {self.weights}; they are 0 or more, and one is above 0.")
        shapes = {name: (data.frames, *data.size) for name, data in self.of.items()}
        if len(set(shapes.values())) > 1:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"The data sets of a mixture have one (frames, height, width); these are {said}.")

    @property
    def shares(self) -> dict[str, float]:
        """The weights of all data sets."""
        return {name: self.weights.get(name, 1.0) for name in self.of}

    @property
    def frames(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Length of a clip."""
        return next(iter(self.of.values())).frames

    @property
    def fps(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Frames per second."""
        return next(iter(self.of.values())).fps

    @property
    def size(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(height, width) in pixels."""
        return next(iter(self.of.values())).size

    @property
    def how_to_label(self) -> str:
        return " ".join(dict.fromkeys(data.how_to_label for data in self.of.values() if data.how_to_label))

    def with_shape(self, frames: int, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, of={name: data.with_shape(frames, size) for name, data in self.of.items()})

    def open(self, report: Path | None = None) -> DataSource:
        """Opens the data sets whose weight is not 0.

        Raises:
            FileNotFoundError: something is missing.
            ValueError: a data set has no clip that can be used, or they have different entries or texts.
        """
        sources = {name: self.of[name].open(report) for name, share in self.shares.items() if share}
        return mix(self, sources, self.shares)


def mix(config: DataConfig, sources: Mapping[str, DataSource], shares: Mapping[str, float]) -> DataSource:
    """Returns sources mixed by their shares.

    Raises:
        ValueError: they have different entries or texts, or were precomputed with different settings.
    """
    first_name, first = next(iter(sources.items()))
    for name, source in sources.items():
        for what in ("entries", "texts", "settings"):
            ours, theirs = getattr(first, what), getattr(source, what)
            same = set(ours) == set(theirs) if what == "entries" else ours == theirs
            if not same:
                raise ValueError(
                    f"The {what} of {name!r} are not those of {first_name!r}, and one batch has both: "
                    f"{_list(theirs)} and {_list(ours)}."
                )
    unknown = _unknown_entries([part for source in sources.values() for part in source.parts])
    by_shape: dict[tuple, list[tuple[DataSource, float]]] = {}
    for name, source in sources.items():
        for part in source.parts:
            weight = shares[name] * len(part) / len(source)
            by_shape.setdefault((*part.shapes, part.further_shape), []).append((part, weight))
    parts = [MixedSource(config, mixed, unknown) for mixed in by_shape.values()]
    return Buckets(parts) if len(parts) > 1 else parts[0]


class MixedSource(DataSource):
    """Sources of one shape of clips, mixed by weights."""

    def __init__(
        self, config: DataConfig, mixed: Sequence[tuple[DataSource, float]], unknown: Mapping[str, np.ndarray]
    ):
        super().__init__(config)
        self._mixed = tuple((FilledSource(part, unknown), weight) for part, weight in mixed)
        first = mixed[0][0]
        self.entries, self.texts, self.settings = first.entries, first.texts, first.settings
        self.optional_entries = tuple(unknown)
        self.requested_entries = tuple(dict.fromkeys(name for part, _ in mixed for name in part.requested_entries))
        self.most_captions = max(part.most_captions for part, _ in mixed)

    @property
    def mixed(self) -> tuple[tuple[DataSource, float], ...]:
        return self._mixed

    @property
    def weight(self) -> float:
        return sum(weight for _, weight in self._mixed)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self._mixed[0][0].shapes

    def __len__(self) -> int:
        return sum(len(source) for source, _ in self._mixed)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """Loads a clip; all those of a source come one after the other."""
        source, index = self._locate(index)
        return source.load(index, rng)

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        source, index = self._locate(index)
        return source.load_or_skip(index, rng)

    def fingerprint(self) -> str:
        return " ".join(f"{weight} {source.fingerprint()}" for source, weight in self._mixed)

    def _locate(self, index: int) -> tuple[DataSource, int]:
        for source, _ in self._mixed:
            if index < len(source):
                return source, index
            index -= len(source)
        raise IndexError(f"Clip {index + len(self)} is asked for; there are {len(self)}.")

    def __str__(self) -> str:
        return ", ".join(f"{source} (weight {weight:.3g})" for source, weight in self._mixed)


class FilledSource(DataSource):
    """A source whose examples have NaN for the entries that only others know."""

    def __init__(self, source: DataSource, unknown: Mapping[str, np.ndarray]):
        super().__init__(source.config)
        self.source = source
        self.filling = {name: value for name, value in unknown.items() if name not in source.optional_entries}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.source.shapes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Example:
        return {**self.filling, **self.source.load(index, rng)}

    def load_or_skip(self, index: int, rng: np.random.Generator | None = None) -> Example | None:
        example = self.source.load_or_skip(index, rng)
        return None if example is None else {**self.filling, **example}

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def __str__(self) -> str:
        return str(self.source)


def _unknown_entries(parts: Sequence[DataSource]) -> dict[str, np.ndarray]:
    """Returns NaN in the shape of every optional entry of any of the sources.

    Raises:
        ValueError: an entry that some lack has no NaN.
    """
    names = dict.fromkeys(name for part in parts for name in part.optional_entries)
    unknown: dict[str, np.ndarray] = {}
    for part in parts:
        missing = [name for name in part.optional_entries if name not in unknown]
        example = part.example(0) if missing else {}
        for name in missing:
            known = np.asarray(example[name])
            if known.dtype.kind != "f" and any(name not in other.optional_entries for other in parts):
                raise ValueError(f"{name!r} is {known.dtype} in one data set and missing in another; it cannot be NaN.")
            unknown[name] = np.full(known.shape, np.nan, known.dtype) if known.dtype.kind == "f" else known
    return {name: unknown[name] for name in names}


def _list(values: Sequence[str] | Mapping[str, str] | Json | None) -> str:
    return ", ".join(map(str, values.items() if isinstance(values, Mapping) else values or ("nothing",)))
