"""A training step on 8 devices is the step on one, and the parameters are really spread."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import SUPPORT

LIVEPHOTO = ["data 2 x fsdp 2 x tensor 2", "fsdp 8"]
SHORT, LONG = "fsdp 2 x context 2 x tensor 2", "data 2 x context 4"
WITH_CONTEXT = [SHORT, pytest.param(LONG, marks=pytest.mark.slow)]


@functools.cache
def stepped(system: str, *meshes: str) -> dict:
    """The output of the script on these meshes. It runs once, so it is not optimised."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    command = [sys.executable, str(SUPPORT / "sharded_step.py"), system, *meshes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", LIVEPHOTO)
def test_loss_and_gradients_are_those_of_one_device(mesh: str) -> None:
    """Sums over channels and rows are taken in another order; float32 then agrees to about 1e-6 of the largest."""
    results = stepped("livephoto", "one", *LIVEPHOTO)
    compare(results["one"], results[mesh])


@pytest.mark.parametrize("mesh", WITH_CONTEXT)
def test_motionstone_over_context_is_that_of_one_device(mesh: str) -> None:
    """Tokens lie over `context` between the layers, heads within them."""
    results = stepped("motionstone", "one", mesh)
    one, many = results["one"], results[mesh]
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


@pytest.mark.slow
def test_where_only_the_batch_is_split_nothing_but_sums_moves() -> None:
    """Gradients and losses are summed; no device needs the clips, latents or activations of another."""
    assert stepped("livephoto on an autoencoder", "data 8")["data 8"]["collectives"] == ["all-reduce"]


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "least", "most"), [(LIVEPHOTO[0], 1 / 4, 0.6), (LIVEPHOTO[1], 1 / 8, 0.25)])
def test_the_state_is_really_spread(mesh: str, least: float, most: float) -> None:
    """Convolutions lie over fsdp, linear layers over fsdp and tensor; norms, biases and the outermost are whole."""
    results = stepped("livephoto", "one", *LIVEPHOTO)
    one, many = results["one"]["bytes"], results[mesh]["bytes"]
    for part in ("trained", "ema", "optimizer"):
        assert least * one[part] <= many[part] < most * one[part], part
    assert many["ema"] == many["trained"]
    assert many["optimizer"] == pytest.approx(2 * many["trained"], rel=1e-3)  # two moments and two counters


@pytest.mark.slow
@pytest.mark.parametrize("mesh", LIVEPHOTO)
def test_activations_are_laid_out_at_every_block(mesh: str) -> None:
    """Seven blocks, forward and backward, beside the constraints of the step itself."""
    assert stepped("livephoto", "one", *LIVEPHOTO)[mesh]["constraints"] >= 2 * 7
