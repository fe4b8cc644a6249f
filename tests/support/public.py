"""Small checkpoints in every public format, random, as the reference implementations save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import diffusers
import transformers
from safetensors.torch import load_file, save_file

FEATURES = (8, 16, 16, 16)
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
"""The four stages of Stable Diffusion 1.5."""
TWO_STAGES = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}
TWO_STAGES_OF_MOTION = {"block_out_channels": (8, 16), "motion_layers_per_block": 1}
TWO_STAGES_OF_PIXELS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
}
"""Smaller ones of the same kind."""


def randomised(module, seed: int = 0):
    """The module with random values in all its parameters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        inputs = parameter.numel() // parameter.shape[:1].numel()
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(inputs, 4) ** 0.5
    return module


def unet(**changes):
    return randomised(
        diffusers.UNet2DConditionModel(
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=32,
            **{"block_out_channels": FEATURES, **BLOCKS, **changes},
        )
    )


def unet3d():
    return randomised(
        diffusers.UNet3DConditionModel(
            block_out_channels=FEATURES, attention_head_dim=4, norm_num_groups=4, cross_attention_dim=32
        )
    )


def adapter(**changes):
    return randomised(
        diffusers.MotionAdapter(
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=32,
            **{"block_out_channels": FEATURES, "use_motion_mid_block": False, **changes},
        ),
        seed=1,
    )


def unet_motion(**changes):
    return randomised(diffusers.UNetMotionModel.from_unet2d(unet(), adapter(**changes)), seed=2)


def two_stage_unet_motion():
    parts = unet(**TWO_STAGES), adapter(**TWO_STAGES_OF_MOTION)
    return randomised(diffusers.UNetMotionModel.from_unet2d(*parts), seed=2)


def vae(**changes):
    sizes = {
        "block_out_channels": FEATURES,
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return randomised(diffusers.AutoencoderKL(norm_num_groups=4, **{**sizes, **changes}))


def tiny_vae():
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    return randomised(diffusers.AutoencoderTiny(**widths))


def text():
    config = transformers.CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
    )
    return randomised(transformers.CLIPTextModel(config))


def cogvideox(**changes):
    return randomised(
        diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=8,
            out_channels=4,
            time_embed_dim=24,
            text_embed_dim=20,
            num_layers=2,
            sample_width=4,
            sample_height=6,
            sample_frames=5,
            max_text_seq_length=5,
            **changes,
        )
    )


def cogvideox_vae():
    sizes = {"block_out_channels": (8, 8, 16, 16), "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 4}
    return randomised(diffusers.AutoencoderKLCogVideoX(**sizes))


def t5(kind=transformers.T5EncoderModel):
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    return randomised(kind(config))


def dinov2(**changes):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, **changes
    )
    return randomised(transformers.Dinov2Model(config))


def _renamed(module, folder: Path, name: Callable[[str], str], file: str) -> Path:
    """The file of a module, its tensors under other names and the attentions of a U-Net cut into what LDM has."""
    module.save_pretrained(folder / "as_it_was")
    saved = load_file(next((folder / "as_it_was").glob("*.safetensors")))
    save_file({name(key): tensor.contiguous() for key, tensor in saved.items()}, folder / file, {"format": "pt"})
    return folder / file


def _saved(make: Callable[[], object]) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        make().save_pretrained(folder)
        return folder

    return save


def _old_vae(folder: Path) -> Path:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key: str) -> str:
        for new, before in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        return key

    return _renamed(vae(), folder, name, "diffusion_pytorch_model.safetensors")


def as_animatediff(prefix: str, make: Callable[[], torch.nn.Module]) -> Callable[[Path], Path]:
    """A file of AnimateDiff's own code, as `torch.save` writes it: in half precision, with the tables of positions."""
    words = {"attn1": "attention_blocks.0", "attn2": "attention_blocks.1", "norm1": "norms.0", "norm2": "norms.1"}

    def name(key: str) -> str:
        head, found, tail = key.partition(".motion_modules.")
        if not found:
            return f"{prefix}{key}"
        number, rest = tail.split(".", 1)
        for ours, theirs in {**words, "norm3": "ff_norm"}.items():
            rest = rest.replace(f".{ours}.", f".{theirs}.")
        return f"{prefix}{head}.motion_modules.{number}.temporal_transformer.{rest}"

    def save(folder: Path) -> Path:
        tensors = {}
        for key, tensor in make().state_dict().items():
            if key.endswith("pos_embed.pe"):
                for i in (0, 1):
                    place = name(key).replace("pos_embed.pe", f"attention_blocks.{i}.pos_encoder.pe")
                    tensors[place] = tensor.half()
            else:
                tensors[name(key)] = tensor.half()
        torch.save({"epoch": 3, "global_step": 20, "state_dict": tensors}, folder / "mm.ckpt")
        return folder / "mm.ckpt"

    return save


def _named(golden: str, names: str, stem: str, *within: str) -> Callable[[Path], Path]:
    """Random tensors under the names that an implementation gave to its own (kept with the parity tests)."""

    def save(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        with np.load(Path(__file__).parents[1] / "parity" / golden) as arrays:
            rows = [row.split() for row in arrays[names].tolist()]
        tensors = {
            name: torch.tensor(rng.standard_normal([int(size) for size in shape]), dtype=torch.float32)
            for name, *shape in rows
        }
        for first in [name for name in tensors if ".norm3." in name]:
            shared = first.replace("norm3", "downsample.1")
            if shared in tensors:  # one norm under two names
                tensors[shared] = tensors[first]
        content: dict = tensors
        for key in within:
            content = {key: content}
        torch.save(content, folder / stem)
        return folder / stem

    return save


PUBLIC: dict[str, Callable[[Path], Path]] = {
    "diffusers-unet": _saved(unet),
    "diffusers-unet-motion": _saved(unet_motion),
    "diffusers-unet3d": _saved(unet3d),
    "diffusers-motion": _saved(adapter),
    "diffusers-motion-input": _saved(lambda: adapter(conv_in_channels=10)),
    "animatediff": as_animatediff("", lambda: adapter(use_motion_mid_block=True)),
    "animatediff-module": as_animatediff("module.", adapter),
    "animatediff-unet": as_animatediff("", two_stage_unet_motion),
    "diffusers-vae": _saved(vae),
    "diffusers-vae-old": _old_vae,
    "diffusers-vae-tiny": _saved(
        lambda: randomised(
            diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
        )
    ),
    "clip-text": _saved(text),
    "dinov2": _saved(dinov2),
    "dinov2-gated": _saved(lambda: dinov2(use_swiglu_ffn=True)),
    "cogvideox": _saved(
        lambda: cogvideox(use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True)
    ),
    "cogvideox-1.5": _saved(
        lambda: cogvideox(use_rotary_positional_embeddings=True, patch_size_t=2, ofs_embed_dim=24, patch_bias=True)
    ),
    "cogvideox-vae": _saved(cogvideox_vae),
    "t5": _saved(t5),
    "t5-whole": _saved(lambda: t5(transformers.T5ForConditionalGeneration)),
    "tada2d": _named("golden_tadaconv.npz", "tada2d_names", "tada2d.pyth", "model_state"),
    "tadaconvnextv2": _named("golden_tadaconv.npz", "v2_names", "v2.pyth", "model_state"),
    "raft-small": _named("golden_raft.npz", "small_names", "raft-small.pth"),
    "taehv": _named("golden_taehv.npz", "names", "taecvx.pth"),
    "raft-large": _named("golden_raft.npz", "large_names", "raft-things.pth"),
}
"""How a checkpoint of each format is made; the rest are made in the tests from these."""
