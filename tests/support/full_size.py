"""Programs of shipped experiments at their published sizes, lowered for devices that are not here."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.foundation.entries import CAMERA, FPS, IMAGE, MOMENTS, OBJECT, TEXT, TEXT_FEATURES, VIDEO
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.motion_estimator.motion_estimator import MotionEstimator
from jaxmotion.training.state import cast
from jaxmotion.training.step import build_program
from tests.support.ahead_of_time import described, device_mesh, shape

ON_NVIDIA = {"xla_gpu_enable_triton_gemm": False}
"""What the command lines ask of XLA there (`foundation.command_line.tune_xla_on_nvidia`)."""


def shipped(file: str) -> dict[str, Experiment]:
    """The experiments of a shipped file that differ in what is trained, but the tiny ones."""
    found: dict[Any, tuple[str, Experiment]] = {}
    for name, experiment in experiments.load_all(file).items():
        if not name.startswith(("tiny", "smoke", "judged")):
            found.setdefault(repr((experiment.system, type(experiment.data), experiment.train)), (name, experiment))
    return dict(found.values())


def load(config: str) -> Experiment:
    """A shipped experiment whose system is calibrated, on whatever clips."""
    experiment = experiments.load(config)
    measured = {"level_edges": np.linspace(0.1, 0.7, 9).tolist()}
    if hasattr(getattr(experiment.system, "intensity", None), "edges"):
        measured["intensity_edges"] = np.linspace(0.1, 0.7, 10).tolist()
    return dataclasses.replace(experiment, system=experiment.system.with_calibration(measured))


def training_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of its data."""
    system, rows = experiment.system, experiment.train.batch_size
    clips, fps = {VIDEO: shape(rows, system.frames, *system.size, 3, dtype=np.uint8)}, {FPS: shape(rows)}
    if isinstance(system, MotionEstimator):
        example = experiment.data.open().example(0)
        read = {name: np.asarray(example[name]) for name in (VIDEO, FPS, *system.optional_entries) if name in example}
        return {name: shape(rows, *array.shape, dtype=array.dtype) for name, array in read.items()}
    assert system.token_spec is not None
    _, length = system.token_spec
    if not isinstance(experiment.data, PrecomputedLatents):
        labels = {name: shape(rows) for name in system.required_entries}
        return {**clips, **fps, **labels, TEXT: shape(rows, length, dtype=np.int32)}
    codec = system.codec
    height, width = (side // codec.spatial_compression for side in system.size)
    moments = (rows, codec.num_latent_frames(system.frames), height, width, 2 * codec.latent_channels)
    return {
        MOMENTS: shape(*moments, dtype=np.float16),
        TEXT_FEATURES: shape(rows, length, 4096, dtype=np.float16),
        IMAGE: shape(rows, *system.size, 3, dtype=np.uint8),
        **{name: shape(rows) for name in (OBJECT, CAMERA, FPS)},
    }


def lower_step(experiment: Experiment, device: str, count: int, **sizes: int) -> jax.stages.Lowered:
    """Lowers the training step for so many devices; all along `data`, unless sizes are given."""
    mesh = device_mesh(device, count, **sizes)
    program = build_program(experiment.system.build(), experiment.train, mesh)
    with jax.set_mesh(mesh):
        return program.update.lower(program.abstract, training_batch(experiment))


def lower_sampling(experiment: Experiment, device: str) -> jax.stages.Lowered:
    """Lowers the sampling of two clips on one device, guidance and prior inversion included."""
    system, model = experiment.system, experiment.system.build()
    assert system.token_spec is not None
    batch = {
        IMAGE: shape(2, *system.size, 3, dtype=np.uint8),
        TEXT: shape(2, system.token_spec[1], dtype=np.int32),
        **{name: shape(2, dtype=np.int32 if name == "level" else np.float32) for name in system.controls},
    }
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    return _lower(
        lambda params, batch, keys: model.sample_latents(params, batch, keys, experiment.sampling),
        device,
        _parameters(experiment),
        batch,
        keys,
    )


def lower_decoding(experiment: Experiment, device: str) -> jax.stages.Lowered:
    """Lowers the decoding of one clip, whole."""
    shapes, codec = experiment.system.build().latent_shape, experiment.system.codec
    latents = shape(1, shapes.latents, shapes.height, shapes.width, codec.latent_channels)
    return _lower(codec.decode, device, _parameters(experiment)["codec"], latents)


def lower_encoding(experiment: Experiment, device: str) -> jax.stages.Lowered:
    """Lowers what `prepare` computes of a clip."""
    entries = experiment.system.precomputable()
    batch = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in training_batch(experiment).items()}
    run = lambda params, batch: {name: each.compute(params, batch) for name, each in entries.items()}  # noqa: E731
    return _lower(run, device, _parameters(experiment), batch)


def _parameters(experiment: Experiment) -> Any:
    """Parameters in the type that training computes in."""
    model = experiment.system.build()
    return jax.eval_shape(lambda: cast(model.init(jax.random.key(0)), experiment.train.precision))


def _lower(function, device: str, *given: Any) -> jax.stages.Lowered:
    mesh = device_mesh(device)
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*described(given, NamedSharding(mesh, P())))
