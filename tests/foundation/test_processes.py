"""Workers end with the command that started them, and leave no shared memory."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import SUPPORT
from tests.support.child_process import environment

SHARED = Path("/dev/shm")
if not SHARED.is_dir():
    pytest.skip("looks into /dev/shm, which this system lacks", allow_module_level=True)


def segments():
    return {path.name for path in SHARED.glob("psm_*")}


def is_running(process):
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_workers_end_with_a_command_that_is_killed_or_told_to_end():
    before, signals = segments(), (signal.SIGKILL, signal.SIGTERM)
    command = [sys.executable, str(SUPPORT / "loading_run.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    runs = [subprocess.Popen(command, env=environment(), **pipes) for _ in signals]
    workers = [int(pid) for run in runs for pid in run.stdout.readline().split()]
    assert len(workers) == 4
    assert all(map(is_running, workers))
    for run, number in zip(runs, signals, strict=True):
        run.send_signal(number)
    assert [run.wait(30) for run in runs] == [-signal.SIGKILL, 128 + signal.SIGTERM]
    for run in runs:
        run.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) or segments() - before:
        assert time.monotonic() < deadline, (workers, segments() - before)
        time.sleep(0.05)
