"""Motion modules for AnimateDiff's nodes."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxmotion.parallel.sharding import paths
from jaxmotion.runs.experiment import load
from jaxmotion.systems.livephoto.export_comfy import export_comfy
from jaxmotion.weights.formats import detect, read
from jaxmotion.weights.rules import LazyArray
from jaxmotion.weights.tensor_files import open_tensors

torch = pytest.importorskip("torch")

from diffusers import MotionAdapter


@pytest.fixture(scope="module")
def system(root):
    return load(f"{root}/configs/livephoto.py:tiny").system


@pytest.fixture(scope="module")
def params(system):
    shapes = paths(jax.eval_shape(system.build().init, jax.random.key(0)))
    draw = np.random.default_rng(0).normal
    return {path: draw(size=array.shape).astype(np.float32) for path, array in shapes.items()}


def test_the_file_is_one_of_animatediff(system, params, tmp_path):
    files = export_comfy(system, params, tmp_path / "out", meta={"some": "settings"})
    assert [file.name for file in files] == ["README.md", "jaxmotion_config.json", "motion_module.safetensors"]
    checkpoint = open_tensors(files[-1])
    assert detect(checkpoint).name == "animatediff"
    back = read(checkpoint, detect(checkpoint))
    motion = {path for path in params if "/motion/" in path}
    assert back.keys() == motion
    assert all(np.array_equal(np.asarray(back[path]), params[path]) for path in motion)


def test_the_card_says_where_every_module_makes_noise(system, params, tmp_path):
    """And what the nodes cannot do with these."""
    card, *_ = export_comfy(system, params, tmp_path / "out", meta={"pretrained": {}})
    text = " ".join(card.read_text().split())
    assert "ComfyUI 0.25.0 makes noise of every AnimateDiff clip, whatever the module" in text
    assert "The nodes know neither the photo nor the motion level" in text
    assert text.startswith("--- pipeline_tag: image-to-video")
    assert "these modules were trained with norms over the whole clip" in text
    framewise = dataclasses.replace(system, motion_norm="frame")
    card, *_ = export_comfy(framewise, params, tmp_path / "framewise", meta={"pretrained": {}})
    assert "norms over" not in card.read_text()


def test_positions_are_those_that_diffusers_keeps(system, params, tmp_path):
    """The nodes read the longest clip, and what they add, off the tables."""
    sizes = system.unet
    theirs = MotionAdapter(
        block_out_channels=sizes.features,
        motion_layers_per_block=sizes.blocks_per_stage,
        motion_num_attention_heads=sizes.heads,
        motion_norm_num_groups=sizes.groups,
        motion_max_seq_length=32,
        use_motion_mid_block=False,
    ).state_dict()
    *_, file = export_comfy(system, params, tmp_path / "out", meta={})
    tables = {name: np.asarray(array) for name, array in open_tensors(file).items() if name.endswith("pos_encoder.pe")}
    place = "down_blocks.0.motion_modules.0.{}transformer_blocks.0.{}"
    expected = theirs[place.format("", "pos_embed.pe")].numpy()
    for number in (0, 1):
        table = tables[place.format("temporal_transformer.", f"attention_blocks.{number}.pos_encoder.pe")]
        assert table.shape == expected.shape
        np.testing.assert_allclose(table, expected, atol=1e-5)  # sines of float32 angles up to 32
    blocks = 2 * (sizes.blocks_per_stage * 2 + 1) * len(sizes.features)
    assert len(tables) == blocks


def test_without_motion_modules_there_is_nothing_to_give(system, tmp_path):
    some = {"denoiser/conv_in/kernel": LazyArray((3, 3, 4, 8), np.dtype(np.float32), lambda: np.zeros((3, 3, 4, 8)))}
    with pytest.raises(ValueError, match="without motion modules has nothing"):
        export_comfy(system, some, tmp_path / "out", meta={})
    assert not (tmp_path / "out").exists()
