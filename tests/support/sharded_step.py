"""A training step of a small system on 1 and on 8 fake devices; prints loss, gradients and shards' bytes as JSON.

python tests/support/sharded_step.py SYSTEM MESH...
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np

from jaxmotion.models.autoencoder import KLCodec, KLSizes
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.runs import experiment
from jaxmotion.training.step import build_program, gradients

MESHES = {
    "livephoto": {
        "one": (MeshSizes(), 1),
        "data 2 x fsdp 2 x tensor 2": (MeshSizes(data=2, fsdp=2, tensor=2), 8),
        "fsdp 8": (MeshSizes(data=1, fsdp=8), 8),
    },
    "livephoto on an autoencoder": {"data 8": (MeshSizes(data=8), 8)},
    "motionstone": {
        "one": (MeshSizes(), 1),
        "fsdp 2 x context 2 x tensor 2": (MeshSizes(data=1, fsdp=2, context=2, tensor=2), 8),
        "data 2 x context 4": (MeshSizes(data=2, context=4), 8),
    },
}
COLLECTIVE = r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
ROOT = Path(__file__).resolve().parents[2]


def livephoto():
    """The tiny LivePhoto with one stage, so that three meshes compile in a minute."""
    tiny = experiment.load(f"{ROOT}/configs/livephoto.py:tiny")
    unet = dataclasses.replace(tiny.system.unet, features=(32,), attention_stages=(True,), heads=4, groups=2)
    system = dataclasses.replace(tiny.system, unet=unet, frames=4)
    system = system.with_calibration({"level_edges": np.linspace(0.1, 0.7, 9).tolist()})
    return system.build(), dataclasses.replace(tiny.train, batch_size=8)


def livephoto_on_an_autoencoder():
    """The same with an autoencoder that takes a few frames at a time, as the full one has it."""
    tiny = experiment.load(f"{ROOT}/configs/livephoto.py:tiny")
    task, config = livephoto()
    sizes = KLSizes(tiny.system.codec.latent_channels, features=(4, 4, 8), blocks_per_stage=1, groups=2)
    shape = dataclasses.replace(task.latent_shape, codec=KLCodec(sizes, frames_at_once=2))
    return dataclasses.replace(task, latent_shape=shape), config


def motionstone():
    """The tiny MotionStone with half the layers; padded tokens and all rematerialised, as the large one has it."""
    tiny = experiment.load(f"{ROOT}/configs/motionstone.py:tiny")
    transformer = dataclasses.replace(tiny.system.transformer, depth=2, pad_to=128, remat="full")
    system = dataclasses.replace(tiny.system, transformer=transformer)
    return system.build(), dataclasses.replace(tiny.train, batch_size=8)


def held(tree):
    """Bytes really held by the device that holds most, over all arrays."""
    return sum(max(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(tree))


def main(system, *meshes):
    systems = {
        "livephoto": livephoto,
        "livephoto on an autoencoder": livephoto_on_an_autoencoder,
        "motionstone": motionstone,
    }
    task, config = systems[system]()
    rng = np.random.default_rng(0)
    side = 24 if system == "motionstone" else 32
    batch = {
        "video": rng.integers(0, 256, (8, 4, side, side, 3), np.uint8),
        "text": rng.integers(0, 1000, (8, 16), np.int32),
    }
    if system == "motionstone":
        batch |= {name: rng.uniform(1, 10, 8).astype(np.float32) for name in ("object", "camera")}
    result, start = {}, None
    for name in meshes:
        sizes, count = MESHES[system][name]
        mesh = make_mesh(sizes, jax.devices()[:count])
        with jax.set_mesh(mesh):
            program = build_program(task, config, mesh)
            placed = jax.tree.map(lambda x: x.sharding, program.abstract)
            state = jax.device_put(start, placed) if start else program.initialise()
            start = start or jax.device_get(state)  # tests/train/test_sharded.py has states that begin on many devices
            # Fresh parameters hide whole branches behind zeros; these do not.
            state = state.replace(trained=jax.tree.map(lambda x: x + 0.02, state.trained))
            found = jax.jit(lambda s, b: gradients(task, config, placed.trained, s, b, jax.random.key(0)))  # noqa: B023
            lowered = found.lower(state, sharding.distribute(batch, mesh))
            compiled = lowered.compile()
            loss, _, grads = compiled(state, sharding.distribute(batch, mesh))
        flat = {path: np.asarray(leaf, np.float64) for path, leaf in sharding.paths(grads).items()}
        result[name] = {
            "loss": float(loss),
            "norm": float(np.sqrt(sum(np.sum(g**2) for g in flat.values()))),
            "grads": {path: np.asarray(g, np.float32).ravel()[:50].tolist() for path, g in flat.items()},
            "bytes": {part: held(getattr(state, part)) for part in ("trained", "ema", "optimizer")},
            "constraints": lowered.as_text().count("sdy.sharding_constraint"),
            "collectives": sorted(set(re.findall(COLLECTIVE, compiled.as_text()))),
        }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
