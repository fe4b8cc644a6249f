"""The training step of the published size is traced and lowered in seconds, for its blocks are one scanned loop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support import SUPPORT

pytestmark = pytest.mark.slow  # a process of its own that compiles for minutes

SCRIPT = SUPPORT / "lowered_motionstone.py"


def lowered(depth: int) -> dict:
    done = subprocess.run(
        [sys.executable, SCRIPT, str(depth)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def both() -> tuple[dict, dict]:
    """What it took for all 42 blocks, and for two."""
    return lowered(42), lowered(2)


def test_the_program_does_not_grow_with_the_depth(both) -> None:
    whole, shallow = both
    assert whole["products"] == shallow["products"]
    # shapes of stacked parameters have a digit more
    assert whole["characters"] < 1.01 * shallow["characters"]


def test_activations_are_laid_out_over_the_mesh(both) -> None:
    assert both[0]["constraints"] > 100


def test_it_takes_little(both) -> None:
    """12 s and 0.7 GB where this was written, beside other work; ten times that would be an unrolled network."""
    assert both[0]["seconds"] < 120
    assert both[0]["peak_gb"] < 4
