"""A run: an experiment in a folder. Prepares, trains and continues it, and opens it again to animate photos.

The folder holds `config.json` (the resolved experiment), `calibration.json` (what was measured on the training clips
before the first step, such as the edges between motion levels), `checkpoints/`, `metrics.jsonl`, TensorBoard files,
`samples/` and `bad_clips.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.evaluation import dials
from jaxmotion.evaluation.control import measure_control, summary, write
from jaxmotion.evaluation.measures import MEASURES
from jaxmotion.evaluation.plot import plot_control
from jaxmotion.evaluation.report import Row, write_report
from jaxmotion.foundation.entries import IMAGE, INTENSITY, LEVEL, TEXT, VIDEO
from jaxmotion.foundation.types import Params, Settings, file_part
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.start_from import CALIBRATION
from jaxmotion.sampling.generate import Decode, Generator, generate
from jaxmotion.sampling.grid import write_clips
from jaxmotion.sampling.request import Request
from jaxmotion.systems.control import Controls, ControlValues, combinations, control_entries, sweeps
from jaxmotion.training import checkpoint
from jaxmotion.training.resume import CONFIG
from jaxmotion.training.state import cast
from jaxmotion.video.encode import write_clip, writer_of
from jaxmotion.video.images import fit, load_photo
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.photos import HELD_OUT, SKIMAGE_PHOTOS, SUFFIXES, read_photos
from jaxmotion.video.tracked_speed import tracked_speeds
from jaxmotion.weights.preview_decoder import TinyDecoder


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened to animate photos with it."""

    directory: Path
    experiment: Experiment
    model: Generator
    params: Params
    decode: Decode | None = None
    """What makes pixels of latents; None: the model."""

    def generate(
        self,
        images: UInt8[np.ndarray, "N H W 3"],
        prompts: Sequence[str],
        asked: Sequence[ControlValues],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
        same_noise: bool = False,
    ) -> UInt8[np.ndarray, "N T H W 3"]:
        """One clip for each picture, prompt and setting of the dials; what is not asked for is at its default.

        Clip n starts from noise of (seed, n), or all from the same noise, so that only what was asked for differs.
        """
        key = jax.random.key(seed)
        keys = jnp.stack([key] * len(images)) if same_noise else jax.random.split(key, len(images))
        batch = {
            IMAGE: np.asarray(images),
            TEXT: self.experiment.tokenizer(list(prompts)),
            **self.entries(asked),
        }
        sampling = sampling or self.experiment.sampling
        return generate(self.model, self.params, batch, keys, sampling, decode=self.decode)

    def entries(self, asked: Sequence[ControlValues]) -> dict[str, np.ndarray]:
        """What is asked for as entries of a batch.

        Raises:
            ValueError: there is no such control, or a value is none of it.
        """
        return control_entries(self.experiment.system.controls, asked)

    def previewed(self, weights: Path) -> TrainedRun:
        """This run, with clips decoded by the tiny decoder in a file; see `convert.preview`."""
        return dataclasses.replace(self, decode=TinyDecoder(weights).decode)

    def at(self, frames: int | None = None, size: tuple[int, int] | None = None) -> TrainedRun:
        """This run, to make clips of another length or size with.

        Raises:
            ValueError: the system cannot make such clips with the parameters it has.
        """
        own = self.experiment.system
        system = own.at(frames or own.frames, size or own.size)
        if system is own:
            return self
        data = self.experiment.data.with_shape(system.frames, system.size)
        model = system.build()
        assert isinstance(model, Generator)  # as that of the run's own size
        experiment = dataclasses.replace(self.experiment, system=system, data=data)
        return dataclasses.replace(self, experiment=experiment, model=model)

    def at_settings(
        self,
        picture: UInt8[np.ndarray, "H W 3"],
        prompt: str,
        asked: Sequence[ControlValues],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
    ) -> UInt8[np.ndarray, "L T H W 3"]:
        """One clip for each setting of the dials; nothing else differs between them."""
        count = len(asked)
        pictures = np.stack([picture] * count)
        return self.generate(pictures, [prompt] * count, asked, seed, sampling=sampling, same_noise=True)

    def animate(self, request: Request, out: Path) -> list[Path]:
        """Writes the requested clip, or a labelled grid of several control values, and returns the files."""
        writer_of(out)
        self = self.at(request.frames, request.size)
        self = self.previewed(Path(request.preview)) if request.preview else self
        photo = load_photo(request.image, self.experiment.system.size)
        sampling = request.resolve_sampling(self.experiment.sampling)
        controls = self.experiment.system.controls
        values = combinations(controls, request.controls)
        clips = self.at_settings(photo, request.prompt, values, request.seed, sampling=sampling)
        fps = request.fps or self.experiment.data.fps
        out.parent.mkdir(parents=True, exist_ok=True)
        return write_clips(out, photo, clips, values, controls, fps, prompt=request.prompt)

    def photos(self, images: Path | None = None, count: int = 6) -> dict[str, tuple[UInt8[np.ndarray, "H W 3"], str]]:
        """(picture, prompt) by name, for the control curve: pictures of a folder, or photos training never saw.

        Without a folder these are the held-out photos of scikit-image's wheel, of which no synthetic training clip is
        made: each whole and in closer views, until there are `count`. Prompts are the experiment's, in turn.

        Raises:
            ValueError: no picture is in the folder.
        """
        if images is not None:
            if not images.is_dir():
                raise FileNotFoundError(f"There is no folder {images}; give a folder of pictures.")
            files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
            if not files:
                raise ValueError(f"{images} holds no picture; looked for {', '.join(SUFFIXES)}.")
            found = {path.stem: load_photo(path, self.experiment.system.size) for path in files}
        else:
            whole = [photo.levels[0] for photo in read_photos(SKIMAGE_PHOTOS, HELD_OUT, "held_out", 1024).photos]
            found = {}
            for index in range(count):
                name, picture = HELD_OUT[index % len(HELD_OUT)], whole[index % len(HELD_OUT)]
                found[f"{name} {index // len(HELD_OUT) + 1}"] = fit(
                    _closer(picture, index // len(HELD_OUT)), self.experiment.system.size
                )
        prompts = self.experiment.prompts
        return {name: (picture, prompts[i % len(prompts)]) for i, (name, picture) in enumerate(found.items())}

    def control(
        self,
        images: Path | None = None,
        *,
        levels: Sequence[int] = tuple(range(1, 11)),
        seeds: Sequence[int] = (0, 1),
        count: int = 6,
    ) -> dict[str, Any]:
        """Measures whether clips move as much as asked; writes control.json and its plot, and returns the numbers."""
        photos = self.photos(images, count)

        def make(pictures: Any, prompts: list[str], asked: Sequence[int], seed: int) -> Any:
            return self.generate(pictures, prompts, [{LEVEL: level} for level in asked], seed, same_noise=True)

        fps = self.experiment.data.fps
        numbers = summary(measure_control(make, photos, levels=levels, seeds=seeds, fps=fps))
        write(numbers, self.directory)
        plot_control(numbers, self.directory)
        return numbers

    def scenes(self, images: Path | None = None, count: int = 6) -> list[dials.Scene]:
        """Pictures with the place of their object: held-out synthetic ones; of a folder, without the place.

        Raises:
            ValueError: the run was not trained on synthetic clips, and no folder is given.
        """
        if images is not None:
            found = self.photos(images).items()
            return [dials.Scene(name, picture, prompt) for name, (picture, prompt) in found]
        data = self.experiment.data
        if not isinstance(data, SyntheticClips):
            raise ValueError("This run was not trained on synthetic clips; give a folder of pictures (--images DIR).")
        source = dataclasses.replace(data, split="held_out", ground_truth=("masks",)).open()
        examples = [source.example(index) for index in range(count)]
        return [dials.Scene(each["id"], each[VIDEO][0], each[CAPTION], each["masks"].any(0)[0]) for each in examples]

    def turn_dials(
        self,
        images: Path | None = None,
        *,
        values: Sequence[float] = tuple(range(1, 11)),
        seeds: Sequence[int] = (0, 1),
        count: int = 6,
    ) -> dict[str, Any]:
        """Measures object and camera motion while each dial is turned; writes control.json and its plot.

        Raises:
            ValueError: the system has no dials for objects and camera.
        """
        known = self.experiment.system.controls
        by_axis = {axis: axis if axis in known else INTENSITY for axis in dials.AXES}
        if not set(by_axis.values()) <= set(known):
            raise ValueError(f"This system has no control of objects and camera; it has {', '.join(known) or 'none'}.")
        fps = self.experiment.data.fps

        def make(scene: dials.Scene, asked: Sequence[ControlValues], seed: int) -> Any:
            return self.at_settings(scene.picture, scene.prompt, asked, seed)

        turned = dials.measure_dials(
            make,
            self.scenes(images, count),
            by_axis,
            lambda video, mask: tracked_speeds(video, mask, fps),
            values=values,
            seeds=seeds,
        )
        numbers = dials.summary(turned)
        dials.write(numbers, self.directory)
        dials.plot(numbers, self.directory)
        return numbers

    def report(self, images: Path | None = None, *, count: int = 6, seed: int = 0) -> Path:
        """Animates photos at three values of each dial; writes report.html: the clips, the control curve, the loss.

        Where objects have a dial of their own, and no folder is given, these are pictures like those of the training.
        """
        rows, fps, asked = [], self.experiment.data.fps, _previewed(self.experiment.system.controls)
        if (
            images is None
            and LEVEL not in self.experiment.system.controls
            and isinstance(self.experiment.data, SyntheticClips)
        ):
            photos = {scene.name: (scene.picture, scene.prompt) for scene in self.scenes(count=count)}
        else:
            photos = self.photos(images, count)
        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        for name, (picture, prompt) in photos.items():
            clips = self.at_settings(picture, prompt, [dict(settings) for settings in asked], seed)
            speeds = MEASURES["flow"](clips, fps)
            stem = re.sub(r"\W", "_", name)
            paths = {settings: folder / f"{stem}{file_part(settings, '_')}.mp4" for settings in asked}
            for path, clip in zip(paths.values(), clips, strict=True):
                write_clip(path, clip, fps)
            motion = {settings: float(speed) for settings, speed in zip(asked, speeds, strict=True)}
            rows.append(Row(picture, paths, prompt, name, motion))
        return write_report(self.directory, rows)


def open_run(
    directory: Path, weights: Literal["ema", "live"] = "ema", *, precision: Literal["train", "saved"] = "train"
) -> TrainedRun:
    """The newest checkpoint of a run.

    Args:
        precision: `train` has all parameters in the type that the run computes in, `saved` as they were saved.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run has no complete checkpoint yet, or was made by another version.
    """
    experiment, calibration = read_config(directory), directory / CALIBRATION
    if calibration.is_file():
        measured = json.loads(calibration.read_text())
        experiment = dataclasses.replace(experiment, system=experiment.system.calibrated(measured))
    model = experiment.system.build()
    if not isinstance(model, Generator):
        raise ValueError(f"{directory} holds a run of {type(experiment.system).__name__}, which makes no clips.")
    params = checkpoint.restore_params(directory, weights=weights)
    if precision == "train":
        params = cast(params, experiment.train.precision)
    return TrainedRun(directory, experiment, model, params)


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


def _previewed(controls: Controls) -> list[Settings]:
    """Every control at the values of its sweep, the others at their default."""
    return [_numbers(each) for each in sweeps(controls)]


def _numbers(values: ControlValues) -> Settings:
    return tuple((name, value) for name, value in values.items() if isinstance(value, int | float))


def _closer(picture: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """A part of a picture, 0.65 of the one before in height and width, to the left and to the right in turn."""
    for turn in range(times):
        height, width = (round(0.65 * side) for side in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) * (turn % 2)
        picture = picture[top : top + height, left : left + width]
    return picture
