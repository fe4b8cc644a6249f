"""`inspect` on LoRA and other adapters: it promises what merge then does, and names everything else as what it is."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxmotion.convert import body
from jaxmotion.weights.lora_files import open_lora
from jaxmotion.weights.lora_merge import merge_files
from tests.support.public import TWO_STAGES, cogvideox, unet

COG = "transformer.transformer_blocks.0.attn1.to_q"
SD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def pair(
    layer: str, down: tuple[int, ...] = (2, 8), up: tuple[int, ...] = (8, 2), names=("lora_down", "lora_up")
) -> dict:
    return {f"{layer}.{name}.weight": np.ones(shape) for name, shape in zip(names, (down, up), strict=True)}


def peft(layer: str, *shapes: Shape) -> dict:
    return pair(layer, *shapes, names=("lora_A", "lora_B"))


def write(folder: Path, tensors: dict, metadata: dict | None = None) -> Path:
    save_file({n: np.asarray(t, np.float32) for n, t in tensors.items()}, folder / "adapter.safetensors", metadata)
    return folder / "adapter.safetensors"


def inspect(path: Path) -> tuple[int, str]:
    """The exit code and what is printed, on one line."""
    text, code = io.StringIO(), 0
    with redirect_stdout(text):
        try:
            body(["inspect", str(path)])
        except SystemExit as error:
            code = int(str(error.code))
    return code, " ".join(text.getvalue().split())


READ = {
    "kohya": ({**pair(SD), f"{SD}.alpha": 1.0, **pair(TEXT)}, "1 layers of the U-Net of Stable Diffusion 1.5"),
    "latent diffusion": (pair("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"), "1 layers of the U-Net"),
    "peft": (peft(COG), "1 layers of CogVideoX's transformer; rank 2, each product times 1"),
    "bare peft": (peft("base_model.model.down_blocks.0.resnets.0.conv1", (2, 8, 3, 3), (8, 2, 1, 1)), "the U-Net"),
    "processors": (
        pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora", names=("down", "up")),
        "1 layers of the U-Net",
    ),
    "motion": (
        pair(
            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora",
            names=("down", "up"),
        ),
        "1 layers of the motion modules of AnimateDiff",
    ),
    "T5": (pair("lora_te_encoder_block_0_layer_0_SelfAttention_q"), "1 layers of the encoder of T5"),
}


@pytest.mark.parametrize("kind", READ)
def test_a_lora_that_can_be_merged_is_promised(kind: str, tmp_path: Path) -> None:
    tensors, said = READ[kind]
    code, text = inspect(write(tmp_path, tensors))
    assert code == 0
    assert said in text
    assert "merge and --pretrained.lora.source take it" in text


DEEPER = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
CROSS = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
NOT_READ = {
    "DoRA of Kohya": ({**pair(SD), f"{SD}.dora_scale": np.ones(8)}, "DoRA is not read here"),
    "DoRA of PEFT": ({**peft(COG), f"{COG}.lora_magnitude_vector": np.ones(8)}, "DoRA is not read here"),
    "LoHa": ({f"{SD}.hada_w{i}_{x}": np.ones((2, 2)) for i in (1, 2) for x in "ab"}, "LoHa is not read here"),
    "LoKr": ({f"{SD}.lokr_w1": np.ones((2, 2)), f"{SD}.lokr_w2_a": np.ones((2, 2))}, "LoKr is not read here"),
    "Tucker": ({**pair(SD), f"{SD}.lora_mid.weight": np.ones((2, 2, 3, 3))}, "LoCon in Tucker form"),
    "OFT": ({f"{SD}.oft_blocks": np.ones((2, 2, 2))}, "OFT is not read here"),
    "GLoRA": ({f"{SD}.{x}.weight": np.ones((2, 2)) for x in ("a1", "a2", "b1", "b2")}, "GLoRA is not read here"),
    "differences": ({**pair(SD), f"{SD}.diff_b": np.ones(8)}, "a whole difference beside the LoRA"),
    "a model in training": ({**peft(COG), f"{COG}.base_layer.weight": np.ones((8, 8))}, "save the adapter alone"),
    "SAT": (
        {f"model.diffusion_model.transformer.layers.0.attention.dense.matrix_{x}.0": np.ones((2, 2)) for x in "AB"},
        "write it anew with tools/export_sat_lora_weight.py",
    ),
    "SDXL by its second text encoder": (pair("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "for SDXL"),
    "SDXL by its depth": (pair(DEEPER), "for SDXL"),
    "SDXL by its text": (peft(CROSS, (2, 2048), (8, 2)), "for SDXL"),
    "SD 2 by its text": (peft(CROSS, (2, 1024), (8, 2)), "for Stable Diffusion 2"),
    "FLUX": (peft("transformer.single_transformer_blocks.0.attn.to_q"), "for FLUX or HunyuanVideo"),
    "SD 3": (peft("transformer.transformer_blocks.0.attn.add_q_proj"), "for Stable Diffusion 3"),
    "Wan": (pair("diffusion_model.blocks.0.self_attn.q"), "for Wan"),
    "LTX": ({**peft(COG), **peft("transformer.transformer_blocks.0.attn2.to_q")}, "for LTX-Video"),
    "another network": (peft("model.layers.0.self_attn.q_proj"), "No network that is known here has a layer"),
    "one factor": ({f"{COG}.lora_A.weight": np.ones((2, 8))}, f"The layer {COG} has no up"),
    "no common rank": (peft(COG, (2, 8), (8, 3)), "which have no rank in common"),
    "not finite": ({**peft(COG), f"{COG}.alpha": np.nan}, "has values that are not finite"),
    "pissa": (peft(COG), "has changed the frozen weights as well"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A U-Net and a transformer, in which all layers of the adapters have their place."""
    folders = [tmp_path_factory.mktemp("unet"), tmp_path_factory.mktemp("cogvideox")]
    unet(**TWO_STAGES).save_pretrained(folders[0])
    cogvideox(use_rotary_positional_embeddings=True).save_pretrained(folders[1])
    return folders


@pytest.mark.parametrize("kind", NOT_READ)
def test_an_adapter_that_is_not_read_is_named_and_not_promised(kind: str, bases: list[Path], tmp_path: Path) -> None:
    tensors, said = NOT_READ[kind]
    header = {"lora_adapter_metadata": '{"transformer.init_lora_weights": "pissa"}'} if kind == "pissa" else None
    path = write(tmp_path, tensors, header)
    code, text = inspect(path)
    assert code == 2
    assert said in text
    assert "take it" not in text
    for base in bases:  # and it is not
        with pytest.raises(ValueError):  # noqa: PT011  each says its own
            merge_files(base, open_lora(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
