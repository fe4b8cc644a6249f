"""ModelScope's text-to-video U-Net, as diffusers and as its own code name it.

Source: `UNet3DConditionModel` of diffusers, and `UNetSD` of modelscope (`text2video_pytorch_model.pth`). The latter
numbers the blocks in one row, so its table is written for the stages and blocks of the public weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp

from jaxmotion.foundation.types import Condition
from jaxmotion.models.modelscope import FIRST_HEADS, FULL, modelscope_unet
from jaxmotion.models.unet import UNetSizes
from jaxmotion.weights.checkpoint_format import INPUT_CONV, Format, Network, Shapes, last_number
from jaxmotion.weights.config_fields import ConfigField, ConfigTable
from jaxmotion.weights.rules import Rule, Transform, conv, linear, norm, under
from jaxmotion.weights.tables.latent_diffusion import RESNET as LDM_RESNET
from jaxmotion.weights.tables.process import PROCESS
from jaxmotion.weights.tables.stable_diffusion import GROUPS, RESNET, SHARED, transformer_block

OVER_TIME = Transform(
    lambda x: x[..., 0, 0].transpose(2, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(3, -1, x.shape[1]).transpose(2, 1, 0)[..., None, None],),
)
"""A convolution of size (3, 1, 1) there, a linear layer of three frames here."""


TEMPORAL_CONV = tuple(
    rule
    for i in range(4)
    for rule in (
        *norm(f"conv{i + 1}.0", f"norm_{i}"),
        *linear(f"conv{i + 1}.{2 if i == 0 else 3}", f"conv_{i}/frames", OVER_TIME),
    )
)
"""Dropout stands between from the second on."""


def _transformer(first: str, second: str) -> tuple[Rule, ...]:
    return (
        *norm("norm", "norm"),
        *linear("proj_in", "proj_in"),
        *transformer_block(first, second),
        *linear("proj_out", "proj_out"),
    )


TRANSFORMER, TEMPORAL = _transformer("space", "text"), _transformer("time_0", "time_1")


def _blocks(torch: str, path: str) -> tuple[Rule, ...]:
    kinds = {"resnets": ("resnet", RESNET), "temp_convs": ("temporal_conv", TEMPORAL_CONV)}
    kinds |= {"attentions": ("transformer", TRANSFORMER), "temp_attentions": ("temporal", TEMPORAL)}
    found = (
        under(f"{torch}.{{stage}}.{theirs}.{{block}}.", f"{path}_{{stage}}_block_{{block}}/{ours}/", rules)
        for theirs, (ours, rules) in kinds.items()
    )
    return tuple(rule for rules in found for rule in rules)


IMAGE = (
    *conv("conv_in", "conv_in"),
    *linear("time_embedding.linear_1", "time_embedding/linear_in"),
    *linear("time_embedding.linear_2", "time_embedding/linear_out"),
    *conv("down_blocks.{stage}.downsamplers.0.conv", "down_{stage}_downsample/conv"),
    *conv("up_blocks.{stage}.upsamplers.0.conv", "up_{stage}_upsample/conv"),
    *norm("conv_norm_out", "norm_out"),
    *conv("conv_out", "conv_out"),
)
UNET = (
    *IMAGE,
    *under("transformer_in.", "first/temporal/", TEMPORAL),
    *_blocks("down_blocks", "down"),
    *_blocks("up_blocks", "up"),
    *under("mid_block.resnets.0.", "middle/resnet_in/", RESNET),
    *under("mid_block.temp_convs.0.", "middle/temporal_conv_in/", TEMPORAL_CONV),
    *under("mid_block.attentions.0.", "middle/transformer/", TRANSFORMER),
    *under("mid_block.temp_attentions.0.", "middle/temporal/", TEMPORAL),
    *under("mid_block.resnets.1.", "middle/resnet_out/", RESNET),
    *under("mid_block.temp_convs.1.", "middle/temporal_conv_out/", TEMPORAL_CONV),
)


OVER_FRAMES = Transform(lambda x: x[:, :, 0].T, lambda x: (x.T[:, :, None],))
"""A convolution of size 1 over frames there, a linear layer here."""
_OWN_TEMPORAL = (
    *norm("norm", "norm"),
    *linear("proj_in", "proj_in", OVER_FRAMES),
    *transformer_block("time_0", "time_1"),
    *linear("proj_out", "proj_out", OVER_FRAMES),
)


def own_names(sizes: UNetSizes, added: Iterable[Rule] = ()) -> tuple[Rule, ...]:
    """Returns the rules of `UNetSD` with so many stages and blocks.

    Args:
        added: rules of further layers in the transformer blocks over space, below `transformer_blocks.0.` and `block/`.
    """
    transformer = (*TRANSFORMER, *under("transformer_blocks.0.", "block/", added))
    stages, blocks = len(sizes.features), sizes.blocks_per_stage

    def resnet(torch: str, path: str, suffix: str = "") -> tuple[Rule, ...]:
        return (
            *under(torch, f"{path}resnet{suffix}/", LDM_RESNET),
            *under(f"{torch}temopral_conv.", f"{path}temporal_conv{suffix}/", TEMPORAL_CONV),
        )

    def block(torch: str, path: str, stage: int) -> tuple[Rule, ...]:
        attends = sizes.attention_stages[stage]
        return (
            *resnet(f"{torch}0.", path),
            *(under(f"{torch}1.", f"{path}transformer/", transformer) if attends else ()),
            *(under(f"{torch}2.", f"{path}temporal/", _OWN_TEMPORAL) if attends else ()),
        )

    rules: tuple[Rule, ...] = ()
    for stage in range(stages):
        first = 1 + stage * (blocks + 1)
        for i in range(blocks):
            rules += block(f"input_blocks.{first + i}.", f"down_{stage}_block_{i}/", stage)
        if stage < stages - 1:
            rules += conv(f"input_blocks.{first + blocks}.op", f"down_{stage}_downsample/conv")
    for up, stage in enumerate(reversed(range(stages))):
        first = up * (blocks + 1)
        for i in range(blocks + 1):
            rules += block(f"output_blocks.{first + i}.", f"up_{up}_block_{i}/", stage)
        if stage > 0:
            place = 3 if sizes.attention_stages[stage] else 1
            rules += conv(f"output_blocks.{first + blocks}.{place}.conv", f"up_{up}_upsample/conv")
    return (
        *conv("input_blocks.0.0", "conv_in"),
        *under("input_blocks.0.1.", "first/temporal/", _OWN_TEMPORAL),
        *linear("time_embed.0", "time_embedding/linear_in"),
        *linear("time_embed.2", "time_embedding/linear_out"),
        *rules,
        *resnet("middle_block.0.", "middle/", "_in"),
        *under("middle_block.1.", "middle/transformer/", transformer),
        *under("middle_block.2.", "middle/temporal/", _OWN_TEMPORAL),
        *resnet("middle_block.3.", "middle/", "_out"),
        *norm("out.0", "norm_out"),
        *conv("out.2", "conv_out"),
    )


def infer_unet(seen: Shapes) -> Network:
    """Returns the U-Net that parameters of these shapes are of."""
    stages = 1 + last_number(r"down_(\d+)_block_0/", seen)
    features = tuple(seen[f"down_{stage}_block_0/resnet/norm_out/scale"][0] for stage in range(stages))
    kernel, inner = seen["conv_in/kernel"], seen["middle/transformer/block/feedforward/mlp/linear_in/kernel"]
    sizes = UNetSizes(
        in_channels=kernel[2],
        out_channels=seen["conv_out/kernel"][3],
        condition_channels=seen.get("conv_condition/kernel", (0, 0, 0))[2],
        features=features,
        blocks_per_stage=1 + last_number(r"down_0_block_(\d+)/", seen),
        attention_stages=tuple(f"down_{s}_block_0/transformer/proj_in/kernel" in seen for s in range(stages)),
        groups=1,
        expansion=inner[2] // inner[0],
        head_features=seen["first/temporal/proj_in/kernel"][1] // FIRST_HEADS,
    )
    text = seen["middle/transformer/block/text/attention/key/kernel"][0]
    shape = (1, 1, sizes.stride, sizes.stride)
    channels = (jnp.zeros((*shape, sizes.condition_channels)),) if sizes.condition_channels else ()
    condition = Condition(channels=channels, tokens={"text": jnp.zeros((1, 1, 1, text))})
    return modelscope_unet(sizes), (jnp.zeros((*shape, sizes.in_channels)), jnp.zeros((1,), jnp.int32), condition)


UNET_CONFIG = ConfigTable(
    UNetSizes,
    (
        ConfigField("attention_head_dim", 64, lambda sizes: sizes.head_features, "head_features"),
        GROUPS,
        *SHARED,
    ),
)

FORMATS = (
    Format(
        "diffusers-unet3d",
        "ModelScope's text-to-video U-Net as diffusers saves it (UNet3DConditionModel)",
        {"denoiser": UNET},
        (INPUT_CONV, "transformer_in.proj_in.weight", "mid_block.temp_convs.0.conv1.2.weight"),
        networks={"denoiser": infer_unet},
        configs={"denoiser": (UNET_CONFIG, *PROCESS)},
    ),
    Format(
        "modelscope-unet",
        "ModelScope's text-to-video U-Net in the names of its own code (text2video_pytorch_model.pth)",
        {"denoiser": own_names(FULL)},
        ("input_blocks.0.1.proj_in.weight", "middle_block.0.temopral_conv.conv1.2.weight"),
        networks={"denoiser": infer_unet},
    ),
)
