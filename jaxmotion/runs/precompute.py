"""Precomputed sets of an experiment's clips."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmotion.data.precompute import shards
from jaxmotion.data.precompute.encode import Encoder, check_precomputable
from jaxmotion.data.precompute.settings import CLIPS, ENCODERS, WEIGHTS
from jaxmotion.data.source import DataSource, Example
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.example import Value
from jaxmotion.foundation.lock import sole_writer
from jaxmotion.foundation.types import Params
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.runs.compatibility import check_entries
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.initial import starting_weights
from jaxmotion.video.synthetic.captions import CAPTION, CAPTIONS

CAPTION_OF_WINDOW = "window n has caption n of its clip, and after the last the first again"
"""How records get one of several captions, as the settings of a set say it."""
log = logging.getLogger(__name__)


def precompute(
    experiment: Experiment,
    destination: Path,
    *,
    dtype: str = "float16",
    windows: int = 1,
    per_shard: int = 64,
    at_once: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> int:
    """Encodes the clips of an experiment into a precomputed set, and returns how many records this call wrote.

    Clips of several shapes make a set for each, in a folder below.

    Args:
        dtype: of arrays of floats, such as the latents' moments and the text features.
        windows: records of each clip; the first starts where the clip does, the others at random times. Of a clip with
            several captions, they have one after the other.
        at_once: clips that are encoded together; 0: one for each device.
        shard_index, shard_count: which of how many processes this is; each writes its own shards.

    Raises:
        ValueError: the system can precompute nothing, or the folder holds another set.
        InUseError: another process writes the same shards.
    """
    check_precomputable(experiment.system)
    mesh = make_mesh(MeshSizes(data=1, fsdp=-1), jax.local_devices())
    weights = starting_weights(experiment, experiment.system.build())
    source = experiment.data.open(destination.with_name(f"{destination.name}.bad_clips.jsonl"))
    check_entries(experiment, source)
    if source.most_captions > windows:
        log.warning(
            "Clips have up to %d captions, and of each only the first %d will be stored; --windows %d stores all.",
            source.most_captions,
            windows,
            source.most_captions,
        )
    encoder = Encoder(experiment.system, source, experiment.tokenizer, dtype)
    params, digests = encoder.load_parameters(weights, mesh)
    writer = _Writer(encoder, params, digests, mesh, experiment.train.seed, windows)
    folders = [destination]
    if len(source.parts) > 1:
        shards.begin_buckets(destination, source.shapes)
        folders = [destination / str(shape) for shape in source.shapes]
    at_once = at_once or mesh.size
    pairs = zip(source.parts, folders, strict=True)
    jobs = [(part, writer.job(part, folder, per_shard, at_once)) for part, folder in pairs]
    lock = destination.with_name(f".{destination.name}.{shard_index}-of-{shard_count}.lock")
    with sole_writer(lock, f"Share {shard_index}/{shard_count} of the set in {destination}"):
        for _, job in jobs:
            shards.begin(job)
        return sum(writer.write(part, job, shard_index, shard_count) for part, job in jobs)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes the sets of the parts of a source.

    digests: of the weights, by part of the system. seed: of the times at which further windows of a clip start.
    """

    encoder: Encoder
    params: Params
    digests: Mapping[str, str]
    mesh: Mesh
    seed: int
    windows: int

    def job(self, part: DataSource, folder: Path, per_shard: int, at_once: int) -> shards.Job:
        """Returns the set to be written, with everything that decides its records."""
        counts = {"count": len(part), "windows": self.windows, "per_shard": per_shard}
        settings: Json = {
            CLIPS: {**config_json.to_json(part.config), **counts},
            "files": part.fingerprint(),
            ENCODERS: {**self.encoder.settings(), WEIGHTS: self.digests},
        }
        if self.windows > 1:
            settings["seed"] = self.seed
        if part.most_captions > 1:
            settings["captions"] = CAPTION_OF_WINDOW
        return shards.Job(folder, len(part) * self.windows, per_shard, at_once, settings)

    def write(self, part: DataSource, job: shards.Job, shard_index: int, shard_count: int) -> int:
        """Writes the shards of this process, and returns how many records they hold."""

        def load(index: int) -> Example | None:
            return load_window(part, *divmod(index, self.windows), self.seed)

        def encode(examples: Sequence[Example]) -> list[dict[str, Value]]:
            return self.encoder.encode(self.params, examples, job.at_once, self.mesh)

        with jax.set_mesh(self.mesh):
            written = shards.write(job, load, encode, shard_index, shard_count)
        shards.finish(job)
        return written


def load_window(part: DataSource, clip: int, window: int, seed: int) -> Example | None:
    """Loads what a record holds: the start of a clip or a later window, and one of its captions."""
    rng = None if window == 0 else np.random.default_rng([seed, clip, window])
    example = part.load_or_skip(clip, rng)
    if example is not None and (captions := example.get(CAPTIONS)):
        example[CAPTION] = captions[window % len(captions)]
    return example
