"""Public classes that hold our networks: the config.json that makes each of them as large as ours.

Source: the classes of diffusers 0.42 and transformers 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxmotion.models.autoencoder import KLSizes
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.clip import CLIPTextSizes
from jaxmotion.models.cogvideox import CogVideoXSizes
from jaxmotion.models.dinov2 import DINOv2Sizes
from jaxmotion.models.t5 import T5Sizes
from jaxmotion.models.unet import UNetSizes

DIFFUSERS = "0.42.1"
"""The version of diffusers that exports are written for and tested with."""

_EXPANSION = 4  # of the feedforward layers of diffusers' transformer blocks, which have no argument for it


def config_of(class_name: str, **arguments: Any) -> dict[str, Any]:
    """The config.json of a class of diffusers, or of one that is made like those."""
    return {"_class_name": class_name, "_diffusers_version": DIFFUSERS, **arguments}


def unet_motion(
    sizes: UNetSizes, *, text_features: int, frames: int, size: tuple[int, int], middle: bool
) -> dict[str, Any]:
    """Of `UNetMotionModel`: a Stable Diffusion U-Net with a motion module in every block.

    Args:
        text_features: width of the text tokens.
        frames: most frames of a clip.
        size: height and width of the latents.
        middle: whether the middle has a motion module too.

    Raises:
        ValueError: the class has no such sizes.
    """
    _check_expansion(sizes)
    stages = sizes.attention_stages
    return config_of(
        "UNetMotionModel",
        sample_size=size[0] if size[0] == size[1] else None,
        in_channels=sizes.in_channels + sizes.condition_channels,
        out_channels=sizes.out_channels,
        down_block_types=_stages("CrossAttnDownBlockMotion", "DownBlockMotion", stages),
        up_block_types=_stages("CrossAttnUpBlockMotion", "UpBlockMotion", stages[::-1]),
        block_out_channels=list(sizes.features),
        layers_per_block=sizes.blocks_per_stage,
        downsample_padding=1,
        mid_block_scale_factor=1,
        act_fn="silu",
        norm_num_groups=sizes.groups,
        norm_eps=1e-5,
        cross_attention_dim=text_features,
        transformer_layers_per_block=1,
        reverse_transformer_layers_per_block=None,
        temporal_transformer_layers_per_block=1,
        reverse_temporal_transformer_layers_per_block=None,
        transformer_layers_per_mid_block=None,
        temporal_transformer_layers_per_mid_block=1,
        use_linear_projection=False,
        num_attention_heads=sizes.heads,
        motion_max_seq_length=positions(frames),
        motion_num_attention_heads=sizes.heads,
        reverse_motion_num_attention_heads=None,
        use_motion_mid_block=middle,
        mid_block_layers=1,
        encoder_hid_dim=None,
        encoder_hid_dim_type=None,
        addition_embed_type=None,
        addition_time_embed_dim=None,
        projection_class_embeddings_input_dim=None,
        time_cond_proj_dim=None,
    )


def motion_adapter(sizes: UNetSizes, *, frames: int, middle: bool) -> dict[str, Any]:
    """Of `MotionAdapter`: the motion modules of such a U-Net, and its first convolution when that is widened."""
    _check_expansion(sizes)
    return config_of(
        "MotionAdapter",
        block_out_channels=list(sizes.features),
        motion_layers_per_block=sizes.blocks_per_stage,
        motion_transformer_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_transformer_layers_per_mid_block=1,
        motion_num_attention_heads=sizes.heads,
        motion_norm_num_groups=sizes.groups,
        motion_max_seq_length=positions(frames),
        use_motion_mid_block=middle,
        conv_in_channels=sizes.in_channels + sizes.condition_channels if sizes.condition_channels else None,
    )


def autoencoder_kl(sizes: KLSizes, size: tuple[int, int]) -> dict[str, Any]:
    """Of `AutoencoderKL`; `size` is the height and width of the pictures."""
    count = len(sizes.features)
    return config_of(
        "AutoencoderKL",
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * count,
        up_block_types=["UpDecoderBlock2D"] * count,
        block_out_channels=list(sizes.features),
        layers_per_block=sizes.blocks_per_stage,
        act_fn="silu",
        latent_channels=sizes.latent_channels,
        norm_num_groups=sizes.groups,
        sample_size=max(size),
        scaling_factor=sizes.scaling,
        shift_factor=None,
        latents_mean=None,
        latents_std=None,
        force_upcast=False,
        use_quant_conv=True,
        use_post_quant_conv=True,
        mid_block_add_attention=True,
    )


def clip_text(sizes: CLIPTextSizes) -> dict[str, Any]:
    """Of `CLIPTextModel`."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.features,
        "intermediate_size": sizes.hidden,
        "projection_dim": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": sizes.length,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": sizes.start_token,
        "eos_token_id": sizes.end_token,
        "pad_token_id": sizes.end_token,
    }


def cogvideox(sizes: CogVideoXSizes) -> dict[str, Any]:
    """Of `CogVideoXTransformer3DModel`."""
    frames, side = sizes.patch
    return config_of(
        "CogVideoXTransformer3DModel",
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_features,
        in_channels=sizes.in_channels,
        out_channels=sizes.out_channels,
        flip_sin_to_cos=True,
        freq_shift=0,
        time_embed_dim=sizes.time_features,
        ofs_embed_dim=sizes.time_features if sizes.offset else None,
        text_embed_dim=sizes.text_features,
        num_layers=sizes.depth,
        dropout=0.0,
        attention_bias=True,
        sample_width=sizes.grid[2] * side,
        sample_height=sizes.grid[1] * side,
        sample_frames=4 * (sizes.grid[0] * frames - frames) + 1,
        patch_size=side,
        patch_size_t=frames if frames > 1 else None,
        patch_bias=True,
        temporal_compression_ratio=4,
        max_text_seq_length=sizes.text_length,
        activation_fn="gelu-approximate",
        timestep_activation_fn="silu",
        norm_elementwise_affine=True,
        norm_eps=1e-5,
        spatial_interpolation_scale=1.875,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=sizes.positions != "sines",
        use_learned_positional_embeddings=sizes.positions == "rotary_and_learned",
    )


def autoencoder_cogvideox(sizes: Autoencoder3DSizes, size: tuple[int, int], *, inverted: bool) -> dict[str, Any]:
    """Of `AutoencoderKLCogVideoX`; `size` is the height and width of the pictures, `inverted` whether the latents of a
    picture to animate are divided by the scaling factor."""
    count = len(sizes.features)
    return config_of(
        "AutoencoderKLCogVideoX",
        in_channels=3,
        out_channels=3,
        down_block_types=["CogVideoXDownBlock3D"] * count,
        up_block_types=["CogVideoXUpBlock3D"] * count,
        block_out_channels=list(sizes.features),
        latent_channels=sizes.latent_channels,
        layers_per_block=sizes.blocks_per_stage,
        act_fn="silu",
        norm_eps=1e-6,
        norm_num_groups=sizes.groups,
        temporal_compression_ratio=2**sizes.halvings,
        sample_height=size[0],
        sample_width=size[1],
        scaling_factor=sizes.scaling,
        force_upcast=True,
        use_quant_conv=False,
        use_post_quant_conv=False,
        invert_scale_latents=inverted,
    )


def t5(sizes: T5Sizes) -> dict[str, Any]:
    """Of `T5EncoderModel`."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.features,
        "d_kv": sizes.head_features,
        "d_ff": sizes.hidden,
        "num_layers": sizes.depth,
        "num_heads": sizes.heads,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.farthest,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def dinov2(sizes: DINOv2Sizes) -> dict[str, Any]:
    """Of `Dinov2Model`, or of `Dinov2WithRegistersModel`.

    Raises:
        ValueError: the class has no feedforward layers of that width.
    """
    registers = {"num_register_tokens": sizes.registers} if sizes.registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if sizes.registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if sizes.registers else "dinov2",
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "mlp_ratio": _mlp_ratio(sizes),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "image_size": sizes.grid * sizes.patch,
        "patch_size": sizes.patch,
        "num_channels": 3,
        "qkv_bias": True,
        "use_swiglu_ffn": sizes.gated,
        **registers,
    }


def positions(frames: int) -> int:
    """How many frames the motion modules have positions for: as many as diffusers' own unless a clip is longer."""
    return max(frames, 32)


def _mlp_ratio(sizes: DINOv2Sizes) -> int:
    """The whole number that public configs have for the width inside the feedforward layers."""
    for ratio in range(1, 17):
        inside = ratio * sizes.features
        if sizes.gated:
            inside = (int(inside * 2 / 3) + 7) // 8 * 8
        if inside == sizes.hidden:
            return ratio
    raise ValueError(
        f"DINOv2's feedforward layers are {sizes.hidden} wide inside; its public class has only whole multiples of the "
        f"{sizes.features} features" + (" (two thirds of them, rounded up to 8)." if sizes.gated else ".")
    )


def _stages(attending: str, plain: str, stages: Sequence[bool]) -> list[str]:
    return [attending if attends else plain for attends in stages]


def _check_expansion(sizes: UNetSizes) -> None:
    if sizes.expansion != _EXPANSION:
        raise ValueError(
            f"The U-Net's feedforward layers are {sizes.expansion} times as wide inside (`expansion`); those of "
            f"diffusers' UNetMotionModel are always {_EXPANSION} times. Train with expansion {_EXPANSION} to export."
        )
