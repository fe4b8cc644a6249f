"""A training step on 8 devices is the step on one, and the parameters are really spread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import SUPPORT

EIGHT = ["data 2 x fsdp 2 x tensor 2", "fsdp 8"]
WITH_CONTEXT = ["fsdp 2 x context 2 x tensor 2", "data 2 x context 4"]


@pytest.fixture(scope="module")
def results(root: Path) -> dict:
    return stepped(root, "livephoto")


@pytest.fixture(scope="module")
def motionstone(root: Path) -> dict:
    return stepped(root, "motionstone")


def stepped(root: Path, system: str) -> dict:
    """What the script says."""
    script = SUPPORT / "sharded_step.py"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    done = subprocess.run(
        [sys.executable, str(script), system], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", EIGHT)
def test_loss_and_gradients_are_those_of_one_device(results: dict, mesh: str) -> None:
    """Sums over channels and rows are taken in another order; float32 then agrees to about 1e-6 of the largest."""
    compare(results["one"], results[mesh])


@pytest.mark.parametrize("mesh", WITH_CONTEXT)
def test_motionstone_over_context_is_that_of_one_device(motionstone: dict, mesh: str) -> None:
    """Tokens lie over `context` between the layers, heads within them."""
    one, many = motionstone["one"], motionstone[mesh]
    compare(one, many)
    for part in ("trained", "ema", "optimizer"):
        assert 1 / 8 * one["bytes"][part] <= many["bytes"][part] < 0.6 * one["bytes"][part], part
    assert many["constraints"] > 10


def compare(one: dict, many: dict) -> None:
    """The loss and the gradients of two meshes."""
    assert many["loss"] == pytest.approx(one["loss"], rel=2e-6)
    assert many["norm"] == pytest.approx(one["norm"], rel=1e-5)
    for path, values in one["grads"].items():
        np.testing.assert_allclose(many["grads"][path], values, rtol=1e-3, atol=2e-6 * one["norm"], err_msg=path)


@pytest.mark.parametrize(("mesh", "least", "most"), [(EIGHT[0], 1 / 4, 0.6), (EIGHT[1], 1 / 8, 0.25)])
def test_the_state_is_really_spread(results: dict, mesh: str, least: float, most: float) -> None:
    """Convolutions lie over fsdp, linear layers over fsdp and tensor; norms, biases and the outermost are whole."""
    one, many = results["one"]["bytes"], results[mesh]["bytes"]
    for part in ("trained", "ema", "optimizer"):
        assert least * one[part] <= many[part] < most * one[part], part
    assert many["ema"] == many["trained"]
    assert many["optimizer"] == pytest.approx(2 * many["trained"], rel=1e-3)  # two moments and two counters


@pytest.mark.parametrize("mesh", EIGHT)
def test_activations_are_laid_out_at_every_block(results: dict, mesh: str) -> None:
    """Seven blocks, forward and backward, beside the constraints of the step itself."""
    assert results[mesh]["constraints"] >= 2 * 7
