"""What every system must hold, by its shipped configs: a new system joins by its name in `TINY` and `FULL`.

Nothing is compiled here: programs are traced, which finds what does not fit together.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmotion.foundation.entries import IMAGE, TEXT
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import paths, placements
from jaxmotion.runs.config_files import shipped_configs
from jaxmotion.runs.experiment import Experiment, from_json, load, load_all, override, to_json
from jaxmotion.runs.trained import TrainedRun
from jaxmotion.systems.control import control_entries, sweeps
from jaxmotion.systems.video_diffusion import VideoDiffusion, guidable_conditions
from jaxmotion.training.optimizer import decay_mask
from jaxmotion.training.state import split

DIFFUSION = ["livephoto:tiny", "livephoto:tiny_lora", "motionstone:tiny", "quickstart:smoke"]
TINY = [*DIFFUSION, "motion_estimator:tiny"]
FULL = ["livephoto:full", "motionstone:full", "motionstone:v1_5", "motion_estimator:full"]

DECAYED = {"kernel", "down", "up", "tokens", "positions", "distances"}
NOT_DECAYED = {"bias", "scale", "scale_attention", "scale_mlp", "gate", "mean", "variance", "cls", "mask_token"}
"""Last parts of the paths of all parameters that a shipped experiment trains."""


@functools.cache
def shapes(name: str):
    """Shapes of all parameters, as a tree."""
    return jax.eval_shape(load(name).system.build().init, jax.random.key(0))


def request_batch(experiment: Experiment, values: list) -> dict:
    """The batch of one picture, an empty caption and values of controls."""
    system, count = experiment.system, len(values)
    return {
        IMAGE: np.zeros((count, *system.size, 3), np.uint8),
        TEXT: experiment.tokenizer([""] * count),
        **control_entries(system.controls, values),
    }


@pytest.mark.parametrize("file", shipped_configs())
def test_every_shipped_experiment_comes_back_from_its_json(file: str) -> None:
    found = load_all(file)
    assert found
    for value in found.values():
        assert from_json(json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize("name", [*TINY, *FULL])
def test_every_parameter_is_placed_and_every_trained_pattern_means_some(name: str) -> None:
    experiment = load(name)
    task, tree = experiment.system.build(), shapes(name)
    places = placements(tree, task.sharding, make_mesh(experiment.mesh, jax.devices()[:1]))
    assert places.keys() == paths(tree).keys()
    for pattern in experiment.train.trained:
        assert any(re.search(pattern, path) for path in places), f"{pattern} trains nothing"


@pytest.mark.parametrize("name", [*TINY, *FULL, "motion_estimator:r50"])
def test_kernels_factors_and_tables_decay_and_nothing_else(name: str) -> None:
    assert_decays(load(name), shapes(name))


@pytest.mark.slow
@pytest.mark.parametrize("file", shipped_configs())
def test_kernels_factors_and_tables_decay_in_every_shipped_experiment(file: str) -> None:
    for experiment in load_all(file).values():
        assert_decays(experiment, jax.eval_shape(experiment.system.build().init, jax.random.key(0)))


def assert_decays(experiment: Experiment, tree) -> None:
    """Compares what decays with the roles of the trained parameters, all of which must be known here."""
    trained, _ = split(tree, experiment.train.trained)
    found = paths(decay_mask(trained))
    for path, decays in found.items():
        role = path.rpartition("/")[2]
        assert role in DECAYED | NOT_DECAYED, path
        assert decays == (role in DECAYED), path
    assert sum(found.values()) >= len(found) / 5


@pytest.mark.parametrize("name", DIFFUSION)
def test_sampling_is_traced_for_every_value_of_a_sweep(name: str) -> None:
    """Previews and reports ask for these: latents of the clip's shape, one clip for each set of values."""
    experiment = load(name)
    task = experiment.system.build()
    values = sweeps(experiment.system.controls)
    batch, keys = request_batch(experiment, values), jax.random.split(jax.random.key(0), len(values))
    sample = functools.partial(task.sample_latents, sampling=experiment.sampling)
    found = jax.eval_shape(sample, shapes(name), batch, keys)
    assert found.shape[0] == len(values) >= 3
    assert found.dtype == np.float32


@pytest.mark.parametrize("name", [each for each in DIFFUSION if "lora" not in each])
def test_without_guidance_the_network_is_evaluated_once(name: str) -> None:
    """Guidance 1 is the conditional pass: one term, in which nothing is left out."""
    experiment = load(name)
    task = experiment.system.build()
    assert isinstance(task, VideoDiffusion)
    sampling = dataclasses.replace(experiment.sampling, guidance=1.0)
    batch = request_batch(experiment, sweeps(experiment.system.controls)[:1])
    times = sampling.sampler.timesteps(task.process)
    counts = []

    def terms(params):
        found = task._terms(params, batch, sampling, times)
        counts.append(len(found))
        return [condition for condition, _ in found]

    jax.eval_shape(terms, shapes(name))
    assert counts == [1]


REFUSED = {
    "livephoto:tiny": {"level", "reference", "frame", "content"},
    "livephoto:tiny_lora": {"level", "reference", "frame", "content"},
    "motionstone:tiny": {"image"},
    "motionstone:full": set(),  # learned without the picture as well, as CogVideoX-I2V
    "motionstone:tiny_ssim": {"image"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_guidance_on_what_was_never_left_out_is_refused_by_name(name: str, capsys) -> None:
    """The text, and what training drops, can be guided; in the config, on the command line and in a request."""
    experiment = load(name)
    guidable = experiment.system.guidable
    assert {condition for condition, can in guidable.items() if not can} == REFUSED[name]
    for condition, can in guidable.items():
        sampling = dataclasses.replace(experiment.sampling, guidance_scales=((condition, 2.0),))
        if can:
            assert experiment.system.check_guidance(sampling) is None
            continue
        said = f"without '{condition}', which this network has never learned.*dropout, such as {{'{condition}': 0.1}}"
        with pytest.raises(ValueError, match=said):
            dataclasses.replace(experiment, sampling=sampling)
        with pytest.raises(SystemExit):
            override(experiment, ["--sampling.guidance-scales", condition, "2.0"], "test", "")
        assert f"'{condition}', which this network has never learned" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(ValueError, match=said):
            TrainedRun(Path(), experiment, None, {}).generate([], [], [], sampling=sampling)  # pyright: ignore


def test_the_source_of_scores_is_nothing_to_guide_or_drop() -> None:
    """It only measures: guidance on `intensity` cost an evaluation and changed nothing."""
    experiment = load("motionstone:tiny_ssim")
    sampling = dataclasses.replace(experiment.sampling, guidance_scales=(("intensity", 2.0),))
    with pytest.raises(
        ValueError, match="no condition 'intensity' to guide; this system can guide text, intensity_score"
    ):
        dataclasses.replace(experiment, sampling=sampling)
    assert "intensity" not in guidable_conditions(experiment.system.build().conditioners, {})
    dropping = dataclasses.replace(experiment.system, dropout={"intensity": 0.1})
    with pytest.raises(ValueError, match="no conditioner 'intensity' to drop"):
        dropping.build()


@pytest.mark.parametrize("name", TINY)
def test_every_system_says_how_it_is_exported(name: str) -> None:
    exports = load(name).system.exports()
    assert "safetensors" in exports
    assert all(each.description for each in exports.values())
