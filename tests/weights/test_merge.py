"""The command line on public files: a LoRA is known for one, and merged into a checkpoint of any format."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxmotion.convert import body
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import PUBLIC

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def base(tmp_path):
    (tmp_path / "unet").mkdir()
    return PUBLIC["diffusers-unet"](tmp_path / "unet")


@pytest.fixture
def factors(tmp_path):
    """A LoRA of rank 2 and alpha 6 on one layer, as Kohya's scripts write it."""
    draw = np.random.default_rng(0).normal
    tensors = {"lora_down.weight": draw(size=(2, 8)), "lora_up.weight": draw(size=(8, 2)), "alpha": np.array(6.0)}
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    file = tmp_path / "style.safetensors"
    save_file({f"lora_unet_{LAYER.replace('.', '_')}.{name}": value for name, value in tensors.items()}, file)
    return file, tensors["lora_up.weight"] @ tensors["lora_down.weight"]


def test_a_lora_is_added_to_its_layer_and_nothing_else_changes(base, factors, tmp_path):
    file, product = factors
    body(["merge", str(base), str(file), str(tmp_path / "out"), "--scale", "0.5"])
    before, after = open_tensors(base), open_tensors(tmp_path / "out")
    assert set(before) == set(after)
    for name in before:
        change = 0.5 * 6 / 2 * product if name == f"{LAYER}.weight" else 0.0
        np.testing.assert_allclose(np.asarray(after[name]), np.asarray(before[name]) + change, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "out" / "config.json").read_text() == (base / "config.json").read_text()


def test_a_lora_is_known_for_one(factors, capsys):
    body(["inspect", str(factors[0])])
    assert "a LoRA as kohya names it, 3 tensors" in capsys.readouterr().out


def test_what_is_no_checkpoint_to_merge_into_is_refused(factors, tmp_path):
    with pytest.raises(CheckpointFileError, match=r"style\.safetensors is a LoRA, which changes a network and is none"):
        body(["merge", str(factors[0]), str(factors[0]), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
