"""Whether the data and the system of an experiment belong together, told before anything is trained or encoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmotion.data.buckets import parts_of
from jaxmotion.data.precompute import encode as encoding
from jaxmotion.data.precomputed import ENCODERS, WEIGHTS, PrecomputedSource
from jaxmotion.foundation.entries import CAMERA, OBJECT, VIDEO
from jaxmotion.parallel import sharding
from jaxmotion.runs.experiment import Experiment
from jaxmotion.training.log import write_whole

PREPARED = "prepared.json"
"""In the folder of a run: the settings of the prepared set that it began with."""


def check_known(experiment: Experiment, source: Any) -> None:
    """Compares what the data knows of its clips with what the system must be told.

    Raises:
        ValueError: something is missing, or is there and would not be looked at.
    """
    system, data = experiment.system, experiment.data
    lacking = [name for name in system.needs if name not in source.labels]
    if lacking:
        raise ValueError(
            f"This system is told the {' and '.join(lacking)} scores of its clips, and the data does not know them. "
            "Give a list of scores (--data.scores, made by `python -m jaxmotion.score`), or take a system that "
            "measures them."
        )
    if getattr(data, "scores", "") and not {OBJECT, CAMERA} <= set(system.labels):
        raise ValueError(
            f"data.scores is {data.scores}, but this system would not read it: its "  # pyright: ignore
            "scores come from elsewhere. Take one whose intensity is Known, such as configs/motionstone.py:listed, or "
            "leave the list out."
        )
    entries = getattr(source, "entries", (VIDEO,))
    measured = set(getattr(system.build(), "measures", {}))
    if VIDEO not in entries and measured - set(entries):
        raise ValueError(
            f"This system measures the {' and '.join(sorted(measured - set(entries)))} of clips on their frames, which "
            "a prepared set does not keep; train it on the clips."
        )
    unscored = measured & {OBJECT, CAMERA} - set(source.labels)
    if VIDEO not in entries and unscored:
        raise ValueError("The prepared set has no scores: it was prepared for a system that needs none. Prepare again.")


def check_prepared(
    experiment: Experiment, source: Any, weights: Mapping[str, Any], directory: Path, *, fresh: bool
) -> None:
    """Compares what encoded a prepared set with the system's own encoders, and the set with the one a run began with.

    Raises:
        ValueError: they differ; the message says in what.
    """
    parts = [part for part in parts_of(source) if isinstance(part, PrecomputedSource)]
    if not parts:
        return
    there = parts[0].settings[ENCODERS]
    system: Any = getattr(experiment.system, "of", experiment.system)
    ours = json.loads(json.dumps(encoding.Encoder(system, experiment.tokenizer, there["dtype"]).settings()))
    differing = [name for name in ("codec", "text", "tokenizer") if ours[name] != there[name]]
    like = sharding.paths(jax.eval_shape(system.build().init, jax.random.key(0))) if fresh else {}
    for name in ("codec", "text_encoder"):
        mine = {path for path in like if path.startswith(f"{name}/")}
        if mine and mine <= set(weights):  # otherwise they are random, and the run's are others anyway
            digest = encoding.weight_digests((path, np.asarray(weights[path])) for path in sorted(mine))[name]
            differing += [f"weights of the {name}"] if digest != there[WEIGHTS][name] else []
    if differing:
        raise ValueError(
            f"The prepared set in {experiment.data.path} was made with another {' and another '.join(differing)} than "  # pyright: ignore
            "this run would start with. Prepare it again with the same --config and --start-from, or train with the "
            "same."
        )
    path = directory / PREPARED
    told = [part.settings for part in parts]
    if fresh or not path.is_file():
        if jax.process_index() == 0:
            write_whole(path, json.dumps(told, indent=2) + "\n")
    elif json.loads(path.read_text()) != told:
        raise ValueError(
            f"The prepared set in {experiment.data.path} is not the one that the run in {directory} "  # pyright: ignore
            "was started with; give the old one, or start in another folder with --run."
        )
