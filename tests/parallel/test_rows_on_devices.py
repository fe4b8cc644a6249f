"""What takes the rows of a batch a few at a time leaves them on the devices that have them."""

import json
import subprocess
import sys

import pytest

from tests.support import SUPPORT
from tests.support.child_process import environment


@pytest.fixture(scope="module")
def found() -> dict:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"}
    command = [sys.executable, str(SUPPORT / "rows_on_devices.py")]
    done = subprocess.run(command, env=environment(**flags), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["encode", "decode", "ssim", "feature_difference", "xla_chunked", "splash"])
def test_no_row_leaves_its_device(found: dict, name: str) -> None:
    assert found[name]["collectives"] == []


def test_the_devices_compute_what_one_computes(found: dict) -> None:
    """Also where they cannot share rows or heads evenly. float32 sums are taken in another order."""
    assert {name: case["difference"] for name, case in found.items() if case["difference"] > 2e-6} == {}


def test_a_plain_map_would_gather_them(found: dict) -> None:
    """The count above can be other than nothing."""
    assert found["lax.map"]["collectives"]
