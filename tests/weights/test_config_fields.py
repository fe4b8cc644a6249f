"""What lies beside a checkpoint is compared with the experiment, in files that diffusers and transformers wrote."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")

import diffusers

from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, SDEDPMSolverPP
from jaxmotion.diffusion.schedule import Schedule, linear, scaled_linear, snr_shift, zero_terminal_snr
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.models import autoencoder3d, t5
from jaxmotion.models.autoencoder import KLSizes
from jaxmotion.models.autoencoder_tiny import AutoencoderTinySizes
from jaxmotion.models.clip import CLIPTextSizes
from jaxmotion.models.cogvideox import I2V_5B_V1_5, T2V_5B, CogVideoXSizes
from jaxmotion.models.dinov2 import DINOv2Sizes
from jaxmotion.models.unet import UNetSizes
from jaxmotion.systems.lora import PretrainedLoRA
from jaxmotion.weights import formats, native_files
from jaxmotion.weights.config_fields import find_differences
from jaxmotion.weights.diffusers_scheduler import scheduler_of
from jaxmotion.weights.preview_decoder import TinyDecoder
from jaxmotion.weights.tables import process as tables
from jaxmotion.weights.tables.autoencoder3d import PICTURES
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors
from tests.support.public import PUBLIC

UNET = UNetSizes(heads=2, groups=4)
COGVIDEOX = CogVideoXSizes(heads=2, head_features=16, text_length=5, grid=(2, 3, 2))
CLIPS = SimpleNamespace(frames=32, size=(256, 256))
CASES = {
    "diffusers-unet": (
        "denoiser",
        UNET,
        {"attention_head_dim": 4, "num_attention_heads": [1, 2, 4, 4], "norm_num_groups": 8, "act_fn": "gelu"},
    ),
    "diffusers-unet-motion": ("denoiser", UNET, {"num_attention_heads": 1, "motion_num_attention_heads": 4}),
    "diffusers-motion": ("denoiser", UNET, {"motion_num_attention_heads": 8, "motion_norm_num_groups": 2}),
    "diffusers-vae": (
        "codec",
        KLSizes(groups=4),
        {"scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": [0.0] * 4, "norm_num_groups": 2},
    ),
    "cogvideox-vae": (
        "codec",
        autoencoder3d.Autoencoder3DSizes(groups=4, scaling=1.15258426),
        {"scaling_factor": 0.7, "latents_std": [2.0] * 4, "norm_num_groups": 2, "temporal_compression_ratio": 8},
    ),
    "cogvideox": (
        "denoiser",
        COGVIDEOX,
        {
            "sample_width": 90,
            "sample_height": 60,
            "use_rotary_positional_embeddings": False,
            "use_learned_positional_embeddings": False,
            "attention_head_dim": 32,
            "spatial_interpolation_scale": 1.0,
        },
    ),
    "cogvideox-1.5": (
        "denoiser",
        dataclasses.replace(COGVIDEOX, patch=(2, 2), positions="rotary_grid"),
        {"patch_size_t": None, "use_learned_positional_embeddings": True, "activation_fn": "gelu"},
    ),
    "clip-text": (
        "text_encoder",
        CLIPTextSizes(heads=2),
        {"hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-6, "eos_token_id": 98},
    ),
    "t5": (
        "text_encoder",
        t5.T5Sizes(),
        {"relative_attention_max_distance": 64, "feed_forward_proj": "relu", "eos_token_id": 3, "pad_token_id": 2},
    ),
    "diffusers-vae-tiny": ("codec", AutoencoderTinySizes(features=8), {"scaling_factor": 0.5, "act_fn": "silu"}),
    "dinov2": (
        "content_encoder",
        DINOv2Sizes(heads=2),
        {"num_attention_heads": 4, "hidden_act": "relu", "layer_norm_eps": 1e-5},
    ),
}
"""By format: its part, a value of ours that a file of `tests/support/public.py` agrees with, and what would not."""


def differences(path, part: str, *values: object):
    checkpoint = open_tensors(path)
    kind = formats.detect(checkpoint)
    found = find_differences(checkpoint, kind.configs[part], {f"system.{i}": each for i, each in enumerate(values)})
    return {each.field: each for each in found}


def change(file, **fields) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **fields}))


@pytest.mark.parametrize("name", CASES)
def test_every_network_is_compared(name, tmp_path):
    part, sizes, others = CASES[name]
    path = PUBLIC[name](tmp_path)
    assert differences(path, part, sizes, CLIPS) == {}
    original = (tmp_path / "config.json").read_text()
    for field, value in others.items():
        change(tmp_path / "config.json", **{field: value})
        (found,) = differences(path, part, sizes, CLIPS).values()
        assert found.decides or field == "eos_token_id"
        if field == "num_attention_heads" and name == "diffusers-unet":
            field = "attention_head_dim"
        assert found.field == field
        assert found.theirs == (1 if field == "patch_size_t" else value)
        assert f"{tmp_path / 'config.json'} says {field} " in str(found)
        (tmp_path / "config.json").write_text(original)


def test_what_a_file_leaves_out_is_the_default_of_its_class(tmp_path):
    """Stable Diffusion 1.5's own vae/config.json has no scaling_factor, and old U-Nets no norm_num_groups."""
    path = PUBLIC["diffusers-vae"](tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in values.items() if key not in ("scaling_factor", "norm_num_groups")})
    )
    assert differences(path, "codec", KLSizes(groups=4)).keys() == {"norm_num_groups"}
    assert differences(path, "codec", KLSizes(groups=32, scaling=0.13025))["scaling_factor"].theirs == 0.18215


def test_longer_clips_than_motion_modules_have_seen_only_differ(tmp_path):
    PUBLIC["diffusers-motion"](tmp_path)
    (found,) = differences(tmp_path, "denoiser", UNET, SimpleNamespace(frames=33, size=(8, 8))).values()
    assert (found.field, found.theirs, found.ours, found.decides) == ("motion_max_seq_length", 32, 33, False)


def test_the_places_of_clips_only_matter_where_they_are_fitted(tmp_path):
    PUBLIC["cogvideox"](tmp_path)
    change(tmp_path / "config.json", sample_width=9, use_learned_positional_embeddings=False)
    fitted = dataclasses.replace(COGVIDEOX, positions="rotary")
    assert differences(tmp_path, "denoiser", fitted).keys() == {"sample_width"}
    as_it_is = dataclasses.replace(COGVIDEOX, positions="rotary_grid")
    assert differences(tmp_path, "denoiser", as_it_is) == {}
    assert T2V_5B.positions == "rotary"
    assert I2V_5B_V1_5.positions == "rotary_grid"


def test_a_picture_scaled_otherwise_only_differs(tmp_path):
    PUBLIC["cogvideox-vae"](tmp_path)
    checkpoint = open_tensors(tmp_path)
    assert find_differences(checkpoint, (PICTURES,), {"image": SimpleNamespace(rescale=1.0)}) == []
    (found,) = find_differences(checkpoint, (PICTURES,), {"image": SimpleNamespace(rescale=1 / 0.7**2)})
    assert (found.field, found.theirs, found.ours, found.decides) == ("invert_scale_latents", False, True, False)


SCHEDULES = {
    "Stable Diffusion": (scaled_linear(), diffusers.PNDMScheduler, {"beta_start": 0.00085, "beta_end": 0.012}),
    "AnimateDiff": (
        linear(0.00085, 0.012),
        diffusers.DDIMScheduler,
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"},
    ),
    "CogVideoX-2B": (zero_terminal_snr(snr_shift(scaled_linear(), 3.0)), diffusers.CogVideoXDPMScheduler, {}),
    "DDPM": (linear(), diffusers.EulerDiscreteScheduler, {}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noise_is_that_of_the_scheduler(name, tmp_path):
    """Where nothing differs, diffusers' own table is ours; every other schedule differs in something."""
    ours, scheduler, arguments = SCHEDULES[name]
    if ours.betas == "scaled_linear":
        arguments = {**arguments, "beta_schedule": "scaled_linear"}
    if ours.zero_terminal_snr:
        arguments = {**arguments, "rescale_betas_zero_snr": True}
    folder = pipeline(tmp_path, scheduler(prediction_type="v_prediction", **arguments))
    assert noise(folder, Process(ours, "v")) == {}
    theirs = scheduler.from_pretrained(tmp_path / "scheduler").alphas_cumprod
    if not ours.zero_terminal_snr:
        assert np.abs(theirs.numpy() - ours.alpha_bar).max() < 1e-5
    for other in {each for each, *_ in SCHEDULES.values()} - {ours}:
        found = noise(folder, Process(other, "v"))
        assert found
        assert not any(each.decides for each in found.values())


def pipeline(folder, scheduler):
    """A U-Net with a scheduler beside it."""
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "unet").mkdir()
    return folder


def noise(folder, *values: object):
    beside = Checkpoint(folder / "unet", [folder / "unet" / "model.safetensors"], {}, {})
    found = find_differences(beside, tables.PROCESS, {f"system.{i}": each for i, each in enumerate(values)})
    return {each.field: each for each in found}


def test_every_field_of_the_noise_is_named(tmp_path):
    folder = pipeline(tmp_path, diffusers.CogVideoXDDIMScheduler(snr_shift_scale=2.0, rescale_betas_zero_snr=True))
    found = noise(folder, Process(Schedule("linear", 0.0001, 0.02, 500)))
    expected = {
        "beta_schedule": ("scaled_linear", "linear", "system.0.schedule.betas"),
        "beta_start": (0.00085, 0.0001, "system.0.schedule.beta_start"),
        "beta_end": (0.012, 0.02, "system.0.schedule.beta_end"),
        "rescale_betas_zero_snr": (True, False, "system.0.schedule.zero_terminal_snr"),
        "snr_shift_scale": (2.0, 1.0, "system.0.schedule.snr_shift"),
        "num_train_timesteps": (1000, 500, "system.0.schedule.steps"),
    }
    assert {name: (each.theirs, each.ours, each.flag) for name, each in found.items()} == expected
    assert [name for name, each in found.items() if each.decides] == ["num_train_timesteps"]


@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [
        (diffusers.DDIMScheduler(prediction_type="v_prediction"), "v_prediction"),
        (diffusers.DPMSolverMultistepScheduler(prediction_type="sample"), "sample"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow_prediction"),
        (diffusers.EDMEulerScheduler(), "epsilon of EDM"),
    ],
)
def test_what_is_predicted_decides(scheduler, prediction, tmp_path):
    found = noise(pipeline(tmp_path, scheduler), Process(linear()))["prediction_type"]
    assert (found.theirs, found.ours, found.decides) == (prediction, "epsilon", True)
    assert found.flag == "system.0.prediction"


def test_spacing_differs_only_where_it_is_said(tmp_path):
    folder = pipeline(tmp_path, diffusers.DDIMScheduler(timestep_spacing="trailing", steps_offset=1))
    found = noise(folder, DDIM(10, spacing="leading", steps_offset=0))
    assert {name: (each.theirs, each.ours) for name, each in found.items()} == {
        "timestep_spacing": ("trailing", "leading"),
        "steps_offset": (1, 0),
    }
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    assert noise(folder, DDIM(10)) == {}


@pytest.mark.parametrize("prediction", ["v", "eps", "z0"])
@pytest.mark.parametrize("shift", [1.0, 6.0])
def test_our_own_exports_say_what_they_were(prediction, shift, tmp_path):
    process = Process(snr_shift(linear(0.00085, 0.012), shift), prediction)
    for sampler in (DDIM(10), DDIM(10, eta=1.0), SDEDPMSolverPP(10)):
        name, arguments = scheduler_of(process, sampler)
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        (tmp_path / "unet").mkdir(exist_ok=True)
        config = {"_class_name": name, **arguments}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        assert noise(tmp_path, process, sampler) == {}


MARKS = {
    "v_pred": ({"v_pred": np.zeros(0, np.float32)}, {}, "v_prediction"),
    "modelspec.prediction_type": ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
    "ss_v_parameterization": ({}, {"ss_v_parameterization": "True"}, "v_prediction"),
}


def single_file(folder, marks, metadata):
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": np.zeros((8, 4, 3, 3), np.float32),
        "model.diffusion_model.input_blocks.0.0.bias": np.zeros(8, np.float32),
    }
    save_file({**tensors, **marks}, folder / "model.safetensors", metadata)
    return folder / "model.safetensors"


@pytest.mark.parametrize("field", MARKS)
def test_a_single_file_says_what_it_predicts(field, tmp_path):
    marks, metadata, value = MARKS[field]
    file = single_file(tmp_path, marks, metadata)
    found = differences(file, "denoiser", Process(linear()))[field]
    assert (found.theirs, found.ours, found.decides) == (value, "epsilon", True)
    assert str(file) in str(found)
    assert differences(file, "denoiser", Process(linear(), "v")) == {}
    plain = single_file(tmp_path, {}, {"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "None"})
    assert differences(plain, "denoiser", Process(linear())) == {}


def test_zero_terminal_snr_and_the_yaml_beside_a_file(tmp_path):
    file = single_file(tmp_path, {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}, {})
    (tmp_path / "model.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert differences(file, "denoiser", Process(zero_terminal_snr(linear()), "v")) == {}
    (found,) = differences(file, "denoiser", Process(linear(), "v")).values()
    assert (found.field, found.theirs, found.ours, found.decides) == ("ztsnr", True, False, False)
    assert differences(file, "denoiser", Process(linear())).keys() == {"v_pred", "parameterization", "ztsnr"}


def test_a_pytorch_file_may_have_marks_that_are_no_tensors(tmp_path):
    weight = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}
    for marks, fields in (
        ({"v_pred": True}, {"v_pred"}),
        ({"v_pred": torch.zeros(0)}, {"v_pred"}),
        ({"v_pred": False}, set()),
    ):
        torch.save({"state_dict": {**weight, **marks}}, tmp_path / "model.ckpt")
        assert differences(tmp_path / "model.ckpt", "denoiser", Process(linear())).keys() == fields


def test_marks_are_no_parameters_in_any_format(tmp_path):
    """They are kept beside what is imported, which says the same afterwards, and go out again."""
    PUBLIC["diffusers-vae"](tmp_path / "vae")
    (tmp_path / "vae").rename(tmp_path / "unet")
    tensors = {name: np.asarray(array) for name, array in open_tensors(tmp_path / "unet").items()}
    save_file({**tensors, "v_pred": np.zeros(0)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    change(tmp_path / "unet" / "config.json", scaling_factor=0.5)
    checkpoint = open_tensors(tmp_path / "unet")
    kind = formats.detect(checkpoint)
    native_files.import_checkpoint(checkpoint, kind, tmp_path / "ours")
    opened, kind = native_files.open_any(tmp_path / "ours")
    assert kind is not None
    assert "v_pred" in opened
    (found,) = find_differences(opened, kind.configs["codec"], {"codec": KLSizes(groups=4)})
    assert (found.field, found.theirs) == ("scaling_factor", 0.5)
    native_files.restore(tmp_path / "ours", tmp_path / "back")
    assert "v_pred" in open_tensors(tmp_path / "back")


def test_a_preview_of_another_scale_is_refused(tmp_path):
    PUBLIC["diffusers-vae-tiny"](tmp_path)
    TinyDecoder(tmp_path)
    change(tmp_path / "config.json", scaling_factor=0.5)
    with pytest.raises(CheckpointFileError, match=r"config\.json says scaling_factor 0\.5; read here is 1\.0"):
        TinyDecoder(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    PUBLIC["diffusers-vae"](tmp_path)
    (tmp_path / "config.json").write_text('{"scaling_factor": 0.')
    with pytest.raises(CheckpointFileError, match=r"config\.json is no readable config of a network: .*Fetch it again"):
        differences(tmp_path, "codec", KLSizes())
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointFileError, match=r"config\.json is no"):
        differences(tmp_path, "codec", KLSizes())


def test_a_lora_says_what_it_was_trained_on(tmp_path):
    save_file({"x.lora_down.weight": np.zeros((1, 1))}, tmp_path / "l.safetensors", {"ss_v_parameterization": "True"})
    (found,) = PretrainedLoRA(str(tmp_path / "l.safetensors")).differences({"system.process": Process(linear())})
    assert (found.field, found.theirs, found.ours) == ("ss_v_parameterization", "v_prediction", "epsilon")
