"""Trains the toy task on 1 and on 8 fake devices laid out in several ways; prints what each gave as JSON."""

import json
import re
import sys
import tempfile

import jax
import numpy as np

from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.training.checkpoint import Checkpoints
from jaxmotion.training.memory import bytes_per_device
from jaxmotion.training.restore import restore_params
from jaxmotion.training.step import build_program, gradients
from tests.support import toy

MESHES = {
    "one": (MeshSizes(), 1),
    "data 2 x fsdp 2 x tensor 2": (MeshSizes(data=2, fsdp=2, tensor=2), 8),
    "fsdp 8": (MeshSizes(data=1, fsdp=8), 8),
}


def shard_bytes(tree):
    """Bytes really held by the device that holds most, array by array."""
    return sum(max(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(tree))


def flat(tree):
    return {path: np.asarray(leaf, np.float32).tolist() for path, leaf in sharding.paths(tree).items()}


def train(mesh, accumulate):
    config = toy.settings(batch_size=32, accumulate=accumulate)
    task = toy.Toy(noise=0.0)
    with jax.set_mesh(mesh):
        program = build_program(task, config, mesh)
        state = program.initialise()
        sizes = {
            name: (shard_bytes(getattr(state, name)), bytes_per_device(getattr(program.abstract, name)))
            for name in ("trained", "ema", "optimizer")
        }
        layout = jax.tree.map(lambda x: x.sharding, program.abstract.trained)
        batch = sharding.distribute(toy.batch(32), mesh)
        found = jax.jit(lambda state, batch: gradients(task, config, layout, state, batch, jax.random.key(0)))
        loss, _, grads = found(state, batch)
        lowered = program.update.lower(program.abstract, batch).as_text()
        for seed in range(3):
            state, _ = program.update(state, sharding.distribute(toy.batch(32, seed), mesh))
        after = {name: shard_bytes(getattr(state, name)) for name in sizes}
    return (
        state,
        program,
        {
            "loss": float(loss),
            "grads": flat(grads),
            "grad_specs": {path: list(leaf.sharding.spec) for path, leaf in sharding.paths(grads).items()},
            "trained": flat(state.trained),
            "sizes": sizes,
            "sizes_after": after,
            "constraints": constraints(lowered),
        },
    )


def constraints(lowered):
    """How often each layout is asked for in the lowered step, as the text between the braces."""
    found = re.findall(r"sdy\.sharding_constraint %\S+ <@mesh, (\[.*?\])>", lowered)
    return {layout: found.count(layout) for layout in found}


def restored_elsewhere(state, program, mesh):
    """Whether a state saved on 8 devices comes back the same on another mesh, and as plain parameters."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints, data = Checkpoints(folder, keep=1), toy.loader()
        checkpoints.save_frozen(state)
        checkpoints.save(3, state, data)
        checkpoints.wait()
        with jax.set_mesh(mesh):
            other = build_program(toy.Toy(noise=0.0), toy.settings(batch_size=32), mesh)
            again = checkpoints.restore(3, other.abstract, data)
        checkpoints.close()
        alone = restore_params(folder, weights="raw")
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True)
    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    spread = len(again.trained["body"]["kernel"].sharding.device_set)
    return same and np.array_equal(alone["head"]["kernel"], np.asarray(state.trained["head"]["kernel"])), spread


def main():
    result = {}
    for name, (sizes, count) in MESHES.items():
        mesh = make_mesh(sizes, jax.devices()[:count])
        for accumulate in (1, 2) if sizes.tensor == 2 else (1,):
            state, program, result[f"{name}, accumulate {accumulate}"] = train(mesh, accumulate)
        if sizes.tensor == 2:
            spread = state, program
    result["restored"] = restored_elsewhere(*spread, make_mesh(MeshSizes(data=2, tensor=2), jax.devices()[:4]))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
