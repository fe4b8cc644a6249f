"""Checkpoints that are not read are called by what they are, and what would do is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights import foreign
from jaxmotion.weights.file_kinds import refuse_other_kinds
from jaxmotion.weights.formats import detect, read
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import TWO_STAGES, adapter, tiny_vae, unet

torch = pytest.importorskip("torch")

import diffusers
import transformers

TINY = {"sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 16}
T5 = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}


def unet2d(**changes):
    return diffusers.UNet2DConditionModel(**{**TINY, **TWO_STAGES, "attention_head_dim": 2, **changes})


def motion_lora() -> dict[str, torch.Tensor]:
    place = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor"
    return {f"{place}.to_q_lora.{side}.weight": torch.zeros(4, 4) for side in ("down", "up")}


OTHERS = {
    "Stable Diffusion XL": lambda: unet2d(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24
    ),
    "Stable Diffusion 2": lambda: unet2d(use_linear_projection=True),
    "a ControlNet": lambda: diffusers.ControlNetModel.from_unet(
        unet2d(), conditioning_channels=3, load_weights_from_unet=False
    ),
    "Stable Video Diffusion": lambda: diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_attention_heads=2,
        cross_attention_dim=8,
    ),
    "16 latent channels": lambda: diffusers.AutoencoderKL(
        latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, norm_num_groups=8, block_out_channels=(8,)
    ),
    "a codebook": lambda: diffusers.VQModel(norm_num_groups=4, block_out_channels=(8,)),
    "T5 1.0": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5, feed_forward_proj="relu")),
    "UMT5": lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**T5)),
    "FLUX": lambda: diffusers.FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, axes_dims_rope=(2, 2, 4)
    ),
    "a T2I-Adapter": lambda: diffusers.T2IAdapter(channels=(8, 8), num_res_blocks=1, downscale_factor=2),
}
"""As their own classes hold them."""
NAMED = {
    "a motion LoRA of AnimateDiff": motion_lora,
    "a LoRA": lambda: {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 2)},
    "an adapter (LoHa": lambda: {"lora_unet_x.hada_w1_a": torch.zeros(2)},
    "an IP-Adapter": lambda: {"image_proj.proj.weight": torch.zeros(2), "ip_adapter.1.to_k_ip.weight": torch.zeros(2)},
    "a textual inversion": lambda: {"emb_params": torch.zeros(2, 768)},
    "of Stable Diffusion XL": lambda: {"conditioner.embedders.0.transformer.x": torch.zeros(2)},
    "of Stable Diffusion 2": lambda: {"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": torch.zeros(2)},
    "CogVideoX in the names of SAT": lambda: {
        "model.diffusion_model.transformer.layers.0.attention.query_key_value.weight": torch.zeros(2, 2)
    },
    "of Stable Diffusion 2, which": lambda: {
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(2, 2)
    },
    "of LTX-Video": lambda: {"model.diffusion_model.patchify_proj.weight": torch.zeros(2, 2)},
    "of Wan": lambda: {"blocks.0.cross_attn.k.weight": torch.zeros(2, 2)},
    "of Hotshot-XL": lambda: {"down_blocks.0.temporal_attentions.0.proj_in.weight": torch.zeros(2, 2)},
    "quantised": lambda: {
        "encoder.weight": torch.zeros(2),
        "encoder.weight.quant_state.bitsandbytes__nf4": torch.zeros(2),
    },
}
"""As their files name them."""


@pytest.mark.parametrize("what", [*OTHERS, *NAMED])
def test_what_is_not_read_is_called_by_its_name(what, tmp_path):
    with torch.device("meta" if what in OTHERS else "cpu"):
        tensors = OTHERS[what]().state_dict() if what in OTHERS else NAMED[what]()
    said = foreign.describe(tensors)
    assert what in said
    assert "; " in said  # and what would do


def test_it_is_said_wherever_a_checkpoint_is_read(tmp_path):
    save_torch_file(motion_lora(), tmp_path / "zoom.safetensors")
    with pytest.raises(
        CheckpointFileError, match=r"zoom\.safetensors is a motion LoRA .*convert merge .*lora\.source\.$"
    ):
        detect(open_tensors(tmp_path / "zoom.safetensors"))


SIZES = {
    "denoiser/conv_in/kernel": np.zeros((3, 3, 4, 8)),
    "denoiser/conv_condition/kernel": np.zeros((3, 3, 6, 8)),
    "denoiser/down_0_block_0/motion/proj_in/kernel": np.zeros((8, 8)),
    "denoiser/down_1_block_0/motion/proj_in/kernel": np.zeros((8, 8)),
    "codec/moments/kernel": np.zeros((8, 8)),
}
MISMATCHES = {
    "another network than the codec of the experiment": tiny_vae,
    "are for 3 stages, the experiment has 2: .* those for SDXL 3": lambda: adapter(
        block_out_channels=(8, 8, 8), motion_layers_per_block=1
    ),
    "an inpainting U-Net.* takes 4 channels": lambda: unet(**TWO_STAGES, in_channels=9),
    "a U-Net of InstructPix2Pix": lambda: unet(**TWO_STAGES, in_channels=8),
    "has 16 features, that of the experiment 8": lambda: unet(**{**TWO_STAGES, "block_out_channels": (16, 16)}),
    "motion module in the middle, as AnimateDiff v2 has: set motion_in_middle": lambda: adapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, use_motion_mid_block=True
    ),
}


@pytest.mark.parametrize("said", MISMATCHES)
def test_what_does_not_fit_is_explained(said, tmp_path):
    MISMATCHES[said]().save_pretrained(tmp_path)
    checkpoint = open_tensors(tmp_path)
    with pytest.raises(ValueError, match=said):
        read(checkpoint, detect(checkpoint), SIZES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\xef\xbb\xbf\n <html>", "is a web page"),
        (b'{"error":"Invalid username or password."}', r"is text, not a checkpoint \(\{\"error\""),
        (b"Access to model someone/model is restricted.", r"is text.*\(Access to model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file of quantised weights"),
        (b"\x1f\x8b\x08\x00", "a gzip archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array without a name"),
        (bytes(600), "begins with 512 zeros"),
    ],
)
def test_files_of_other_kinds_are_told_by_their_beginning(content, said, tmp_path):
    for name in ("model.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointFileError, match=said):
            open_tensors(tmp_path / name)
    index = {"metadata": {}, "weight_map": {"w": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointFileError, match=rf"model\.safetensors .*{said}|{said}"):
        open_tensors(tmp_path / "model.safetensors.index.json")
    if not content.startswith(b"{"):
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(CheckpointFileError, match=r"index\.json"):
            open_tensors(tmp_path / "model.safetensors.index.json")


def test_a_safetensors_file_is_none_of_them_whatever_its_header_is_long(tmp_path):
    """The first byte is the length of the header, which may be that of `{`, `<`, a pickle or a letter."""
    for first in b"{[<P\x80\x1fBG7R%L\x89 ":
        text = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
        header = text.ljust(first if first >= len(text) else first + 256).encode()
        start = len(header).to_bytes(8, "little") + header
        refuse_other_kinds(tmp_path / "w.safetensors", start[:512])
        (tmp_path / "w.safetensors").write_bytes(start + bytes(4))
        assert list(open_tensors(tmp_path / "w.safetensors")) == ["w"]


def header(**changes) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    return len(text).to_bytes(8, "little") + text


TWO = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}'
DAMAGED = {
    "cut": header() + bytes(7),
    "too_long": header() + bytes(9),
    "dtype": header(dtype="F99") + bytes(8),
    "shape": header(shape=[3]) + bytes(8),
    "negative": header(shape=[-2]) + bytes(8),
    "offsets": header(data_offsets=[8, 0]) + bytes(8),
    "beyond": header(data_offsets=[0, 800], shape=[200]) + bytes(8),
    "overlap": len(TWO).to_bytes(8, "little") + TWO + bytes(6),
    "huge_header": (2**62).to_bytes(8, "little") + b"{}",
    "large_header": (10**9).to_bytes(8, "little") + b"{" + bytes(100),
    "no_json": (9).to_bytes(8, "little") + b"{'w': 1} ",
    "list": (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_every_damage_of_a_safetensors_file_is_named_in_one_sentence(name, tmp_path):
    file = tmp_path / f"{name}.safetensors"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(CheckpointFileError, match=rf"^{file} \(\d+ bytes\) is no whole safetensors file: [^\n]*$"):
        open_tensors(file)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    save_file({"w": np.zeros(4)}, tmp_path / "w.safetensors")
    opened = open_tensors(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointFileError, match=r"w\.safetensors can no longer be read at w"):
        np.asarray(opened["w"])
