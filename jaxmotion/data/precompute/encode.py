"""Encoding clips into the records of a precomputed set, as the system says (`System.precomputable`)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxmotion.data.collate import Collate
from jaxmotion.data.precompute.settings import LABELS, TEXTS
from jaxmotion.data.source import DataSource, Example
from jaxmotion.data.tokenize import Tokenizer
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import FPS
from jaxmotion.foundation.example import Value
from jaxmotion.foundation.types import Array, ArrayLike, Params
from jaxmotion.parallel import sharding
from jaxmotion.systems.precompute import Precompute
from jaxmotion.systems.system import System

DTYPES = ("float16", "float32")


def check_precomputable(system: System) -> None:
    """Raises ValueError if the system has nothing that could be precomputed."""
    if not system.precomputable():
        raise ValueError(
            f"{type(system).__name__} with these parts has no latents or other entries that could be precomputed; it "
            "needs an autoencoder that gives the moments of its latents."
        )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Computes the records of the clips of a source.

    dtype: of arrays of floats.
    """

    system: System
    source: DataSource
    tokenize: Tokenizer
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Arrays can be kept in {' or '.join(DTYPES)}; got {self.dtype!r}.")
        check_precomputable(self.system)

    @functools.cached_property
    def entries(self) -> Mapping[str, Precompute]:
        """Entries that the system computes from a clip."""
        return self.system.precomputable()

    @property
    def listed_labels(self) -> list[str]:
        """Labels that the system takes from the data."""
        return [name for name in self.system.optional_entries if name in self.source.optional_entries]

    @property
    def labels(self) -> list[str]:
        """Labels of a record: those from the data, then those that the system computes."""
        return [*self.listed_labels, *(name for name, each in self.entries.items() if each.label)]

    @property
    def stored_entries(self) -> list[str]:
        """Entries of a clip that are stored as they are; all but the rate, which a whole set has in common."""
        replaced = {FPS, *self.entries, *(name for each in self.entries.values() for name in each.replaces)}
        return [*(name for name in self.source.entries if name not in replaced), *self.listed_labels]

    def settings(self) -> Json:
        """Returns what decides a record beside the clip and the weights, as JSON values."""
        parts = {name: part for each in self.entries.values() for name, part in each.settings.items()}
        shared = {"frames": self.system.frames, "size": list(self.system.size), LABELS: self.labels}
        texts = dict(self.source.texts)
        return {**parts, **shared, "tokenizer": config_json.to_json(self.tokenize), TEXTS: texts, "dtype": self.dtype}

    def load_parameters(self, weights: Mapping[str, ArrayLike], mesh: Mesh) -> tuple[Params, dict[str, str]]:
        """Puts the parameters of the encoders on the devices; returns them and a digest of each part.

        Args:
            weights: array-likes by path; what is missing is drawn at random, from the same seed every time.
        """
        model = self.system.build()
        parts = {part for each in self.entries.values() for part in each.parts}
        sharded = {part for each in self.entries.values() if each.sharded for part in each.parts}
        shapes = {
            path: leaf
            for path, leaf in sharding.paths(jax.eval_shape(model.init, jax.random.key(0))).items()
            if path.split("/")[0] in parts
        }
        missing = [path for path in shapes if path not in weights]

        def init(key: Array) -> Params:
            return {part: tree for part, tree in model.init(key).items() if part in parts}

        drawn = sharding.paths(jax.jit(init)(jax.random.key(0))) if missing else {}
        places = sharding.placements(unflatten_dict(shapes, sep="/"), model.sharding, mesh)
        replicated = jax.sharding.PartitionSpec()  # the devices share the clips
        on_devices = {}

        def read_once() -> Iterator[tuple[str, np.ndarray]]:
            for path in sorted(shapes):
                array = np.asarray(weights[path] if path in weights else drawn[path])
                spec = places[path].spec if path.split("/")[0] in sharded else replicated
                on_devices[path] = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
                yield path, array

        digests = weight_digests(read_once())
        return unflatten_dict(on_devices, sep="/"), digests

    def encode(self, params: Params, examples: Sequence[Example], at_once: int, mesh: Mesh) -> list[dict[str, Value]]:
        """Returns the values of the records of these clips; always `at_once` are encoded, the last one repeated.

        The devices of the mesh share the clips where their number is a multiple of theirs.
        """
        rows = [min(row, len(examples) - 1) for row in range(at_once)]
        batch = self._collate([examples[row] for row in rows])
        if at_once % sharding.batch_shards(mesh) == 0:
            batch = sharding.distribute(batch, mesh)
        computed = jax.device_get(self._program(params, batch))
        records = []
        for row, example in enumerate(examples):
            values: dict[str, Value] = {name: np.asarray(example[name]) for name in self.stored_entries}
            values |= {name: self._to_dtype(array[row]) for name, array in computed.items()}
            records.append({**values, **{text: example[text] for text in self.source.texts.values()}})
        return records

    def run(self, params: Params, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the entries of a batch of clips."""
        return {name: each.compute(params, batch) for name, each in self.entries.items()}

    @functools.cached_property
    def _collate(self) -> Collate:
        return Collate(self.source.entries, self.source.texts, self.tokenize)

    @functools.cached_property
    def _program(self) -> jax.stages.Wrapped:
        return jax.jit(self.run)

    def _to_dtype(self, value: np.ndarray) -> np.ndarray:
        return value.astype(self.dtype) if value.ndim and value.dtype.kind == "f" else value


def weight_digests(arrays: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Returns a digest of the parameters of each part, from (path, array) in the order of the paths."""
    found: dict[str, hashlib.blake2b] = {}
    for path, array in arrays:
        digest = found.setdefault(path.split("/")[0], hashlib.blake2b(digest_size=16))
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return {part: digest.hexdigest() for part, digest in found.items()}


def parse_shard(text: str) -> tuple[int, int]:
    """Returns index and count of `2/8`: the third of eight, counted from 0.

    Raises:
        ValueError: it is no such pair.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard is {text!r}; it must be like 0/4 ... 3/4: which of how many processes this is.")
    return int(found[1]), int(found[2])
