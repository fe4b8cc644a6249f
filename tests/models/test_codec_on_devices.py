"""Devices share the clips that CogVideoX's autoencoder encodes, also where it takes them one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import SUPPORT

pytestmark = pytest.mark.slow  # a process of its own that compiles for minutes


def test_every_device_encodes_its_own_clips(root: Path) -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(root)}
    script = str(SUPPORT / "codec_on_devices.py")
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, **flags}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["clips_in_a_convolution"] == [1]  # of the 8, two on each device, one after the other
    assert said["trips"] == [2]
    assert said["moved_activations"] == 0
    assert said["share_of_the_weights"] < 0.8  # kernels are split over fsdp 2
    assert said["difference"] < 1e-5  # float32 sums in another order
