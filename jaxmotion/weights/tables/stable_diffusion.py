"""Stable Diffusion 1.5's U-Net and AnimateDiff's motion modules, as diffusers names them.

Source: `UNet2DConditionModel`, `MotionAdapter` and `UNetMotionModel` of diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Condition
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import CONTEXT_FEATURES, stable_diffusion_unet
from jaxmotion.models.unet import UNetSizes
from jaxmotion.weights.checkpoint_format import INPUT_CONV, Format, Network, Shapes, last_number
from jaxmotion.weights.config_fields import ConfigField, ConfigTable, Value, attribute, fixed
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import Rule, conv, linear, norm, pointwise, under
from jaxmotion.weights.tables.attention import attention, feedforward
from jaxmotion.weights.tables.process import PROCESS


def transformer_block(first: str, second: str) -> tuple[Rule, ...]:
    """Returns the rules of a transformer block of two attentions and a feedforward layer."""
    return under(
        "transformer_blocks.0.",
        "block/",
        (
            *norm("norm1", f"{first}/norm"),
            *attention("attn1", f"{first}/attention"),
            *norm("norm2", f"{second}/norm"),
            *attention("attn2", f"{second}/attention"),
            *norm("norm3", "feedforward/norm"),
            *feedforward("ff", "feedforward/mlp"),
        ),
    )


RESNET = (
    *norm("norm1", "norm_in"),
    *conv("conv1", "conv_in"),
    *linear("time_emb_proj", "time"),
    *norm("norm2", "norm_out"),
    *conv("conv2", "conv_out"),
    *pointwise("conv_shortcut", "shortcut"),
)
TRANSFORMER = (
    *norm("norm", "norm"),
    *pointwise("proj_in", "proj_in"),
    *transformer_block("space", "text"),
    *pointwise("proj_out", "proj_out"),
)
MOTION_MODULE = (
    *norm("norm", "norm"),
    *linear("proj_in", "proj_in"),
    *transformer_block("time_0", "time_1"),
    *linear("proj_out", "proj_out"),
)

UNET = (
    *conv("conv_in", "conv_in"),
    *linear("time_embedding.linear_1", "time_embedding/linear_in"),
    *linear("time_embedding.linear_2", "time_embedding/linear_out"),
    *under("down_blocks.{stage}.resnets.{block}.", "down_{stage}_block_{block}/resnet/", RESNET),
    *under("down_blocks.{stage}.attentions.{block}.", "down_{stage}_block_{block}/transformer/", TRANSFORMER),
    *conv("down_blocks.{stage}.downsamplers.0.conv", "down_{stage}_downsample/conv"),
    *under("mid_block.resnets.0.", "middle/resnet_in/", RESNET),
    *under("mid_block.attentions.0.", "middle/transformer/", TRANSFORMER),
    *under("mid_block.resnets.1.", "middle/resnet_out/", RESNET),
    *under("up_blocks.{stage}.resnets.{block}.", "up_{stage}_block_{block}/resnet/", RESNET),
    *under("up_blocks.{stage}.attentions.{block}.", "up_{stage}_block_{block}/transformer/", TRANSFORMER),
    *conv("up_blocks.{stage}.upsamplers.0.conv", "up_{stage}_upsample/conv"),
    *norm("conv_norm_out", "norm_out"),
    *conv("conv_out", "conv_out"),
)

MOTION = (
    *under("down_blocks.{stage}.motion_modules.{block}.", "down_{stage}_block_{block}/motion/", MOTION_MODULE),
    *under("mid_block.motion_modules.0.", "middle/motion/", MOTION_MODULE),
    *under("up_blocks.{stage}.motion_modules.{block}.", "up_{stage}_block_{block}/motion/", MOTION_MODULE),
)

_PLACES = ("down_blocks.{stage}.motion_modules.{block}", "mid_block.motion_modules.0")
MOTION_BUFFERS = tuple(
    f"{place}.transformer_blocks.0.pos_embed.pe" for place in (*_PLACES, "up_blocks.{stage}.motion_modules.{block}")
)
"""Sines and cosines that motion modules keep beside their parameters; ours are computed."""


def infer_unet(seen: Shapes) -> Network:
    """Returns the U-Net with or without motion modules; for motion modules alone, the U-Net that they belong to."""
    stages = 1 + last_number(r"down_(\d+)_block_0/", seen)
    blocks = 1 + last_number(r"down_0_block_(\d+)/", seen)
    motion = any("/motion/" in path for path in seen)
    name = "resnet/norm_out/scale" if any("/resnet/" in path for path in seen) else "motion/norm/scale"
    features = tuple(seen[f"down_{stage}_block_0/{name}"][0] for stage in range(stages))
    kernel = seen.get("conv_in/kernel", (3, 3, 4, features[0]))
    text = seen.get("middle/transformer/block/text/attention/key/kernel", (CONTEXT_FEATURES,))[0]
    expansion = 4
    if "middle/transformer/block/feedforward/mlp/linear_in/kernel" in seen:
        inner = seen["middle/transformer/block/feedforward/mlp/linear_in/kernel"]
        expansion = inner[2] // inner[0]
    sizes = UNetSizes(
        in_channels=kernel[2],
        out_channels=seen.get("conv_out/kernel", kernel)[3] if "conv_out/kernel" in seen else kernel[2],
        condition_channels=seen.get("conv_condition/kernel", (0, 0, 0))[2],
        features=features,
        blocks_per_stage=blocks,
        attention_stages=tuple(f"down_{s}_block_0/transformer/proj_in/kernel" in seen for s in range(stages)),
        heads=1,
        groups=1,
        expansion=expansion,
    )
    module = {"motion": partial(MotionModule, 1, 1, expansion=expansion)} if motion else {}
    middle = module if any(path.startswith("middle/motion/") for path in seen) else {}
    network = stable_diffusion_unet(sizes, after_block=module, after_middle=middle)
    shape = (1, 1, sizes.stride, sizes.stride)
    channels = (jnp.zeros((*shape, sizes.condition_channels)),) if sizes.condition_channels else ()
    condition = Condition(channels=channels, tokens={"text": jnp.zeros((1, 1, 1, text))})
    return network, (jnp.zeros((*shape, sizes.in_channels)), jnp.zeros((1,), jnp.int32), condition)


@runtime_checkable
class Clips(Protocol):
    """A config value that says how long clips are, and how high and wide."""

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...


def _heads(config: Json) -> Value:
    """Returns the number of heads, which diffusers reads under two names; one for each stage where they differ."""
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    stages = list(heads) if isinstance(heads, list) else [heads]
    return stages[0] if len(set(stages)) == 1 else heads


GROUPS = attribute("norm_num_groups", 32, "groups")
SHARED = fixed(act_fn="silu", norm_eps=1e-5, mid_block_scale_factor=1, downsample_padding=1)
UNET_CONFIG = ConfigTable(
    UNetSizes,
    (
        ConfigField("attention_head_dim", 8, lambda sizes: sizes.heads, "heads", read=_heads),
        GROUPS,
        *SHARED,
        *fixed(center_input_sample=False, flip_sin_to_cos=True, freq_shift=0, mid_block_type="UNetMidBlock2DCrossAttn"),
        *fixed(only_cross_attention=False, dual_cross_attention=False, attention_type="default"),
        *fixed(resnet_time_scale_shift="default", resnet_skip_time_act=False, resnet_out_scale_factor=1.0),
        *fixed(time_embedding_type="positional", time_embedding_act_fn=None, timestep_post_act=None),
    ),
)
UNET_MOTION_CONFIG = ConfigTable(
    UNetSizes,
    (
        attribute("num_attention_heads", 8, "heads"),
        attribute("motion_num_attention_heads", 8, "heads"),
        GROUPS,
        *SHARED,
    ),
)
ADAPTER_CONFIG = ConfigTable(
    UNetSizes,
    (attribute("motion_num_attention_heads", 8, "heads"), attribute("motion_norm_num_groups", 32, "groups")),
)


LONGEST = ConfigTable(
    Clips,
    (ConfigField("motion_max_seq_length", 32, lambda clips: clips.frames, "frames", decides=False),),
    alike=lambda config, clips: config.get("motion_max_seq_length", 32) >= clips.frames,
)
"""Positions are computed, so longer clips than motion modules have seen can be made; they have not learned them."""

_MODULE = "down_blocks.0.motion_modules.0."
_RESNET = "down_blocks.0.resnets.0.conv1.weight"

FORMATS = (
    Format(
        "diffusers-unet",
        "a U-Net of Stable Diffusion 1.5 as diffusers saves it (UNet2DConditionModel)",
        {"denoiser": UNET},
        (INPUT_CONV, _RESNET),
        forbidden=("*motion_modules*", "*temp_convs*"),
        networks={"denoiser": infer_unet},
        configs={"denoiser": (UNET_CONFIG, *PROCESS)},
    ),
    Format(
        "diffusers-unet-motion",
        "a U-Net with motion modules as diffusers saves it (UNetMotionModel)",
        {"denoiser": (*UNET, *MOTION)},
        (INPUT_CONV, _RESNET, f"{_MODULE}proj_in.weight"),
        ignored=MOTION_BUFFERS,
        networks={"denoiser": infer_unet},
        configs={"denoiser": (UNET_MOTION_CONFIG, LONGEST, *PROCESS)},
    ),
    Format(
        "diffusers-motion",
        "motion modules as diffusers saves them (MotionAdapter)",
        {"denoiser": MOTION},
        (f"{_MODULE}proj_in.weight",),
        forbidden=(_RESNET, INPUT_CONV),
        ignored=MOTION_BUFFERS,
        networks={"denoiser": infer_unet},
        configs={"denoiser": (ADAPTER_CONFIG, LONGEST)},
    ),
    Format(
        "diffusers-motion-input",
        "motion modules and a first convolution as diffusers saves them (MotionAdapter with conv_in_channels)",
        {"denoiser": (*MOTION, *conv("conv_in", "conv_in"))},
        (f"{_MODULE}proj_in.weight", INPUT_CONV),
        forbidden=(_RESNET,),
        ignored=MOTION_BUFFERS,
        networks={"denoiser": infer_unet},
        configs={"denoiser": (ADAPTER_CONFIG, LONGEST)},
    ),
)

LORA_PARTS = (
    LoRAPart(
        "denoiser",
        "unet",
        ("lora_unet", "lycoris"),
        (UNET, MOTION),
        "the U-Net of Stable Diffusion 1.5, with or without motion modules",
    ),
)

_EXPANSION = 4  # of the feedforward layers of diffusers' transformer blocks, which have no argument for it


def unet_motion_config(
    sizes: UNetSizes, *, text_features: int, frames: int, size: tuple[int, int], middle: bool
) -> Json:
    """Returns the config of `UNetMotionModel`: a Stable Diffusion U-Net with a motion module in every block.

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
        motion_max_seq_length=num_positions(frames),
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


def motion_adapter_config(sizes: UNetSizes, *, frames: int, middle: bool) -> Json:
    """Returns the config of `MotionAdapter`: motion modules, and the first convolution if it is widened."""
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
        motion_max_seq_length=num_positions(frames),
        use_motion_mid_block=middle,
        conv_in_channels=sizes.in_channels + sizes.condition_channels if sizes.condition_channels else None,
    )


def num_positions(frames: int) -> int:
    """Returns how many frames motion modules have positions for: as many as diffusers' own unless a clip is longer."""
    return max(frames, 32)


def _stages(attending: str, plain: str, stages: Sequence[bool]) -> list[str]:
    return [attending if attends else plain for attends in stages]


def _check_expansion(sizes: UNetSizes) -> None:
    if sizes.expansion != _EXPANSION:
        raise ValueError(
            f"The U-Net's feedforward layers are {sizes.expansion} times as wide inside (`expansion`); those of "
            f"diffusers' UNetMotionModel are always {_EXPANSION} times. Train with expansion {_EXPANSION} to export."
        )
