"""Evaluations of a trained run, its report, and ablations side by side."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxmotion.data.source import Example
from jaxmotion.evaluation.evaluation import Numbers, Scene, numbers_path, numeric_range, write_numbers
from jaxmotion.evaluation.measures import MASKS, MEASURES, GeneratedClips
from jaxmotion.evaluation.report import Panel, Row, write_report
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.entries import VIDEO
from jaxmotion.foundation.files import atomic_file, read_json
from jaxmotion.foundation.text_files import escape
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.train import train
from jaxmotion.runs.trained import TrainedRun, open_run
from jaxmotion.systems.control import Controls, ControlValues, describe, filename_suffix, sweeps
from jaxmotion.video.clip_files import is_left_out
from jaxmotion.video.encode import write_clip
from jaxmotion.video.images import fit, load_photo
from jaxmotion.video.synthetic.captions import CAPTION
from jaxmotion.video.synthetic.photos import HELD_OUT, SKIMAGE_PHOTOS, SUFFIXES, read_photos

COUNT = 6
"""Scenes of an evaluation, unless it is said or a folder of pictures is given."""
REPORT_SEED = 0
"""Seed of the clips of a report, unless it is said; one of those that evaluations use by default."""
CLOSER = 0.65
"""Height and width of each closer view of a photo, as a share of the one before."""


@dataclasses.dataclass(frozen=True)
class RunGenerator:
    """Generates with a trained run (`evaluation.Generate`).

    Clips at the values that a report shows are kept in memory, so that a report by the same generator does not make
    them again: a scene in one seed is a few clips.
    """

    run: TrainedRun
    _kept: dict[Hashable, UInt8[np.ndarray, "T H W 3"]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def controls(self) -> Controls:
        return self.run.experiment.system.controls

    def __call__(self, scene: Scene, values: Sequence[ControlValues], seed: int) -> UInt8[np.ndarray, "N T H W 3"]:
        given = {
            name: self.controls[name].from_example(name, scene.example) for name in _required_controls(self.controls)
        }
        usual = {**self._defaults(), **given}
        keys = [_clip_key(scene, {**usual, **each}, seed) for each in values]
        if all(key in self._kept for key in keys):
            return np.stack([self._kept[key] for key in keys])
        clips = self.run.generate_grid(scene.picture, scene.prompt, [{**given, **each} for each in values], seed)
        shown = {_clip_key(scene, {**usual, **each}, REPORT_SEED) for each in sweeps(self.controls)} - {None}
        self._kept.update((key, clip.copy()) for key, clip in zip(keys, clips, strict=True) if key in shown)
        return clips

    def _defaults(self) -> ControlValues:
        """Values of the controls that have a default."""
        return {name: each.default for name, each in self.controls.items() if each.default is not None}


def evaluate(
    run: TrainedRun,
    names: Sequence[str] = (),
    *,
    images: Path | None = None,
    count: int = COUNT,
    changes: Mapping[str, object] | None = None,
    generate: RunGenerator | None = None,
) -> dict[str, Numbers]:
    """Runs evaluations of the run's config and writes `evaluate/NAME.json` and plots; returns the numbers by name.

    Args:
        names: which of `Experiment.evaluations`; all that the system's controls allow when empty.
        images: a folder of pictures to animate, in place of held-out scenes.
        count: number of held-out scenes.
        changes: fields to change in the evaluations that have them: {"seeds": (0,), "values": (1, 5, 10)}.
        generate: makes the clips; a report that is given the same one does not make its clips again.

    Raises:
        ValueError: there is no such evaluation, or one cannot be measured.
    """
    evaluations = run.experiment.evaluations
    unknown = [name for name in names if name not in evaluations]
    if unknown:
        raise ValueError(
            f"This run has no evaluation {', '.join(unknown)}; its config has {', '.join(evaluations) or 'none'}."
        )
    found, generate = {}, generate or RunGenerator(run)
    for name in names or evaluations:
        evaluation = evaluations[name].with_changes(changes or {})
        unmet = evaluation.unmet(generate.controls)
        if unmet and not names:
            print(f"{name} is left out: {unmet}", file=sys.stderr)
            continue
        if unmet:
            raise ValueError(f"{name} cannot be measured: {unmet}.")
        entries = (*evaluation.entries(generate.controls), *_required_controls(generate.controls))
        scenes = evaluation_scenes(run, entries, images, count)
        numbers = evaluation.measure(generate, scenes, run.experiment.data.fps)
        numbers |= provenance(run.experiment, run.step, images, count)
        path = write_numbers(run.directory, name, evaluation, numbers)
        found[name] = read_json(path)
    return found


def provenance(experiment: Experiment, step: int, images: Path | None, count: int) -> Json:
    """Returns the conditions under which numbers were measured, by which they are known to be up to date."""
    config = config_json.to_json(experiment)
    return {
        "step": step,
        "images": None if images is None else str(images),
        "count": count,
        "sampling": config["sampling"],
        "data": config["data"],
    }


def evaluation_scenes(
    run: TrainedRun, entries: Sequence[str], images: Path | None = None, count: int = COUNT
) -> list[Scene]:
    """Returns scenes that training never saw: held-out examples if `entries` of them are needed, otherwise photos.

    Args:
        entries: entries of examples that the scenes must have, such as `masks`.
        images: a folder of pictures, which have no entries.

    Raises:
        ValueError: the data makes no held-out examples with these entries, and no folder is given.
    """
    if images is None and entries:
        examples = run.experiment.data.held_out_examples(count, entries)
        if examples is None:
            raise ValueError(
                f"The data of this run ({type(run.experiment.data).__name__}) makes no held-out examples with "
                f"{', '.join(entries)}; give a folder of pictures (--images DIR)."
            )
        return [_scene(example) for example in examples]
    photos = evaluation_photos(run, images, count)
    return [Scene(name, picture, prompt) for name, (picture, prompt) in photos.items()]


def evaluation_photos(
    run: TrainedRun, images: Path | None = None, count: int = COUNT
) -> dict[str, tuple[UInt8[np.ndarray, "H W 3"], str]]:
    """Returns (picture, prompt) by name: pictures of a folder, or photos that training never saw.

    Without a folder these are the held-out photos of scikit-image's wheel, of which no synthetic training clip is
    made: each whole and in closer views, until there are `count`. Prompts are the experiment's, in turn.

    Raises:
        ValueError: no picture is in the folder.
    """
    size, prompts = run.experiment.system.size, run.experiment.prompts
    if images is not None:
        if not images.is_dir():
            raise FileNotFoundError(f"There is no folder {images}; give a folder of pictures.")
        there = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
        files = [path for path in there if not is_left_out(path.name)]
        if not files:
            raise ValueError(f"{images} holds no picture; looked for {', '.join(SUFFIXES)}.")
        found = {escape(path.stem): load_photo(path, size) for path in files}
    else:
        whole = [photo.levels[0] for photo in read_photos(SKIMAGE_PHOTOS, HELD_OUT, "held_out", 1024).photos]
        found = {}
        for index in range(count):
            times, which = divmod(index, len(HELD_OUT))
            found[f"{HELD_OUT[which]} {times + 1}"] = fit(crop_closer(whole[which], times), size)
    return {name: (picture, prompts[i % len(prompts)]) for i, (name, picture) in enumerate(found.items())}


def crop_closer(picture: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a closer view: `times` crops, each of 0.65 of the height and width, to the left and right in turn."""
    for turn in range(times):
        height, width = (round(CLOSER * side) for side in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) * (turn % 2)
        picture = picture[top : top + height, left : left + width]
    return picture


def report(
    run: TrainedRun,
    images: Path | None = None,
    *,
    count: int = COUNT,
    seed: int = REPORT_SEED,
    generate: RunGenerator | None = None,
) -> Path:
    """Animates scenes at a few values of each control and writes report.html: clips, evaluations, loss.

    Without a folder of pictures, the scenes are like those of the evaluations.
    """
    controls, fps = run.experiment.system.controls, run.experiment.data.fps
    values = sweeps(controls)
    folder = run.directory / "samples"
    folder.mkdir(exist_ok=True)
    rows, generate = [], generate or RunGenerator(run)
    for scene in _report_scenes(run, images, count):
        clips = generate(scene, values, seed)
        speeds = MEASURES["flow"].compute(GeneratedClips(clips, fps))
        stem, panels = re.sub(r"\W", "_", scene.name), []
        for each, clip, speed in zip(values, clips, speeds, strict=True):
            path = folder / f"{stem}{filename_suffix(controls, each, '_')}.mp4"
            write_clip(path, clip, fps)
            panels.append(Panel(path, describe(controls, each), _heat(controls, each), float(speed)))
        rows.append(Row(scene.picture, panels, scene.prompt, scene.name))
    return write_report(run.directory, rows)


def ablate(
    experiments: Mapping[str, Experiment],
    directory: Path,
    *,
    count: int = COUNT,
    changes: Mapping[str, object] | None = None,
) -> dict[str, dict[str, Numbers]]:
    """Trains experiments side by side and runs their evaluations; returns numbers by experiment and evaluation.

    Each has a run folder of its name, and `ablations.json` in the folder above holds all numbers. Training that is done
    and numbers that are up to date are kept.

    Raises:
        ValueError: there is no experiment, or a folder holds a run of another one.
    """
    if not experiments:
        raise ValueError("There is nothing to compare: the config file has no experiments.")
    found: dict[str, dict[str, Numbers]] = {}
    for name, experiment in experiments.items():
        folder = directory / name
        result = train(experiment, folder)
        if result.stopped:
            raise ValueError(f"The training of {name} was stopped at step {result.step}; the same command goes on.")
        done = _up_to_date(experiment, folder, result.step, count, changes or {})
        missing = [each for each in experiment.evaluations if each not in done]
        fresh = evaluate(open_run(folder), missing, count=count, changes=changes) if missing else {}
        found[name] = {each: {**done, **fresh}[each] for each in experiment.evaluations}
    with atomic_file(directory / "ablations.json") as part:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _up_to_date(
    experiment: Experiment, directory: Path, step: int, count: int, changes: Mapping[str, object]
) -> dict[str, Numbers]:
    """Numbers of a run that the same evaluations would give again."""
    expected, found = provenance(experiment, step, None, count), {}
    for name, evaluation in experiment.evaluations.items():
        path = numbers_path(directory, name)
        numbers = read_json(path) if path.is_file() else {}
        requested = {"evaluation": config_json.to_json(evaluation.with_changes(changes)), **expected}
        if {key: numbers.get(key) for key in requested} == json.loads(json.dumps(requested)):
            found[name] = numbers
    return found


def _report_scenes(run: TrainedRun, images: Path | None, count: int) -> list[Scene]:
    """Held-out examples where an evaluation needs them and the data makes them, otherwise photos."""
    controls = run.experiment.system.controls
    wanted = [each.entries(controls) for each in run.experiment.evaluations.values() if not each.unmet(controls)]
    entries = tuple(dict.fromkeys(entry for entries in [*wanted, _required_controls(controls)] for entry in entries))
    if images is None and entries and run.experiment.data.held_out_examples(1, entries) is None:
        entries = ()
    return evaluation_scenes(run, entries, images, count)


def _required_controls(controls: Controls) -> tuple[str, ...]:
    """Names of the controls without a default, whose values come from examples."""
    return tuple(name for name, control in controls.items() if control.default is None)


def _clip_key(scene: Scene, values: ControlValues, seed: int) -> Hashable:
    """Identifies a clip of a generator; None if a value can be compared by its identity alone, as an array."""
    if not all(isinstance(value, Hashable) for value in values.values()):
        return None
    return scene.picture.tobytes(), scene.prompt, frozenset(values.items()), seed


def _scene(example: Example) -> Scene:
    """The first frame of an example, and where its objects are if it says so."""
    mask = example[MASKS].any(0)[0] if MASKS in example else None
    return Scene(example["id"], example[VIDEO][0], example.get(CAPTION, ""), mask, example)


def _heat(controls: Controls, values: ControlValues) -> float:
    """Returns the place of the liveliest control in its range: 0 at the lowest value, 1 at the highest."""
    shares = [0.0]
    for name, value in values.items():
        extremes = numeric_range(controls[name])
        if extremes is not None and isinstance(value, int | float):
            low, high = extremes
            shares.append((value - low) / (high - low))
    return max(shares)
