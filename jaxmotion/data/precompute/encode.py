"""What a prepared set keeps of a clip: the moments of its latents, its first frame, its text's features, its scores."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxmotion.data.precomputed import SCORES
from jaxmotion.foundation import config_json as saved
from jaxmotion.foundation.entries import CAMERA, FPS, IMAGE, MOMENTS, OBJECT, TEXT, TEXT_FEATURES, VIDEO
from jaxmotion.foundation.types import Array, Params, pixels_to_float
from jaxmotion.parallel import sharding
from jaxmotion.systems.system import System
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.video.decode import BadClipError
from jaxmotion.video.synthetic.captions import CAPTION

PARTS = ("codec", "text_encoder", "meter")
"""The parts of a system that make a record; the rest is not needed."""
DTYPES = ("float16", "float32")
FOR_MEMORY = ("tiles", "clips_at_once")
"""What a codec has that changes no latent."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What encodes the clips of a system."""

    system: System
    tokenize: Callable[[Sequence[str]], np.ndarray]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Arrays can be kept in {' or '.join(DTYPES)}; got {self.dtype!r}.")
        model = self.model
        text = model.conditioners.get(TEXT) if isinstance(model, VideoDiffusion) else None
        if not hasattr(model.canvas.codec, "moments") or not hasattr(getattr(text, "of", text), "encode"):
            raise ValueError(
                f"{type(self.system).__name__} with these parts has no latents and text features that could be kept; "
                "preparing is for CogVideoX's autoencoder and T5."
            )

    @property
    def model(self) -> VideoDiffusion:
        """The system, built."""
        return self.system.build()  # pyright: ignore[reportReturnType]

    def settings(self) -> dict[str, Any]:
        """What decides a record beside the clip and the weights, as JSON values."""
        values = saved.to_json(self.system)
        kept = {name: values[name] for name in ("codec", "intensity", "frames", "size") if name in values}
        codec = {name: value for name, value in kept["codec"].items() if name not in FOR_MEMORY}
        text = json.loads(json.dumps(values["conditioners"]["text"]))
        scores = {SCORES: self.scores}
        return {**kept, "codec": codec, "text": text, "tokenizer": saved.to_json(self.tokenize), **scores}

    @property
    def scores(self) -> list[str]:
        """Which scores a record has: those that the system takes from the data, and those that it measures."""
        return [name for name in (OBJECT, CAMERA) if name in self.system.labels or name in self.model.measures]

    def load_parameters(self, weights: Mapping[str, Any], mesh: Mesh) -> tuple[Params, dict[str, str]]:
        """The parameters of the encoders on the devices, and a digest of each part.

        Args:
            weights: array-likes by path; what is missing is drawn at random, from the same seed every time.
        """
        model = self.model
        shapes = {
            path: leaf
            for path, leaf in sharding.paths(jax.eval_shape(model.init, jax.random.key(0))).items()
            if path.split("/")[0] in PARTS
        }
        missing = [path for path in shapes if path not in weights]

        def fresh(key: Array) -> dict[str, Any]:
            return {part: tree for part, tree in model.init(key).items() if part in PARTS}

        drawn = sharding.paths(jax.jit(fresh)(jax.random.key(0))) if missing else {}
        places = sharding.placements(unflatten_dict(shapes, sep="/"), model.sharding, mesh)
        whole = jax.sharding.PartitionSpec()  # clips are dealt to the devices; the text encoder is what is large
        found = {}

        def read_once() -> Iterator[tuple[str, np.ndarray]]:
            for path in sorted(shapes):
                array = np.asarray(weights[path] if path in weights else drawn[path])
                spec = places[path].spec if path.startswith("text_encoder/") else whole
                found[path] = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
                yield path, array

        told = weight_digests(read_once())
        return unflatten_dict(found, sep="/"), told

    def encode(
        self, params: Params, examples: Sequence[Mapping[str, Any]], at_once: int, mesh: Mesh
    ) -> list[dict[str, Any]]:
        """The entries of the records of these clips; always `at_once` are encoded together, the last ones filled up.

        The devices of the mesh share the clips where their number is a multiple of theirs.
        """
        rows = [min(row, len(examples) - 1) for row in range(at_once)]
        chosen = [examples[row] for row in rows]
        batch = {
            VIDEO: np.stack([example[VIDEO] for example in chosen]),
            FPS: np.array([example[FPS] for example in chosen], np.float32),
            TEXT: self.tokenize([example[CAPTION] for example in chosen]),
        }
        if at_once % sharding.batch_shards(mesh) == 0:
            batch = sharding.distribute(batch, mesh)
        known = [name for name in (OBJECT, CAMERA) if name in self.system.labels]
        made = jax.device_get(self._compiled(params, batch))
        found = []
        for row, example in enumerate(examples):
            scores = {name: example[name] if name in known else made[name][row] for name in (OBJECT, CAMERA)}
            arrays = {name: made[name][row].astype(self.dtype) for name in (MOMENTS, TEXT_FEATURES)}
            found.append({**arrays, **scores, IMAGE: example[VIDEO][0]})
        return found

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.run)

    def run(self, params: Params, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The moments, the text's features and the scores of a batch of clips; scores nobody knows are NaN."""
        model = self.model
        text: Any = model.conditioners[TEXT]
        scores = {name: jnp.full(batch[FPS].shape, jnp.nan) for name in (OBJECT, CAMERA)}
        measured = {name: measure(params, batch) for name, measure in model.measures.items() if name in scores}
        return {
            MOMENTS: model.canvas.codec.moments(params["codec"], pixels_to_float(batch[VIDEO])),  # pyright: ignore
            TEXT_FEATURES: getattr(text, "of", text).encode(params, batch[TEXT]),
            **scores,
            **measured,
        }


def weight_digests(arrays: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """A digest of the parameters of each part, from (path, array) in the order of the paths."""
    found: dict[str, Any] = {}
    for path, array in arrays:
        digest = found.setdefault(path.split("/")[0], hashlib.blake2b(digest_size=16))
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return {part: digest.hexdigest() for part, digest in found.items()}


def loaded(source: Any, index: int, rng: np.random.Generator | None) -> Mapping[str, Any] | None:
    """The clip of that index, or None if it cannot be read; no other clip takes its place."""
    try:
        example = source.load(source[index], rng)
    except BadClipError:
        if getattr(source.config, "on_bad", "skip") == "stop":
            raise
        return None
    files = getattr(source, "files", None)
    return None if files is not None and example["id"] != files[index].id else example


def files_of(source: Any) -> str:
    """A digest of which files a source reads, how large they are, when they were written, and their listed scores.

    Of clips that are drawn it is a digest of the photos.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in getattr(source, "files", ()):
        stat = Path(file.path).stat()
        digest.update(f"{file.id} {file.caption} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    for photo in getattr(source, "photos", ()):
        digest.update(f"{photo.name} {photo.levels[0].shape}".encode())
        digest.update(np.ascontiguousarray(photo.levels[0]).data)
    for index, scores in sorted(getattr(source, "known", {}).items()):
        digest.update(f"{index} {scores}\n".encode())
    return digest.hexdigest()


def shard_of(text: str) -> tuple[int, int]:
    """Process and count of `2/8`: the third of eight, counted from 0.

    Raises:
        ValueError: it is no such pair.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--process is {text!r}; it must be like 0/4 ... 3/4: which process, of how many.")
    return int(found[1]), int(found[2])
