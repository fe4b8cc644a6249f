"""Evaluations of runs, and of ablations side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxmotion.evaluation import dials
from jaxmotion.evaluation.control import CONTROL
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.runs.train import train
from jaxmotion.runs.trained import open_run
from jaxmotion.training.log import write_whole


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
