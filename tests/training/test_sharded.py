"""The step on 8 devices is the step on one, and its state is really spread."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support import SUPPORT
from tests.support.child_process import environment
from tests.support.toy import HIDDEN, WIDTH

EIGHT = ["data 2 x fsdp 2 x tensor 2", "fsdp 8"]
KERNEL, BIAS = WIDTH * HIDDEN * 4, HIDDEN * 4  # bytes


@pytest.fixture(scope="module")
def results():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, str(SUPPORT / "sharded_steps.py")]
    done = subprocess.run(command, env=environment(**flags), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_close(first, second, atol):
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_allclose(np.array(first[path]), np.array(second[path]), atol=atol, err_msg=path)


@pytest.mark.parametrize(("mesh", "accumulate"), [(EIGHT[0], 1), (EIGHT[0], 2), (EIGHT[1], 1)])
def test_loss_and_gradients_are_those_of_one_device(results, mesh, accumulate):
    one, many = results["one, accumulate 1"], results[f"{mesh}, accumulate {accumulate}"]
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert_close(many["grads"], one["grads"], atol=2e-6)  # gradients are of size 1; sums are in another order
    # AdamW divides by the gradient's size, so rounding of tiny gradients is seen at the scale of the rate (0.03).
    assert_close(many["trained"], one["trained"], atol=1e-4)


@pytest.mark.parametrize(("mesh", "ways"), [(EIGHT[0], 4), (EIGHT[1], 8)])
def test_parameters_optimiser_and_running_mean_are_spread(results, mesh, ways):
    found = results[f"{mesh}, accumulate 1"]
    arrays = 2 * KERNEL // ways + BIAS  # two kernels in `ways` parts, one bias that is whole
    counters = 2 * 4  # optax counts updates in the moments and in the schedule
    assert found["sizes"]["trained"] == [arrays, arrays]
    assert found["sizes"]["ema"] == [arrays, arrays]
    assert found["sizes"]["optimizer"] == [2 * arrays + counters] * 2
    assert found["sizes_after"] == {name: size for name, (size, _) in found["sizes"].items()}


def test_gradients_live_where_their_parameters_live(results):
    specs = results[f"{EIGHT[0]}, accumulate 1"]["grad_specs"]
    assert specs["body/kernel"] == ["fsdp", "tensor"]
    assert specs["head/kernel"] == ["tensor", "fsdp"]


def test_what_a_task_constrains_is_in_the_lowered_step(results):
    """Once going forward, once for the gradient coming back; with no mesh set it would be silently left out."""
    for mesh in EIGHT:
        assert results[f"{mesh}, accumulate 1"]["constraints"]['[{"data", "fsdp"}, {"tensor"}]'] == 2


def test_a_state_comes_back_on_another_mesh(results):
    assert results["restored"] == [True, 4]
