"""The shipped experiments at their published sizes, lowered and compiled for accelerators that are not here."""

from __future__ import annotations

import math

import pytest

from jaxmotion.runs.config_files import shipped_configs
from tests.support.ahead_of_time import GIBIBYTES, needs
from tests.support.full_size import ON_NVIDIA, load, lower_decoding, lower_encoding, lower_sampling, lower_step, shipped

pytestmark = pytest.mark.slow  # half a minute to lower a step, minutes to compile it

LIVEPHOTO, MOTIONSTONE, PREPARED = "livephoto:full", "motionstone:full", "motionstone:prepared"
ESTIMATORS = ["motion_estimator:full", "motion_estimator:r50"]
DEVICES = [pytest.param(name, marks=needs(name)) for name in ("A100", "H100", "TPU v5p")]
FILES = [file for file in shipped_configs() if "/" not in file]


def lowered(config: str, device: str):
    """The step on 4 TPUs, or on 8 GPUs or as many as share its batch; parameters of MotionStone are split over them."""
    experiment = load(config)
    count = 4 if device.startswith("TPU") else math.gcd(8, experiment.train.batch_size)
    sizes = {"data": 1, "fsdp": count} if config.startswith("motionstone") else {}
    return lower_step(experiment, device, count, **sizes)


@needs("A100")
@pytest.mark.parametrize("file", FILES)
def test_every_training_step_lowers_for_nvidia(file):
    for name in shipped(file):
        assert "stablehlo" in lowered(f"{file}:{name}", "A100").as_text()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [LIVEPHOTO, "livephoto:lora", MOTIONSTONE, PREPARED, *ESTIMATORS])
def test_a_training_step_compiles_and_fits(config, device):
    compiled = lowered(config, device).compile(compiler_options=None if device.startswith("TPU") else ON_NVIDIA)
    peak = compiled.memory_analysis().peak_memory_in_bytes / 2**30
    print(f"{config} on {device}: {peak:.1f} GiB")
    assert peak < 0.9 * GIBIBYTES[device]
    if config.startswith("livephoto"):  # every parameter is everywhere, so only gradients meet
        text = compiled.as_text()
        assert "all-gather" not in text
        assert "all-to-all" not in text


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [LIVEPHOTO, MOTIONSTONE])
def test_sampling_and_decoding_lower(config, device):
    experiment = load(config)
    fused = "tpu_custom_call" if device.startswith("TPU") else "__cudnn$fmha"
    assert fused in lower_sampling(experiment, device).as_text()
    assert "convolution" in lower_decoding(experiment, device).as_text()


@pytest.mark.parametrize("device", DEVICES)
def test_what_prepare_computes_compiles(device):
    options = None if device.startswith("TPU") else ON_NVIDIA
    lower_encoding(load(MOTIONSTONE), device).compile(compiler_options=options)
