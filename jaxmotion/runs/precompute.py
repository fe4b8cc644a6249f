"""Cached latents of an experiment."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmotion.data.buckets import Buckets, parts_of
from jaxmotion.data.precompute import encode as encoding
from jaxmotion.data.precompute import shards
from jaxmotion.data.precomputed import ENCODERS, WEIGHTS
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.runs.compatibility import check_known
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
    process: int = 0,
    of: int = 1,
) -> int:
    """Encodes the clips of an experiment into a prepared set, and returns how many records this call wrote.

    Clips of several shapes make a set for each, in a folder below.

    Args:
        dtype: of the latents' moments and the text features.
        windows: records of each clip; the first starts where the clip does, the others at random times.
        at_once: clips that are encoded together; 0: one for each device.
        process, of: which of how many processes this is; each writes its own shards.

    Raises:
        ValueError: the system has no latents or text features to prepare, or the folder holds another set.
    """
    mesh = make_mesh(MeshSizes(data=1, fsdp=-1), jax.local_devices())
    encoder = encoding.Encoder(experiment.system, experiment.tokenizer, dtype)
    weights = starting_weights(experiment, experiment.system.build())
    source = experiment.data.open(destination.with_name(f"{destination.name}.bad_clips.jsonl"))
    check_known(experiment, source)
    params, digest = encoder.load_parameters(weights, mesh)
    at_once = at_once or mesh.size
    seed = experiment.train.seed

    def job_of(part: Any, folder: Path) -> shards.Job:
        clips = json.loads(json.dumps(dataclasses.asdict(part.config)))
        settings = {
            "clips": {**clips, "count": len(part), "windows": windows, "per_shard": per_shard},
            "files": encoding.files_of(part),
            ENCODERS: {**encoder.settings(), "dtype": dtype, WEIGHTS: digest},
        }
        if windows > 1:
            settings["seed"] = seed  # which draws their times
        return shards.Job(folder, len(part) * windows, per_shard, at_once, settings)

    if isinstance(source, Buckets):
        shards.begin_buckets(destination, source.shapes)
        folders = [destination / str(shape) for shape in source.shapes]
    else:
        folders = [destination]
    jobs = [(part, job_of(part, folder)) for part, folder in zip(parts_of(source), folders, strict=True)]
    for _, job in jobs:
        shards.begin(job)
    written = 0
    for part, job in jobs:

        def load(index: int, part: Any = part) -> Mapping[str, Any] | None:
            clip, window = divmod(index, windows)
            return encoding.loaded(part, clip, None if window == 0 else np.random.default_rng([seed, clip, window]))

        with jax.set_mesh(mesh):
            written += shards.write(job, load, lambda found: encoder.encode(params, found, at_once, mesh), process, of)
        shards.finish(job)
    return written
