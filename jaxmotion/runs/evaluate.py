"""Evaluations of a trained run, its report, and ablations side by side."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxmotion.evaluation.evaluation import Numbers, Scene, numbers_path, numeric_range, write_numbers
from jaxmotion.evaluation.measures import MEASURES, GeneratedClips, Measure
from jaxmotion.evaluation.report import Panel, Row, write_report
from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_file, read_json
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.measures import meter_measures, system_measures
from jaxmotion.runs.rehearsal import rehearse
from jaxmotion.runs.scenes import COUNT, evaluation_scenes, required_controls
from jaxmotion.runs.train import train
from jaxmotion.runs.trained import TrainedRun, open_run
from jaxmotion.systems.control import Control, Controls, ControlValues, describe, filename_suffix, sweeps
from jaxmotion.video.encode import write_clip

REPORT_SEED = 0
"""Seed of the clips of a report, unless it is said; one of those that evaluations use by default."""


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
        given = {name: _value_of_scene(name, self.controls[name], scene) for name in required_controls(self.controls)}
        usual = {**self._defaults(), **given}
        keys = [_clip_key(scene, {**usual, **each}, seed) for each in values]
        if all(key in self._kept for key in keys):
            return np.stack([self._kept[key] for key in keys])
        clips = self.run.generate_grid(scene.picture, scene.prompt, [{**given, **each} for each in values], seed)
        shown = {_clip_key(scene, {**usual, **each}, REPORT_SEED) for each in sweeps(self.controls)} - {None}
        self._kept.update((key, clip.copy()) for key, clip in zip(keys, clips, strict=True) if key in shown)
        return clips

    def own_measures(self, scenes: Sequence[Scene]) -> dict[str, dict[str, Measure]]:
        """Returns measures that only a run can take (`evaluation.control_curve.MeasuresItself`), by control.

        The motion meter is asked where nobody says where the objects are, beside the points that follow no camera.
        """
        unknown = any(scene.mask is None for scene in scenes)
        return {**system_measures(self.run), **(meter_measures(self.run) if unknown else {})}

    def _defaults(self) -> ControlValues:
        """Values of the controls that have a default."""
        return {name: each.default for name, each in self.controls.items() if each.default is not None}


def evaluate(
    run: TrainedRun,
    names: Sequence[str] = (),
    *,
    images: Path | None = None,
    masks: Path | None = None,
    count: int = COUNT,
    changes: Mapping[str, object] | None = None,
    generate: RunGenerator | None = None,
) -> dict[str, Numbers]:
    """Runs evaluations of the run's config and writes `evaluate/NAME.json` and plots; returns the numbers by name.

    Args:
        names: which of `Experiment.evaluations`; all that the system's controls allow when empty.
        images: a folder of pictures to animate, in place of held-out scenes; captions may lie beside them.
        masks: a folder with masks of the objects on these pictures.
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
        entries = (*evaluation.entries(generate.controls), *required_controls(generate.controls))
        scenes = evaluation_scenes(run.experiment, entries, images, count, masks)
        numbers = evaluation.measure(generate, scenes, run.experiment.data.fps)
        numbers |= provenance(run.experiment, run.step, images, count, masks)
        path = write_numbers(run.directory, name, evaluation, numbers)
        found[name] = read_json(path)
    return found


def provenance(experiment: Experiment, step: int, images: Path | None, count: int, masks: Path | None = None) -> Json:
    """Returns the conditions under which numbers were measured, by which they are known to be up to date."""
    config = config_json.to_json(experiment)
    return {
        "step": step,
        "images": None if images is None else str(images),
        "masks": None if masks is None else str(masks),
        "count": count,
        "sampling": config["sampling"],
        "data": config["data"],
    }


def report(
    run: TrainedRun,
    images: Path | None = None,
    *,
    masks: Path | None = None,
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
    for scene in _report_scenes(run, images, count, masks):
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
    and numbers that are up to date are kept. An evaluation that an experiment does not allow, for it lacks the control,
    is left out there. Before anything is trained, every evaluation is tried on still pictures.

    Raises:
        ValueError: there is no experiment, one cannot be evaluated, or a folder holds a run of another one.
    """
    if not experiments:
        raise ValueError("There is nothing to compare: the config file has no experiments.")
    allowed = {name: rehearse(name, each, count=count, changes=changes or {}) for name, each in experiments.items()}
    found: dict[str, dict[str, Numbers]] = {}
    for name, experiment in experiments.items():
        folder = directory / name
        result = train(experiment, folder)
        if result.stopped:
            raise ValueError(f"The training of {name} was stopped at step {result.step}; the same command goes on.")
        done = _up_to_date(experiment, folder, result.step, count, changes or {})
        missing = [each for each in allowed[name] if each not in done]
        fresh = evaluate(open_run(folder), missing, count=count, changes=changes) if missing else {}
        found[name] = {each: {**done, **fresh}[each] for each in allowed[name]}
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


def _report_scenes(run: TrainedRun, images: Path | None, count: int, masks: Path | None) -> list[Scene]:
    """The scenes of the evaluations."""
    controls = run.experiment.system.controls
    wanted = [each.entries(controls) for each in run.experiment.evaluations.values() if not each.unmet(controls)]
    entries = tuple(dict.fromkeys(entry for each in wanted for entry in each))
    return evaluation_scenes(run.experiment, entries, images, count, masks)


def _value_of_scene(name: str, control: Control[Any], scene: Scene) -> object:
    """Returns the value of a control without a default: that of the scene's example, else the middle of its range.

    Raises:
        ValueError: the scene has none, and there is no range.
    """
    value, extremes = control.from_example(name, scene.example), numeric_range(control)
    if value is None and extremes is not None:
        return control.check(sum(extremes) / 2 if isinstance(extremes[0], float) else sum(extremes) // 2)
    if value is None:
        raise ValueError(f"The control {name!r} has no default, and {scene.name!r} is no example that has a value.")
    return value


def _clip_key(scene: Scene, values: ControlValues, seed: int) -> Hashable:
    """Identifies a clip of a generator; None if a value can be compared by its identity alone, as an array."""
    if not all(isinstance(value, Hashable) for value in values.values()):
        return None
    return scene.picture.tobytes(), scene.prompt, frozenset(values.items()), seed


def _heat(controls: Controls, values: ControlValues) -> float:
    """Returns the place of the liveliest control in its range: 0 at the lowest value, 1 at the highest."""
    shares = [0.0]
    for name, value in values.items():
        extremes = numeric_range(controls[name])
        if extremes is not None and isinstance(value, int | float):
            low, high = extremes
            shares.append((value - low) / (high - low))
    return max(shares)
