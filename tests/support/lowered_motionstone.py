"""Traces and lowers the training step of the published MotionStone over eight devices; prints what it took as JSON.

python tests/support/lowered_motionstone.py DEPTH
"""

import dataclasses
import json
import os
import re
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp

from jaxmotion.foundation.entries import FPS, TEXT, VIDEO
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.runs import experiment
from jaxmotion.training import step

CONFIG = Path(__file__).parents[2] / "configs" / "motionstone.py"


def peak_gb() -> float:
    """The most memory that this program has had; what `resource` tells counts the process that started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def main(depth: int) -> None:
    asked = experiment.load(str(CONFIG))
    transformer = dataclasses.replace(asked.system.transformer, depth=depth)
    task = dataclasses.replace(asked.system, transformer=transformer).build()
    mesh = make_mesh(MeshSizes(data=1, fsdp=2, context=4, tensor=1))
    config = dataclasses.replace(asked.train, batch_size=2)
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        program = step.build_program(task, config, mesh)
        batch = {
            VIDEO: jax.ShapeDtypeStruct((2, 49, 480, 720, 3), jnp.uint8),
            TEXT: jax.ShapeDtypeStruct((2, 226), jnp.int32),
            FPS: jax.ShapeDtypeStruct((2,), jnp.float32),
        }
        lowered = program.update.lower(program.abstract, batch)
        seconds = time.perf_counter() - start
    text = lowered.as_text()
    found = {
        "seconds": seconds,
        "products": len(re.findall(r"stablehlo\.dot_general", text)),
        "constraints": text.count("sdy.sharding_constraint") + text.count("@Sharding"),
        "characters": len(text),
        "peak_gb": peak_gb(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
