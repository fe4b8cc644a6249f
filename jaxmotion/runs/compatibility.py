"""Checks, before anything is trained or encoded, that the data and the system of an experiment fit together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jaxmotion.data.precompute.encode import weight_digests
from jaxmotion.data.precompute.settings import ENCODERS, LABELS, WEIGHTS, upgrade
from jaxmotion.data.source import DataSource
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import VIDEO
from jaxmotion.foundation.files import read_json
from jaxmotion.foundation.types import ArrayLike
from jaxmotion.parallel import sharding
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.training.log import write_whole

PREPARED = "prepared.json"
"""In the folder of a run: the settings of the precomputed set that it began with."""


def check_entries(experiment: Experiment, source: DataSource) -> None:
    """Compares the entries of the data with those that the system learns from.

    Raises:
        ValueError: something is missing, or is there on request and would not be read.
    """
    system = experiment.system
    lacking = [name for name in system.required_entries if name not in source.optional_entries]
    if lacking:
        hint = experiment.data.how_to_label
        raise ValueError(
            f"This system learns from the {_join(lacking)} of its clips, and the data does not know them. {hint}"
            f"{' ' if hint else ''}Or take a system that measures them, or data that has them."
        )
    unread = [name for name in source.requested_entries if name not in system.optional_entries]
    if unread:
        raise ValueError(
            f"The data brings the {_join(unread)} of its clips, as it was told to, but this system would not read "
            "them: it gets them from elsewhere, or needs none. Take a system that reads them, or leave them out."
        )
    model = system.build()
    measured = set(model.measured_entries) if isinstance(model, VideoDiffusion) else set()
    unmeasurable = sorted(measured - {*source.entries, *source.optional_entries})
    if VIDEO not in source.entries and unmeasurable:
        raise ValueError(
            f"This system measures the {_join(unmeasurable)} of clips on their frames, which a prepared set does not "
            "keep, and this set was not prepared for a system that measures them. Prepare again, or train on the clips."
        )


def check_precomputed(
    experiment: Experiment, source: DataSource, weights: Mapping[str, ArrayLike], directory: Path, *, fresh: bool
) -> None:
    """Compares what encoded a precomputed set with the system's own encoders, and the set with the run's first one.

    Raises:
        ValueError: they differ; the message says in what.
    """
    sets = [part.settings for part in source.parts if part.settings is not None]
    if not sets:
        return
    differing = _differing(experiment, upgrade(sets[0])[ENCODERS], weights, fresh=fresh)
    where = config_json.to_json(experiment.data).get("path", "")
    if differing:
        raise ValueError(
            f"The prepared set in {where} was made with another {' and another '.join(differing)} than this run would "
            "start with. Prepare it again with the same --config and --pretrained, or train with the same."
        )
    path = directory / PREPARED
    if fresh or not path.is_file():
        if jax.process_index() == 0:
            write_whole(path, json.dumps(sets, indent=2) + "\n")
    elif list(map(upgrade, read_json(path))) != list(map(upgrade, sets)):
        raise ValueError(
            f"The prepared set in {where} is not the one that the run in {directory} was started with; give the old "
            "one, or start in another folder with --run."
        )


def _differing(experiment: Experiment, there: Json, weights: Mapping[str, ArrayLike], *, fresh: bool) -> list[str]:
    """Returns the names of the encoders that are not those of a set. Labels are data, whoever measured them."""
    system = experiment.system
    entries = {name: each for name, each in system.precomputable().items() if name not in there[LABELS]}
    ours = {name: part for each in entries.values() for name, part in each.settings.items()}
    ours = {**json.loads(json.dumps(ours)), "tokenizer": config_json.to_json(experiment.tokenizer)}
    differing = [name for name, part in ours.items() if part != there.get(name)]
    like = sharding.paths(jax.eval_shape(system.build().init, jax.random.key(0))) if fresh else {}
    for part in sorted({part for each in entries.values() for part in each.parts}):
        mine = {path for path in like if path.startswith(f"{part}/")}
        if mine and mine <= set(weights):  # otherwise they are random, and the run's are others anyway
            digest = weight_digests((path, np.asarray(weights[path])) for path in sorted(mine))[part]
            differing += [f"weights of the {part}"] if digest != there[WEIGHTS].get(part) else []
    return differing


def _join(names: list[str]) -> str:
    return " and ".join(names)
