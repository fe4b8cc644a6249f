"""A run: an experiment in a folder. Prepares, trains and continues it, and opens it again to animate photos.

The folder holds `config.json` (the resolved experiment), `calibration.json` (what was measured on the training clips
before the first step, such as the edges between motion levels), `checkpoints/`, `metrics.jsonl`, TensorBoard files,
`samples/` and `bad_clips.jsonl`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from rich.console import Console
from tqdm import tqdm

from jaxmotion import experiment as experiments
from jaxmotion.data.loader import batches
from jaxmotion.data.synthetic import CAPTION
from jaxmotion.experiment import Experiment
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import process_share
from jaxmotion.sample.generate import generate
from jaxmotion.sample.request import Request, load_photo
from jaxmotion.sample.write import grid, write_levels, write_mp4, writer_of
from jaxmotion.systems.system import Sampling, VideoDiffusion
from jaxmotion.train import checkpoint, loop
from jaxmotion.train.estimate import estimate
from jaxmotion.train.log import write_whole
from jaxmotion.train.resume import CONFIG, check_continues
from jaxmotion.types import IMAGE, LEVEL, TEXT, VIDEO, Params

CALIBRATION, BAD_CLIPS = "calibration.json", "bad_clips.jsonl"
PREVIEWS, PREVIEW_LEVELS = 3, (1, 5, 10)


def train(experiment: Experiment, directory: Path) -> loop.Result:
    """Trains an experiment in a folder, or continues what is there.

    Raises:
        ValueError: the folder holds a run with another config that this one cannot continue.
    """
    meta = experiments.to_json(experiment)
    check_continues(directory, meta)
    directory.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(experiment.mesh)
    source = experiment.data.open(directory / BAD_CLIPS)
    calibrated = _calibrated(experiment, mesh, source, directory)
    task = calibrated.system.build()
    preview = functools.partial(_write_preview, calibrated, task, source, directory)
    loader = _loader(experiment, mesh, source)
    return loop.run(task, experiment.train, mesh, loader, directory, meta=meta, on_sample=preview)


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    console.print_json(data=experiments.to_json(experiment))
    task = experiment.system.build()
    for table in estimate(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened to animate photos with it."""

    directory: Path
    experiment: Experiment
    model: VideoDiffusion
    params: Params

    def generate(
        self,
        images: UInt8[np.ndarray, "N H W 3"],
        prompts: Sequence[str],
        levels: Sequence[int],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
        same_noise: bool = False,
    ) -> UInt8[np.ndarray, "N T H W 3"]:
        """One clip for each picture, prompt and level.

        Clip n starts from noise of (seed, n), or all from the same noise, so that only what was asked for differs.
        """
        key = jax.random.key(seed)
        keys = jnp.stack([key] * len(images)) if same_noise else jax.random.split(key, len(images))
        batch = {
            IMAGE: np.asarray(images),
            TEXT: self.experiment.tokenizer(list(prompts)),
            LEVEL: np.asarray(levels, np.int32),
        }
        return generate(self.model, self.params, batch, keys, sampling or self.experiment.sampling)

    def animate(self, request: Request, out: Path) -> list[Path]:
        """Writes the clip that was asked for, or a labelled grid of several levels, and returns the files."""
        writer_of(out)
        photo = load_photo(request.image, self.experiment.system.size)
        count, sampling = len(request.levels), request.sampling(self.experiment.sampling)
        clips = self.generate(
            np.stack([photo] * count),
            [request.prompt] * count,
            request.levels,
            request.seed,
            sampling=sampling,
            same_noise=True,
        )
        by_level = dict(zip(request.levels, clips, strict=True))
        fps = request.fps or self.experiment.data.fps
        out.parent.mkdir(parents=True, exist_ok=True)
        return write_levels(out, photo, by_level, fps, prompt=request.prompt)


def open_run(directory: Path, weights: Literal["ema", "live"] = "ema") -> TrainedRun:
    """The newest checkpoint of a run.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run has no complete checkpoint yet, or was made by another version.
    """
    config, calibration = directory / CONFIG, directory / CALIBRATION
    if not config.is_file():
        raise FileNotFoundError(f"{directory} holds no run ({CONFIG} is missing); train one with jaxmotion.train --run.")
    experiment = experiments.read(config)
    if calibration.is_file():
        measured = json.loads(calibration.read_text())
        experiment = dataclasses.replace(experiment, system=experiment.system.calibrated(measured))
    params = checkpoint.restore_params(directory, weights=weights)
    return TrainedRun(directory, experiment, experiment.system.build(), params)


def _loader(experiment: Experiment, mesh: Mesh, source: Any) -> Any:
    """This process's rows of every training batch, for ever."""
    index, count = process_share(mesh)
    return batches(
        source,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        tokenize=experiment.tokenizer,
        workers=experiment.workers,
        process_index=index,
        process_count=count,
    )


def _calibrated(experiment: Experiment, mesh: Mesh, source: Any, directory: Path) -> Experiment:
    """The experiment with what its system measures on the training clips; measured once for a run."""
    path = directory / CALIBRATION
    if not path.exists():
        clips = (batch[VIDEO] for batch in tqdm(_loader(experiment, mesh, source), desc="measuring the clips", unit="batch"))
        measured = experiment.system.calibrate(clips)
        write_whole(path, json.dumps(measured, indent=2) + "\n")
    return dataclasses.replace(experiment, system=experiment.system.calibrated(json.loads(path.read_text())))


def _write_preview(
    experiment: Experiment, model: VideoDiffusion, source: Any, directory: Path, params: Params, step: int
) -> None:
    """Writes the first clips of the data, animated at three levels, to samples/step_NNNNNN_N.mp4."""
    run = TrainedRun(directory, experiment, model, params)
    for index in range(min(PREVIEWS, len(source))):
        example = source.example(index)
        photo, count = example[VIDEO][0], len(PREVIEW_LEVELS)
        clips = run.generate(
            np.stack([photo] * count), [example[CAPTION]] * count, PREVIEW_LEVELS, index, same_noise=True
        )
        path = directory / "samples" / f"step_{step:06d}_{index}.mp4"
        path.parent.mkdir(exist_ok=True)
        panels = {f"level {level}": clip for level, clip in zip(PREVIEW_LEVELS, clips, strict=True)}
        write_mp4(path, grid(photo, panels, title=example[CAPTION]), experiment.data.fps)
