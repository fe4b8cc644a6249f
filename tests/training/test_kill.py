"""A run that is killed again and again, then finishes, is the run that nothing interrupted."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np

from jaxmotion.training.restore import latest_step, restore_params
from tests.support import SUPPORT
from tests.support.child_process import environment

SCRIPT = SUPPORT / "killed_run.py"


def start(directory, when):
    command = [sys.executable, str(SCRIPT), str(directory), when]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    wanted = 0 if when == "never" else -signal.SIGKILL
    assert done.returncode == wanted, done.stderr[-2000:]
    return latest_step(directory)


def test_kill_points(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "never") == 14
    # Each line: when the process dies, and the checkpoint it leaves. Steps 4, 8, 12 and 14 are saved.
    assert start(killed, "in frozen") is None
    assert start(killed, "before checkpoint") is None
    assert start(killed, "in checkpoint") is None
    assert start(killed, "after save returned") in (None, 4)
    reached = start(killed, "after checkpoint")
    assert reached in (4, 8)
    assert start(killed, "between checkpoints") == reached
    assert start(killed, "in checkpoint") == reached
    assert start(killed, "never") == 14
    for weights in ("raw", "ema"):
        pair = (restore_params(whole, weights=weights), restore_params(killed, weights=weights))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *pair)
    rows = [[json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (whole, killed)]
    assert [[(row["step"], row["loss"]) for row in run] for run in rows][1] == [
        (row["step"], row["loss"]) for row in rows[0]
    ]
    positions = [(d / "checkpoints" / "14" / "data" / "process_0-of-1.json").read_text() for d in (whole, killed)]
    assert positions[0] == positions[1]
    assert not list((killed / "checkpoints").glob("*tmp*"))
