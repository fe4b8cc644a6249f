"""Seconds of a training step of the tiny LivePhoto, compile time apart, with glibc's memory kept and without.

    python benchmarks/train_step.py [--config configs/quickstart.py] [--steps 20]

The reference is the same program in a process of its own whose allocator is left as it comes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import jax
from rich.console import Console
from rich.table import Table

from jaxmotion.data.loader import batches
from jaxmotion.foundation import command_line as commands
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import distribute
from jaxmotion.runs import experiment
from jaxmotion.training.step import build_program

EDGES = tuple(0.1 * n for n in range(1, 10))
"""Stand-ins for measured edges between levels; they do not change the time of a step."""


def main() -> None:
    """Measures both in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--measure", choices=("kept", "usual"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if options.measure == "kept":
            commands.tune_glibc_malloc()
        json.dump(measure(options.config, options.steps), sys.stdout)
        return
    found = {}
    for how in ("usual", "kept"):
        command = [
            sys.executable,
            __file__,
            "--config",
            options.config,
            "--steps",
            str(options.steps),
            "--measure",
            how,
        ]
        found[how] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    table = Table("allocator", "compile, s", "step, s (median)", "clips/s", "ratio", title=options.config)
    for how, values in found.items():
        ratio = values["step"] / found["usual"]["step"]
        numbers = (values["compile"], values["step"], values["rows"] / values["step"], ratio)
        table.add_row({"usual": "as it comes", "kept": "memory kept"}[how], *(f"{number:.3g}" for number in numbers))
    Console(width=100).print(table)


def measure(config: str, steps: int) -> dict[str, float]:
    """Compile seconds, median seconds of a step, and clips in a step."""
    asked = experiment.load(config)
    task, mesh = asked.system.with_calibration({"level_edges": EDGES}).build(), make_mesh(asked.mesh)
    rows = asked.train.batch_size
    loader = batches(asked.data.open(), batch_size=rows, seed=0, tokenize=asked.tokenizer)
    with jax.set_mesh(mesh):
        program = build_program(task, asked.train, mesh)
        state = program.initialise()
        batch = distribute(next(loader), mesh)
        began = time.perf_counter()
        update = program.update.lower(state, batch).compile()
        compiled = time.perf_counter() - began
        seconds = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            state, _ = update(state, batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - began)
    return {"compile": compiled, "step": statistics.median(seconds[1:]), "rows": rows}


if __name__ == "__main__":
    main()
