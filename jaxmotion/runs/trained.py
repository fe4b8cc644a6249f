"""A run: an experiment in a folder. Prepares, trains and continues it, and opens it again to animate photos.

The folder holds `config.json` (the resolved experiment), `calibration.json` (what was measured on the training clips
before the first step, such as the edges between motion levels), `checkpoints/`, `metrics.jsonl`, TensorBoard files,
`samples/` and `bad_clips.jsonl`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxmotion.data.tokenize import Tokenizer
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE, TEXT
from jaxmotion.foundation.types import Params
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.calibration import calibrate, read_calibration
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.initial import read_parts
from jaxmotion.sampling.generate import Decode, Generator, generate
from jaxmotion.sampling.grid import write_clips
from jaxmotion.sampling.request import Request
from jaxmotion.systems.control import ControlValues, combinations, control_entries
from jaxmotion.systems.system import System
from jaxmotion.training import restore
from jaxmotion.training.resume import CONFIG
from jaxmotion.training.state import cast
from jaxmotion.video.encode import writer_of
from jaxmotion.video.images import load_photo
from jaxmotion.weights.preview_decoder import TinyDecoder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened to animate photos with it."""

    directory: Path
    experiment: Experiment
    model: Generator
    params: Params
    step: int = 0
    """Steps that the parameters were trained for."""
    decode: Decode | None = None
    """What makes pixels of latents; None: the model."""

    def generate(
        self,
        images: UInt8[np.ndarray, "N H W 3"],
        prompts: Sequence[str],
        values: Sequence[ControlValues],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
        same_noise: bool = False,
    ) -> UInt8[np.ndarray, "N T H W 3"]:
        """One clip for each picture, prompt and setting of the dials; what is not asked for is at its default.

        Clip n starts from noise of (seed, n), or all from the same noise, so that only what was asked for differs.
        """
        sampling = sampling or self.experiment.sampling
        self.experiment.system.check_guidance(sampling)
        for prompt in dict.fromkeys(prompts):
            _warn_of_cut_prompt(self.experiment.tokenizer, prompt)
        key = jax.random.key(seed)
        keys = jnp.stack([key] * len(images)) if same_noise else jax.random.split(key, len(images))
        batch = {
            IMAGE: np.asarray(images),
            TEXT: self.experiment.tokenizer(list(prompts)),
            **self.control_entries(values),
        }
        return generate(self.model, self.params, batch, keys, sampling, decode=self.decode)

    def control_entries(self, values: Sequence[ControlValues]) -> dict[str, np.ndarray]:
        """Returns control values as entries of a batch.

        Raises:
            ValueError: there is no such control, or a value is none of it.
        """
        return control_entries(self.experiment.system.controls, values)

    def with_preview_decoder(self, weights: Path) -> TrainedRun:
        """Returns this run with clips decoded by the tiny decoder in a file; see `convert.preview`."""
        return dataclasses.replace(self, decode=TinyDecoder(weights).decode)

    def resized(self, frames: int | None = None, size: tuple[int, int] | None = None) -> TrainedRun:
        """Returns this run for clips of another length or size.

        Raises:
            ValueError: the system cannot make such clips with the parameters it has.
        """
        own = self.experiment.system
        system = own.resized(frames or own.frames, size or own.size)
        if system is own:
            return self
        data = self.experiment.data.with_shape(system.frames, system.size)
        experiment = dataclasses.replace(self.experiment, system=system, data=data)
        return dataclasses.replace(self, experiment=experiment, model=_build_generator(system, self.directory))

    def generate_grid(
        self,
        picture: UInt8[np.ndarray, "H W 3"],
        prompt: str,
        values: Sequence[ControlValues],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
    ) -> UInt8[np.ndarray, "L T H W 3"]:
        """One clip for each setting of the dials; nothing else differs between them."""
        count = len(values)
        pictures = np.stack([picture] * count)
        return self.generate(pictures, [prompt] * count, values, seed, sampling=sampling, same_noise=True)

    def animate(self, request: Request, out: Path) -> list[Path]:
        """Writes the requested clip, or a labelled grid of several control values, and returns the files."""
        writer_of(out)
        sampling = request.resolve_sampling(self.experiment.sampling)
        self.experiment.system.check_guidance(sampling)
        self = self.resized(request.frames, request.size)
        self = self.with_preview_decoder(Path(request.preview)) if request.preview else self
        photo = load_photo(request.image, self.experiment.system.size)
        controls = self.experiment.system.controls
        values = combinations(controls, request.controls)
        clips = self.generate_grid(photo, request.prompt, values, request.seed, sampling=sampling)
        fps = request.fps or self.experiment.data.fps
        out.parent.mkdir(parents=True, exist_ok=True)
        return write_clips(out, photo, list(clips), values, controls, fps, prompt=request.prompt)


def open_run(
    directory: Path, weights: Literal["ema", "raw"] = "ema", *, precision: Literal["train", "saved"] = "train"
) -> TrainedRun:
    """The newest checkpoint of a run.

    Args:
        precision: `train` has all parameters in the type that the run computes in, `saved` as they were saved.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run has no complete checkpoint yet, was made by another version, or was trained without a part
            whose source is gone.
    """
    experiment, measured = read_config(directory), read_calibration(directory)
    if measured is not None:
        experiment = dataclasses.replace(experiment, system=calibrate(experiment.system, measured, directory))
    model = _build_generator(experiment.system, directory)
    params, step = restore.restore_with_step(directory, weights=weights)
    missing = experiment.system.idle_parts(experiment.system.precomputable()) - params.keys()
    if missing:
        params = {**params, **read_parts(experiment, experiment.system.build(), missing)}
    if precision == "train":
        params = cast(params, experiment.train.precision)
    return TrainedRun(directory, experiment, model, params, step)


@functools.lru_cache(maxsize=256)  # each prompt is told of once, however many clips are made of it
def _warn_of_cut_prompt(tokenizer: Tokenizer, prompt: str) -> None:
    if lost := tokenizer.cut_off(prompt):
        log.warning(
            "The prompt is longer than the %d tokens that the text encoder reads; left out is its end: %s",
            tokenizer.length,
            lost,
        )


def _build_generator(system: System, directory: Path) -> Generator:
    model = system.build()
    if not isinstance(model, Generator):
        raise ValueError(f"{directory} holds a run of {type(system).__name__}, which makes no clips.")
    return model


def read_config(directory: Path) -> Experiment:
    """Returns the experiment that a run was trained with, without what was measured of its clips.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    config = directory / CONFIG
    if not config.is_file():
        raise FileNotFoundError(
            f"{directory} holds no run ({CONFIG} is missing); train one with jaxmotion.train --run."
        )
    return experiments.read(config)
