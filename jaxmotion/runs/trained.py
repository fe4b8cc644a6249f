"""A run: an experiment in a folder. Prepares, trains and continues it, and opens it again to animate photos.

The folder holds `config.json` (the resolved experiment), `calibration.json` (what was measured on the training clips
before the first step, such as the edges between motion levels), `checkpoints/`, `metrics.jsonl`, TensorBoard files,
`samples/` and `bad_clips.jsonl`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from rich.console import Console
from tqdm import tqdm

from jaxmotion.data.buckets import Buckets, parts_of
from jaxmotion.data.loader import batches
from jaxmotion.data.precompute import encode as encoding
from jaxmotion.data.precompute import shards
from jaxmotion.data.precomputed import ENCODERS, WEIGHTS
from jaxmotion.data.synthetic_clips import Synthetic
from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer, T5Tokenizer, spiece
from jaxmotion.evaluation import dials
from jaxmotion.evaluation.control import CONTROL, measure_control, summary, write
from jaxmotion.evaluation.measures import MEASURES
from jaxmotion.evaluation.plot import plot_control
from jaxmotion.evaluation.report import Row, write_report
from jaxmotion.foundation.types import FPS, IMAGE, INTENSITY, LEVEL, TEXT, VIDEO, Params, Settings, file_part, spoken
from jaxmotion.meter.meter import Estimator, shipped
from jaxmotion.meter.meter import save as save_meter
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.parallel.sharding import of_first_process, process_share
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.compatibility import check_known, check_prepared
from jaxmotion.runs.experiment import Experiment
from jaxmotion.sampling.generate import Decode, Sampler, generate
from jaxmotion.sampling.grid import grid, write_clip, write_mp4, write_settings, writer_of
from jaxmotion.sampling.request import Request, fit, load_photo
from jaxmotion.systems import pretrained as start
from jaxmotion.systems.livephoto.export import export_diffusers, export_motion_adapter
from jaxmotion.systems.livephoto.export_comfy import export_comfy
from jaxmotion.systems.lora import LORA, LoRA
from jaxmotion.systems.motion_estimator.motion_estimator import MotionEstimator
from jaxmotion.systems.motionstone.export import export_motionstone
from jaxmotion.systems.motionstone.intensity import METER
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.systems.system import Dial, Sampling, Task
from jaxmotion.training import checkpoint, loop
from jaxmotion.training.log import write_whole
from jaxmotion.training.memory import estimate
from jaxmotion.training.resume import CONFIG, check_continues
from jaxmotion.training.state import cast
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.photos import HELD_OUT, SUFFIXES, WHEEL, read_photos
from jaxmotion.video.tracked_speed import followed_speeds
from jaxmotion.weights import native_files as imported
from jaxmotion.weights.hub import files_of
from jaxmotion.weights.lora import export_lora
from jaxmotion.weights.preview_decoder import TinyDecoder
from jaxmotion.weights.tokenizers import CLIP_FILES, ClipTokens, HashTokens, T5Tokens, Tokens

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
    fresh = checkpoint.latest_step(directory) is None
    source = experiment.data.open(directory / BAD_CLIPS)
    check_known(experiment, source)
    weights = starting_weights(experiment, experiment.system.build()) if fresh else {}
    check_prepared(experiment, source, weights, directory, fresh=fresh)
    if isinstance(source, Buckets):
        for shape in source.shapes:
            experiment.system.at(shape.frames, shape.size)
        if jax.process_index() == 0:
            tqdm.write(f"{source}. The training step is compiled once for each.", file=sys.stderr)
    calibrated = _calibrated(experiment, mesh, source, directory)
    task = calibrated.system.build()
    preview = None
    if isinstance(task, Sampler):
        preview = functools.partial(_write_preview, calibrated, task, source, directory)
    loader = _loader(experiment, mesh, source)
    return loop.run(task, experiment.train, mesh, loader, directory, meta=meta, on_sample=preview, start=weights)


def starting_weights(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Array-likes by path for the parameters that do not start from random values; each is read when it is asked for.

    Raises:
        ValueError: a source is missing, damaged, or does not fit the system.
    """
    sources = experiment.start_from
    like = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    found: dict[str, Any] = {}
    if sources.run:
        saved = sharding.paths(checkpoint.restore_params(Path(sources.run), weights=sources.run_weights))
        found = {path: array for path, array in saved.items() if path in like}
        wrong = [path for path, array in found.items() if tuple(array.shape) != tuple(like[path].shape)]
        if wrong or not found:
            what = f"other shapes of {', '.join(wrong[:5])}" if wrong else "none of the parameters"
            raise ValueError(f"start_from.run is {sources.run}, which has {what} of this system.")
    found = {**_meter_weights(like), **found}
    return start.load(sources, experiment.system, like, found)


def _meter_weights(like: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the motion meter in the package, for a system that scores its clips with it.

    Raises:
        ValueError: the system has an estimator of another size.
    """
    mine = {path: array for path, array in like.items() if path.startswith(f"{METER}/")}
    if not mine:
        return {}
    weights = {f"{METER}/{path}": array for path, array in sharding.paths(shipped().params).items()}
    if {path: array.shape for path, array in mine.items()} != {path: array.shape for path, array in weights.items()}:
        raise ValueError("The system's estimator is not of the size of the motion meter in the package; give its run.")
    return weights


def describe(experiment: Experiment) -> None:
    """Prints the resolved config, the table of parameters and the memory a run would need; allocates nothing large."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the tables need that much, and files and pipes have no width
    console.print_json(data=experiments.to_json(experiment))
    task = experiment.system.build()
    like = sharding.paths(jax.eval_shape(task.init, jax.random.key(0)))
    for field, source in start.check(experiment.start_from, like).items():
        console.print(f"start_from.{field} is {source}", highlight=False, soft_wrap=True)
    for table in estimate(task, experiment.train, make_mesh(experiment.mesh)).tables():
        console.print(table)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened to animate photos with it."""

    directory: Path
    experiment: Experiment
    model: Sampler
    params: Params
    decode: Decode | None = None
    """What makes pixels of latents; None: the model."""

    def generate(
        self,
        images: UInt8[np.ndarray, "N H W 3"],
        prompts: Sequence[str],
        asked: Sequence[Mapping[str, float]],
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

    def entries(self, asked: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        """What is asked for as entries of a batch.

        Raises:
            ValueError: there is no such dial.
        """
        dials = self.experiment.system.dials
        unknown = sorted({name for settings in asked for name in settings} - set(dials))
        if unknown:
            raise ValueError(f"This system has no dial {', '.join(unknown)}; it has {', '.join(dials) or 'none'}.")
        return {
            name: dial.entry([settings.get(name, dial.default) for settings in asked]) for name, dial in dials.items()
        }

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
        data = dataclasses.replace(self.experiment.data, frames=system.frames, size=system.size)
        model = system.build()
        assert isinstance(model, Sampler)  # as that of the run's own size
        experiment = dataclasses.replace(self.experiment, system=system, data=data)
        return dataclasses.replace(self, experiment=experiment, model=model)

    def at_settings(
        self,
        picture: UInt8[np.ndarray, "H W 3"],
        prompt: str,
        asked: Sequence[Mapping[str, float]],
        seed: int = 0,
        *,
        sampling: Sampling | None = None,
    ) -> UInt8[np.ndarray, "L T H W 3"]:
        """One clip for each setting of the dials; nothing else differs between them."""
        count = len(asked)
        pictures = np.stack([picture] * count)
        return self.generate(pictures, [prompt] * count, asked, seed, sampling=sampling, same_noise=True)

    def animate(self, request: Request, out: Path) -> list[Path]:
        """Writes the clip that was asked for, or a labelled grid of several settings, and returns the files."""
        writer_of(out)
        self = self.at(request.frames, request.size)
        self = self.previewed(Path(request.preview)) if request.preview else self
        photo = load_photo(request.image, self.experiment.system.size)
        sampling = request.sampling(self.experiment.sampling)
        asked = _settings(self.experiment.system.dials, request)
        clips = self.at_settings(photo, request.prompt, [dict(each) for each in asked], request.seed, sampling=sampling)
        by_settings = dict(zip(asked, clips, strict=True))
        fps = request.fps or self.experiment.data.fps
        out.parent.mkdir(parents=True, exist_ok=True)
        return write_settings(out, photo, by_settings, fps, request.prompt)

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
            whole = [photo.levels[0] for photo in read_photos(WHEEL, HELD_OUT, "held_out", 1024).photos]
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
        if not isinstance(data, Synthetic):
            raise ValueError("This run was not trained on synthetic clips; give a folder of pictures (--images DIR).")
        source = dataclasses.replace(data, split="held_out", truth=("masks",)).open()
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
        known = self.experiment.system.dials
        by_axis = {axis: axis if axis in known else INTENSITY for axis in dials.AXES}
        if not set(by_axis.values()) <= set(known):
            raise ValueError(f"This system has no dials for objects and camera; it has {', '.join(known) or 'none'}.")
        fps = self.experiment.data.fps

        def make(scene: dials.Scene, asked: Sequence[Mapping[str, float]], seed: int) -> Any:
            return self.at_settings(scene.picture, scene.prompt, asked, seed)

        turned = dials.measure_dials(
            make,
            self.scenes(images, count),
            by_axis,
            lambda video, mask: followed_speeds(video, mask, fps),
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
        rows, fps, asked = [], self.experiment.data.fps, _previewed(self.experiment.system.dials)
        if images is None and LEVEL not in self.experiment.system.dials and isinstance(self.experiment.data, Synthetic):
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


def ablate(
    experiments_by_name: Mapping[str, Experiment],
    directory: Path,
    *,
    values: Sequence[float] = tuple(range(1, 11)),
    seeds: Sequence[int] = (0, 1),
    count: int = 6,
) -> dict[str, Any]:
    """Trains experiments side by side and turns their dials; what is done already is kept. Returns the numbers by name.

    Each has a run folder of its name; `ablations.json` in the folder above holds the numbers of all.

    Raises:
        ValueError: there is no experiment, or a folder holds a run of another one.
    """
    if not experiments_by_name:
        raise ValueError("There is nothing to compare: the config file has no experiments.")
    found = {}
    for name, experiment in experiments_by_name.items():
        folder = directory / name
        result = train(experiment, folder)
        if result.stopped:
            raise ValueError(f"The training of {name} was stopped at step {result.step}; the same command goes on.")
        done = folder / CONTROL
        numbers = json.loads(done.read_text()) if done.is_file() else {}
        said = experiments.to_json(experiment)
        asked = {"values": list(values), "seeds": list(seeds), "step": result.step}
        asked |= {"sampling": said["sampling"], "data": said["data"]}
        if {key: numbers.get(key) for key in asked} != asked or len(numbers["scenes"]) != count:
            opened = open_run(folder)
            numbers = {**opened.turn_dials(values=values, seeds=seeds, count=count), **asked}
            dials.write(numbers, folder)
        found[name] = numbers
    write_whole(directory / "ablations.json", json.dumps(found, indent=2) + "\n")
    return found


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
    experiment, calibration = _read_config(directory), directory / CALIBRATION
    if calibration.is_file():
        measured = json.loads(calibration.read_text())
        experiment = dataclasses.replace(experiment, system=experiment.system.calibrated(measured))
    model = experiment.system.build()
    if not isinstance(model, Sampler):
        raise ValueError(f"{directory} holds a run of {type(experiment.system).__name__}, which makes no clips.")
    params = checkpoint.restore_params(directory, weights=weights)
    if precision == "train":
        params = cast(params, experiment.train.precision)
    return TrainedRun(directory, experiment, model, params)


def open_meter(directory: Path, weights: Literal["ema", "live"] = "ema") -> Estimator:
    """The newest checkpoint of a run of a motion estimator, as a meter.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it is a run of something else, or has no complete checkpoint yet.
    """
    system = _read_config(directory).system
    if not isinstance(system, MotionEstimator):
        raise ValueError(f"{directory} holds a run of {type(system).__name__}; a meter is a run of MotionEstimator.")
    step = checkpoint.latest_step(directory)
    params = checkpoint.restore_params(directory, weights=weights)
    return Estimator(system.build(), params, f"{directory.name}-{step}")


def ship_meter(directory: Path, path: Path) -> None:
    """Writes the averaged weights of a run of a motion estimator as the package keeps its own."""
    meter = open_meter(directory)
    save_meter(meter.task.config, meter.params, path, {"run": meter.name})


Kind = Literal["diffusers", "diffusers-baked", "motion-adapter", "comfy", "safetensors", "lora-peft", "lora-kohya"]


def export(
    directory: Path,
    kind: Kind,
    destination: Path,
    weights: Literal["ema", "live"] = "ema",
    *,
    verify: bool = True,
    asked: Mapping[str, float] | None = None,
) -> list[Path]:
    """Writes the weights of a run for others, and returns the files.

    Args:
        asked: the scores that `diffusers-baked` bakes in; what is not named is at its default.
        kind: `diffusers` (the folder of a pipeline), `diffusers-baked` (that of a stock pipeline with one setting of
            MotionStone's scores in its weights), `motion-adapter` (that of a MotionAdapter), `comfy` (motion
            modules in the names of AnimateDiff), `safetensors` (everything under our paths), or the factors of a LoRA.
            Of a run of LoRA the others have the factors merged in.
        verify: compare what PyTorch makes of it with what we do, where it is installed.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: the run has no form of this kind.
    """
    opened = open_run(directory, weights, precision="saved")
    system, params = opened.experiment.system, opened.params
    meta = experiments.to_json(opened.experiment)
    match kind, system:
        case "lora-peft" | "lora-kohya", LoRA():
            layout = "peft" if kind == "lora-peft" else "kohya"
            return export_lora(params[LORA], system.rank, system.alpha, layout, destination)
        case "lora-peft" | "lora-kohya", _:
            raise ValueError(
                f"{directory} is no run of LoRA, so there are no factors to write; export it as diffusers."
            )
        case _, LoRA():
            system, params = system.of, system.build().merged(params)
    if isinstance(system, MotionStone) and kind in ("diffusers", "diffusers-baked"):
        settings = {**{name: dial.default for name, dial in system.dials.items()}, **(asked or {})}
        baked = settings if kind == "diffusers-baked" else None
        tokens = _exported_tokenizer(opened.experiment.tokenizer)
        presets = [dict(each) for each in _previewed(system.dials)]
        return export_motionstone(
            system,
            params,
            opened.experiment.sampling,
            tokens,
            destination,
            meta=meta,
            baked=baked,
            presets=presets,
            fps=opened.experiment.data.fps,
            verify=verify,
        )
    if kind == "diffusers-baked":
        raise ValueError(f"{directory} is no run of MotionStone; there are no scores to bake in.")
    if kind == "diffusers":
        tokens = _exported_tokenizer(opened.experiment.tokenizer)
        return export_diffusers(
            system, params, opened.experiment.sampling, tokens, destination, meta=meta, verify=verify
        )
    if kind == "motion-adapter":
        return export_motion_adapter(system, params, destination, meta=meta)
    if kind == "comfy":
        return export_comfy(system, sharding.paths(params), destination, meta=meta)
    return imported.export_parameters(sharding.paths(params), destination, meta=meta)


def _read_config(directory: Path) -> Experiment:
    config = directory / CONFIG
    if not config.is_file():
        raise FileNotFoundError(
            f"{directory} holds no run ({CONFIG} is missing); train one with jaxmotion.train --run."
        )
    return experiments.read(config)


def _settings(dials: Mapping[str, Dial], request: Request) -> list[Settings]:
    """Every combination of what is asked for, in the order of the dials.

    Raises:
        ValueError: a score is asked for that the system does not have.
    """
    scores = dict(request.scores)
    if request.levels and LEVEL not in dials:
        raise ValueError(f"This system has no motion level; it has {', '.join(dials) or 'no dials'}.")
    if set(scores) - set(dials):
        unknown = ", ".join(sorted(set(scores) - set(dials)))
        raise ValueError(f"This system has no dial {unknown}; it has {', '.join(dials) or 'none'}.")
    values = {
        name: (name == LEVEL and request.levels) or scores.get(name, (dial.default,)) for name, dial in dials.items()
    }
    return [tuple(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def _previewed(dials: Mapping[str, Dial]) -> list[Settings]:
    """Every dial at three values, the others at their default."""
    found = [
        tuple((name, value if name == turned else dial.default) for name, dial in dials.items())
        for turned in dials
        for value in PREVIEW_LEVELS
    ]
    return list(dict.fromkeys(found)) or [()]


def _exported_tokenizer(tokenizer: ClipTokenizer | T5Tokenizer | HashTokenizer) -> Tokens:
    if isinstance(tokenizer, HashTokenizer):
        return HashTokens(tokenizer.vocabulary, tokenizer.length)
    if isinstance(tokenizer, T5Tokenizer):
        return T5Tokens(spiece(tokenizer.source), tokenizer.length)
    return ClipTokens(files_of(tokenizer.source, CLIP_FILES), tokenizer.length)


def _closer(picture: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """A part of a picture, 0.65 of the one before in height and width, to the left and to the right in turn."""
    for turn in range(times):
        height, width = (round(0.65 * side) for side in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) * (turn % 2)
        picture = picture[top : top + height, left : left + width]
    return picture


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
        entries=getattr(source, "entries", (VIDEO, FPS)),
        also=[name for name in experiment.system.labels if name in source.labels],
    )


def prepare(
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
    params, digest = encoder.placed(weights, mesh)
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


def _calibrated(experiment: Experiment, mesh: Mesh, source: Any, directory: Path) -> Experiment:
    """The experiment with what its system measures on the training clips; measured once for a run."""
    path = directory / CALIBRATION
    before = Path(experiment.start_from.run) / CALIBRATION
    measured = json.loads(path.read_text()) if path.exists() else None
    if measured is None and experiment.start_from.run and before.is_file():
        measured = json.loads(before.read_text())  # a level goes on to mean what it meant
    measured = of_first_process(measured)
    if measured is None:
        clips = (
            batch[VIDEO] for batch in tqdm(_loader(experiment, mesh, source), desc="measuring the clips", unit="batch")
        )
        measured = of_first_process(experiment.system.calibrate(clips))
    if jax.process_index() == 0 and not path.exists():
        write_whole(path, json.dumps(measured, indent=2) + "\n")
    return dataclasses.replace(experiment, system=experiment.system.calibrated(measured))


def _write_preview(
    experiment: Experiment, model: Sampler, source: Any, directory: Path, params: Params, step: int
) -> None:
    """Writes the first clips of the data, animated at three levels, to samples/step_NNNNNN_N.mp4."""
    run = TrainedRun(directory, experiment, model, cast(params, experiment.train.precision))
    for index in range(min(PREVIEWS, len(source))):
        example = source.example(index)
        photo = fit(example[IMAGE] if IMAGE in example else example[VIDEO][0], experiment.system.size)
        settings = _previewed(experiment.system.dials)
        clips = run.at_settings(photo, example[CAPTION], [dict(each) for each in settings], index)
        path = directory / "samples" / f"step_{step:06d}_{index}.mp4"
        path.parent.mkdir(exist_ok=True)
        panels = {spoken(each): clip for each, clip in zip(settings, clips, strict=True)}
        write_mp4(path, grid(photo, panels, title=example[CAPTION]), experiment.data.fps)
