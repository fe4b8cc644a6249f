"""Precomputed sets of an experiment's clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmotion.data.precompute import shards
from jaxmotion.data.precompute.encode import Encoder, check_precomputable
from jaxmotion.data.precompute.settings import CLIPS, ENCODERS, WEIGHTS
from jaxmotion.data.source import DataSource, Example
from jaxmotion.foundation import config_json
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.runs.compatibility import check_entries
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.initial import starting_weights


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
        windows: records of each clip; the first starts where the clip does, the others at random times.
        at_once: clips that are encoded together; 0: one for each device.
        shard_index, shard_count: which of how many processes this is; each writes its own shards.

    Raises:
        ValueError: the system can precompute nothing, or the folder holds another set.
    """
    check_precomputable(experiment.system)
    mesh = make_mesh(MeshSizes(data=1, fsdp=-1), jax.local_devices())
    weights = starting_weights(experiment, experiment.system.build())
    source = experiment.data.open(destination.with_name(f"{destination.name}.bad_clips.jsonl"))
    check_entries(experiment, source)
    encoder = Encoder(experiment.system, source, experiment.tokenizer, dtype)
    params, digests = encoder.load_parameters(weights, mesh)
    at_once = at_once or mesh.size
    seed = experiment.train.seed

    def job_of(part: DataSource, folder: Path) -> shards.Job:
        counts = {"count": len(part), "windows": windows, "per_shard": per_shard}
        settings: dict[str, Any] = {
            CLIPS: {**config_json.to_json(part.config), **counts},
            "files": part.fingerprint(),
            ENCODERS: {**encoder.settings(), WEIGHTS: digests},
        }
        if windows > 1:
            settings["seed"] = seed  # which draws their times
        return shards.Job(folder, len(part) * windows, per_shard, at_once, settings)

    def write(part: DataSource, job: shards.Job) -> int:
        def load(index: int) -> Example | None:
            clip, window = divmod(index, windows)
            return part.load_or_skip(clip, None if window == 0 else np.random.default_rng([seed, clip, window]))

        def encode(examples: Any) -> Any:
            return encoder.encode(params, examples, at_once, mesh)

        with jax.set_mesh(mesh):
            written = shards.write(job, load, encode, shard_index, shard_count)
        shards.finish(job)
        return written

    folders = [destination]
    if len(source.parts) > 1:
        shards.begin_buckets(destination, source.shapes)
        folders = [destination / str(shape) for shape in source.shapes]
    jobs = [(part, job_of(part, folder)) for part, folder in zip(source.parts, folders, strict=True)]
    for _, job in jobs:
        shards.begin(job)
    return sum(write(part, job) for part, job in jobs)
