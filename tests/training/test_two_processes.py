"""Two processes train as one: each loads its rows, all stop at the same step, and each finds its place again."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np

from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.training import loop
from jaxmotion.training.restore import latest_step, restore_params
from tests.support import SUPPORT
from tests.support.child_process import environment
from tests.support.toy import Toy, loader, meta, settings

STEPS = 20
SCRIPT = SUPPORT / "process_of_two.py"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_both(folder, steps, term=-1):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    port = free_port()
    both = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, (index, port, folder, steps, term))],
            env=environment(**flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [each.communicate(timeout=240) for each in both]
    finally:
        for each in both:
            each.kill()
    for process, (_, error) in zip(both, told, strict=True):
        assert process.returncode == 0, error[-3000:]
    lines = [next(line for line in out.splitlines() if line.startswith("result")) for out, _ in told]
    return [line.split()[1:] for line in lines], told[0][1]


class Interleaved:
    """The batches of a single process made of the rows of two, in the order in which their devices hold them."""

    def __init__(self):
        self.parts = [loader(rows=4, share=(index, 2)) for index in range(2)]

    def __next__(self):
        return {"x": np.concatenate([next(part)["x"] for part in self.parts])}

    def get_state(self):
        return [part.get_state() for part in self.parts]

    def set_state(self, states):
        for part, state in zip(self.parts, states, strict=True):
            part.set_state(state)


def test_two_processes_stop_together_continue_and_equal_one(tmp_path):
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    results, messages = run_both(pair, steps=STEPS, term=4)
    stopped = latest_step(pair)
    assert stopped is not None
    assert 4 < stopped < STEPS
    assert [result[:3] for result in results] == [[str(stopped), "True", f"{index}/2"] for index in range(2)]
    assert f"saved step {stopped} of {STEPS}" in messages
    positions = sorted(path.name for path in (pair / "checkpoints" / str(stopped) / "data").glob("*.json"))
    assert positions == ["process_0-of-2.json", "process_1-of-2.json"]

    results, _ = run_both(pair, steps=STEPS)
    assert [result[:2] for result in results] == [[str(STEPS), "False"]] * 2

    config = settings(steps=STEPS, save_every=100)
    loop.run(Toy(noise=0.0), config, make_mesh(), Interleaved(), alone, meta=meta(config))
    both = [restore_params(folder, weights="raw") for folder in (pair, alone)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4), *both)
    losses = [
        [json.loads(line)["loss"] for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (pair, alone)
    ]
    np.testing.assert_allclose(losses[0][-1], losses[1][-1], rtol=1e-4)
