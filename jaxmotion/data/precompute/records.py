"""Records of a precomputed set: how the values of a clip are stored, and their digest.

A value is an array, a picture (uint8 [H W 3], stored as png), a number (float32), a text, or a list of texts (stored as
JSON). Kinds of values, by name, are JSON values themselves: `[shape, dtype]`, "picture", "number", "text", "texts".
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jaxmotion.foundation.example import Value

if TYPE_CHECKING:
    from tensorflow_datasets.core.features import FeaturesDict

PICTURE, NUMBER, TEXT_KIND, TEXTS_KIND = "picture", "number", "text", "texts"
ID, DIGEST = "id", "digest"
Kind = str | list[list[int] | str]
"""The kind of a value, as JSON."""
Stored = bytes | np.ndarray | np.float32
"""A value as a record holds it."""


def kind_of(value: Value) -> Kind:
    """Returns the kind of a value."""
    if isinstance(value, str):
        return TEXT_KIND
    if not isinstance(value, np.ndarray | np.generic):
        return TEXTS_KIND
    if value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3:
        return PICTURE
    return NUMBER if value.ndim == 0 else [list(value.shape), str(value.dtype)]


def to_bytes_or_array(value: Value) -> Stored:
    """Returns a value as it is stored."""
    kind = kind_of(value)
    if kind == PICTURE:
        file = io.BytesIO()
        Image.fromarray(np.asarray(value)).save(file, "png")
        return file.getvalue()
    if kind == NUMBER:
        return np.float32(value)  # pyright: ignore[reportArgumentType]
    if kind == TEXT_KIND:
        return str(value).encode()
    if kind == TEXTS_KIND:
        return json.dumps({_LIST: list(value)}).encode()  # pyright: ignore[reportArgumentType]
    return np.ascontiguousarray(value)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of the values of a record by kind; numbers stand in the order in which their digest takes them."""

    arrays: tuple[str, ...]
    pictures: tuple[str, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]

    @classmethod
    def from_kinds(cls, kinds: Mapping[str, Kind], labels: Sequence[str]) -> Layout:
        """Returns the layout of values of these kinds: numbers in the order of the labels, the rest by name."""
        arrays = tuple(sorted(name for name, kind in kinds.items() if isinstance(kind, list)))
        pictures = tuple(sorted(name for name, kind in kinds.items() if kind == PICTURE))
        numbers = sorted(name for name, kind in kinds.items() if kind == NUMBER)
        texts = tuple(sorted(name for name, kind in kinds.items() if kind in (TEXT_KIND, TEXTS_KIND)))
        return cls(arrays, pictures, _in_order(numbers, labels), texts)

    @classmethod
    def read(cls, folder: Path, labels: Sequence[str], texts: Sequence[str]) -> Layout:
        """Returns the layout of a finished set from its list of features."""
        features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
        classes = {name: each["pythonClassName"].rpartition(".")[2] for name, each in features.items()}
        numbers = [name for name, kind in classes.items() if kind == "Scalar"]
        strings = {name for name, kind in classes.items() if kind == "Text"} - {ID, DIGEST}
        arrays = sorted(name for name, kind in classes.items() if kind == "Tensor")
        pictures = sorted(strings - set(texts))
        return cls(tuple(arrays), tuple(pictures), _in_order(sorted(numbers), labels), tuple(sorted(texts)))

    def digest(self, record: Mapping[str, Stored]) -> bytes:
        """Returns a digest of the values of a record as they are stored."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self.arrays:
            array = np.ascontiguousarray(record[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.view(np.uint8).data)
        for name in (*self.pictures, *self.texts, ID):
            value = record[name]
            digest.update(value if isinstance(value, bytes) else str(value).encode())
        digest.update(np.array([record[name] for name in self.numbers], np.float32).tobytes())
        return digest.digest()


def _in_order(names: Sequence[str], first: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(name for name in first if name in names), *names)))


def read_picture(stored: bytes) -> np.ndarray:
    """Returns a stored picture, uint8 [H W 3]."""
    return np.asarray(Image.open(io.BytesIO(stored)))


def read_text(stored: bytes) -> str | list[str]:
    """Returns a stored text, or a stored list of them."""
    text = stored.decode()
    return json.loads(text)[_LIST] if text.startswith(f'{{"{_LIST}": [') else text


_LIST = "texts"


def tfds_features(tfds: ModuleType, kinds: Mapping[str, Kind]) -> FeaturesDict:
    """Returns the description of records for tensorflow-datasets."""
    made = {}
    for name, kind in kinds.items():
        if isinstance(kind, list):
            made[name] = tfds.features.Tensor(shape=tuple(kind[0]), dtype=np.dtype(str(kind[1])))
        else:
            made[name] = tfds.features.Scalar(np.float32) if kind == NUMBER else tfds.features.Text()
    return tfds.features.FeaturesDict({**made, ID: tfds.features.Text(), DIGEST: tfds.features.Text()})
