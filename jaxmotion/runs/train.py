"""Training or continuing an experiment in a folder: calibration, batches, previews."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxmotion.data.loader import Batches, batches
from jaxmotion.data.source import DataSource
from jaxmotion.foundation.entries import IMAGE, VIDEO
from jaxmotion.foundation.errors import InUseError
from jaxmotion.foundation.lock import sole_writer
from jaxmotion.foundation.types import Params
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import broadcast_from_first, do_on_first, process_slice
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.calibration import CALIBRATION, calibrate, read_calibration
from jaxmotion.runs.compatibility import check_entries, check_precomputed
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.initial import idle_parts, starting_weights
from jaxmotion.runs.trained import TrainedRun
from jaxmotion.sampling.generate import Generator
from jaxmotion.sampling.grid import grid
from jaxmotion.systems.control import describe, sweeps
from jaxmotion.systems.system import TaskWithout
from jaxmotion.training import loop, restore
from jaxmotion.training.log import write_whole
from jaxmotion.training.resume import check_continues
from jaxmotion.training.state import cast
from jaxmotion.video.encode import write_mp4
from jaxmotion.video.images import fit
from jaxmotion.video.synthetic.captions import CAPTION

BAD_CLIPS = "bad_clips.jsonl"
LOCK = ".lock"
"""In the folder of a run, while it trains."""
PREVIEWS = 3
_LOG = logging.getLogger(__name__)


def train(experiment: Experiment, directory: Path) -> loop.Result:
    """Trains an experiment in a folder, or continues what is there.

    Raises:
        ValueError: the folder holds a run with another config that this one cannot continue.
        InUseError: another process is training in the folder.
    """
    with contextlib.ExitStack() as held:
        lock = sole_writer(directory / LOCK, f"The run in {directory}")
        do_on_first(lambda: held.enter_context(lock), InUseError)
        return _train(experiment, directory)


def _train(experiment: Experiment, directory: Path) -> loop.Result:
    meta = experiments.to_json(experiment)
    check_continues(directory, meta)
    mesh = make_mesh(experiment.mesh)
    fresh = restore.latest_step(directory) is None
    if fresh:
        experiment.system.check_start()
    source = experiment.data.open(directory / BAD_CLIPS)
    check_entries(experiment, source)
    without = idle_parts(experiment, source.entries)
    weights = starting_weights(experiment, experiment.system.build(), without) if fresh else {}
    check_precomputed(experiment, source, weights, directory, fresh=fresh)
    if len(source.parts) > 1:
        for shape in source.shapes:
            experiment.system.resized(shape.frames, shape.size)
        if jax.process_index() == 0:
            tqdm.write(f"{source}. The training step is compiled once for each.", file=sys.stderr)
    calibrated = _calibrate(experiment, mesh, source, directory)
    task = calibrated.system.build()
    preview = None
    if without and jax.process_index() == 0:
        parts = " and ".join(sorted(without))
        tqdm.write(f"The {parts} is not loaded, for no step reads it; no previews are made.", file=sys.stderr)
    if isinstance(task, Generator) and not without:
        preview = functools.partial(_try_preview, calibrated, task, source, directory)
    loader = _loader(experiment, mesh, source)
    if without:
        task = TaskWithout(task, without)
    return loop.run(task, experiment.train, mesh, loader, directory, meta=meta, on_sample=preview, start=weights)


def _loader(experiment: Experiment, mesh: Mesh, source: DataSource) -> Batches:
    """Returns this process's rows of every training batch, for ever."""
    index, count = process_slice(mesh)
    return batches(
        source,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        tokenize=experiment.tokenizer,
        workers=experiment.workers,
        process_index=index,
        process_count=count,
        also=[name for name in experiment.system.optional_entries if name in source.optional_entries],
    )


def _calibrate(experiment: Experiment, mesh: Mesh, source: DataSource, directory: Path) -> Experiment:
    """The experiment with what its system measures on the training clips; measured once for a run."""
    path = directory / CALIBRATION
    measured = read_calibration(directory)
    if measured is None:  # a level goes on to mean what it meant in the run that this one starts from
        earlier = (source.calibration() for source in experiment.pretrained.values())
        measured = next((found for found in earlier if found is not None), None)
    measured = broadcast_from_first(measured)
    if measured is None:
        clips = (
            batch[VIDEO] for batch in tqdm(_loader(experiment, mesh, source), desc="measuring the clips", unit="batch")
        )
        measured = broadcast_from_first(experiment.system.measure_calibration(clips))
    if jax.process_index() == 0 and not path.exists():
        write_whole(path, json.dumps(measured, indent=2) + "\n")
    return dataclasses.replace(experiment, system=calibrate(experiment.system, measured, directory))


def _try_preview(
    experiment: Experiment, model: Generator, source: DataSource, directory: Path, params: Params, step: int
) -> None:
    """Writes previews; one that fails is logged, and training goes on without it."""
    try:
        _write_preview(experiment, model, source, directory, params, step)
    except Exception:  # noqa: BLE001  whatever a system's preview meets must not cost the training
        _LOG.exception("The previews of step %d could not be made; training goes on.", step)


def _write_preview(
    experiment: Experiment, model: Generator, source: DataSource, directory: Path, params: Params, step: int
) -> None:
    """Writes the first clips of the data, animated at the sweeps of the controls, to samples/step_NNNNNN_N.mp4."""
    run = TrainedRun(directory, experiment, model, cast(params, experiment.train.precision), step)
    for index in range(min(PREVIEWS, len(source))):
        example = source.example(index)
        photo = fit(example[IMAGE] if IMAGE in example else example[VIDEO][0], experiment.system.size)
        controls = experiment.system.controls
        values = sweeps(controls, {name: each.from_example(name, example) for name, each in controls.items()})
        clips = run.generate_grid(photo, example[CAPTION], values, index)
        path = directory / "samples" / f"step_{step:06d}_{index}.mp4"
        path.parent.mkdir(exist_ok=True)
        panels = {describe(controls, each): clip for each, clip in zip(values, clips, strict=True)}
        write_mp4(path, grid(photo, panels, title=example[CAPTION]), experiment.data.fps)
