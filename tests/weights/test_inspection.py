"""What is printed about a checkpoint."""

from __future__ import annotations

import io

import diffusers
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.inspection import checkpoints_in, inspect, show
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import PUBLIC, TWO_STAGES, TWO_STAGES_OF_MOTION, adapter, unet, vae


def printed(path, **options) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(inspect(path), console, **options)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_what_it_is_how_it_maps_and_what_is_left_over(tmp_path):
    model = adapter(**TWO_STAGES_OF_MOTION)
    model.save_pretrained(tmp_path)
    text = printed(tmp_path)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert "motion modules as diffusers saves them (MotionAdapter)" in text
    assert f"denoiser: {len(dict(model.named_parameters()))} arrays, {count:,} parameters" in text
    assert (
        "down_blocks.0.motion_modules.0.proj_in.weight [8, 8] -> denoiser/down_0_block_0/motion/proj_in/kernel" in text
    )
    assert "no parameters, kept beside them: 6 (" in text
    assert "nothing is left over" in text
    every = printed(tmp_path, every=True)
    assert all(name in every for name in open_tensors(tmp_path))


def test_what_cannot_be_imported_is_said(tmp_path):
    vae().save_pretrained(tmp_path)
    tensors = {name: np.asarray(array) for name, array in open_tensors(tmp_path).items()}
    del tensors["decoder.conv_out.bias"]
    save_file({**tensors, "surprise": np.zeros(1)}, tmp_path / "less.safetensors")
    text = printed(tmp_path / "less.safetensors")
    assert "cannot be imported as it is" in text
    assert "decoder.conv_out.bias" in text
    assert "surprise" in text


def test_what_no_tensor_shows_is_shown(tmp_path):
    """Scales and heads, what is predicted under which noise, and what a single file's header says."""
    unet(**TWO_STAGES).save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    text = printed(tmp_path / "unet")
    assert f"{tmp_path / 'unet' / 'config.json'} says attention_head_dim 2, norm_num_groups 4, " in text
    assert f'{tmp_path / "scheduler" / "scheduler_config.json"} says prediction_type "v_prediction", ' in text
    assert 'beta_schedule "linear", beta_start 0.0001, beta_end 0.02' in text
    tensors = {name: np.asarray(array) for name, array in open_tensors(tmp_path / "unet").items()}
    file = tmp_path / "one.safetensors"
    save_file({**tensors, "v_pred": np.zeros(0)}, file, {"modelspec.prediction_type": "v"})
    text = printed(file)
    assert f'{file} in its header says modelspec.prediction_type "v_prediction", v_pred "v_prediction"' in text
    assert "nothing is left over" in text


def test_a_folder_without_checkpoints(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(CheckpointFileError, match=r"holds no checkpoint.* It has the folders unet"):
        checkpoints_in(tmp_path)
    PUBLIC["diffusers-vae"](tmp_path / "unet")
    assert checkpoints_in(tmp_path) == [tmp_path / "unet"]


def test_a_damaged_tensor_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    PUBLIC["animatediff"](tmp_path)
    assert "nothing is left over" in printed(tmp_path / "mm.ckpt")
    assert "beside the weights, not read: epoch: 3; global_step: 20" in printed(tmp_path / "mm.ckpt")
    name = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"
    numbers = torch.load(tmp_path / "mm.ckpt")["state_dict"][name].numpy().tobytes()
    content = bytearray((tmp_path / "mm.ckpt").read_bytes())
    content[content.index(numbers)] ^= 1
    (tmp_path / "mm.ckpt").write_bytes(content)
    text = printed(tmp_path / "mm.ckpt")
    assert "nothing is left over" not in text
    assert f"cannot be imported as it is: {tmp_path}/mm.ckpt is damaged at {name}" in text
