"""Stable Diffusion's autoencoder, as diffusers names it.

Source: `AutoencoderKL` of diffusers. Older files, that of Stable Diffusion 1.5 among them, name the middle's attention
query, key, value and proj_attn.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.models.autoencoder import AutoencoderKL, KLSizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes, last_number
from jaxmotion.weights.config_fields import ConfigField, ConfigTable, attribute, fixed
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.rules import Rule, conv, linear, norm, pointwise, under

_RESNET = (
    *norm("norm1", "norm_in"),
    *conv("conv1", "conv_in"),
    *norm("norm2", "norm_out"),
    *conv("conv2", "conv_out"),
    *pointwise("conv_shortcut", "shortcut"),
)
_ATTENTION = (
    *linear("to_q", "query"),
    *linear("to_k", "key"),
    *linear("to_v", "value"),
    *linear("to_out.0", "out"),
)
_OLD_ATTENTION = (
    *linear("query", "query"),
    *linear("key", "key"),
    *linear("value", "value"),
    *linear("proj_attn", "out"),
)


def _rules(attention: Iterable[Rule]) -> tuple[Rule, ...]:
    middle = (
        *under("resnets.0.", "resnet_in/", _RESNET),
        *norm("attentions.0.group_norm", "norm"),
        *under("attentions.0.", "attention/", attention),
        *under("resnets.1.", "resnet_out/", _RESNET),
    )
    return (
        *conv("encoder.conv_in", "encoder/conv_in"),
        *under("encoder.down_blocks.{stage}.resnets.{block}.", "encoder/down_{stage}_resnet_{block}/", _RESNET),
        *conv("encoder.down_blocks.{stage}.downsamplers.0.conv", "encoder/down_{stage}_downsample/conv"),
        *under("encoder.mid_block.", "encoder/middle/", middle),
        *norm("encoder.conv_norm_out", "encoder/norm_out"),
        *conv("encoder.conv_out", "encoder/conv_out"),
        *pointwise("quant_conv", "moments"),
        *pointwise("post_quant_conv", "latents"),
        *conv("decoder.conv_in", "decoder/conv_in"),
        *under("decoder.mid_block.", "decoder/middle/", middle),
        *under("decoder.up_blocks.{stage}.resnets.{block}.", "decoder/up_{stage}_resnet_{block}/", _RESNET),
        *conv("decoder.up_blocks.{stage}.upsamplers.0.conv", "decoder/up_{stage}_upsample/conv"),
        *norm("decoder.conv_norm_out", "decoder/norm_out"),
        *conv("decoder.conv_out", "decoder/conv_out"),
    )


AUTOENCODER = _rules(_ATTENTION)
AUTOENCODER_OLD = _rules(_OLD_ATTENTION)


def infer_autoencoder_kl(seen: Shapes) -> Network:
    """Returns the autoencoder."""
    stages = 1 + last_number(r"encoder/down_(\d+)_resnet_0/", seen)
    sizes = KLSizes(
        latent_channels=seen["decoder/conv_in/kernel"][2],
        features=tuple(seen[f"encoder/down_{stage}_resnet_0/norm_out/scale"][0] for stage in range(stages)),
        blocks_per_stage=1 + last_number(r"encoder/down_0_resnet_(\d+)/", seen),
        groups=1,
    )
    side = 2 ** (stages - 1)
    return AutoencoderKL(sizes), (jnp.zeros((1, 1, side, side, 3)),)


_MIDDLE = "decoder.mid_block.attentions.0."
PLAIN_LATENTS = (
    ConfigField("shift_factor", 0.0, lambda _: 0.0, read=lambda config: config.get("shift_factor") or 0.0),
    *fixed(latents_mean=None, latents_std=None),
)
"""Latents here are scaled by one factor, and by no statistics of their channels."""
CONFIG = ConfigTable(
    KLSizes,
    (
        attribute("scaling_factor", 0.18215, "scaling"),
        attribute("norm_num_groups", 32, "groups"),
        *fixed(act_fn="silu", mid_block_add_attention=True),
        *PLAIN_LATENTS,
    ),
)

FORMATS = (
    Format(
        "diffusers-vae",
        "an autoencoder of Stable Diffusion as diffusers saves it (AutoencoderKL)",
        {"codec": AUTOENCODER},
        ("quant_conv.weight", f"{_MIDDLE}to_q.weight"),
        networks={"codec": infer_autoencoder_kl},
        configs={"codec": (CONFIG,)},
    ),
    Format(
        "diffusers-vae-old",
        "an autoencoder of Stable Diffusion as diffusers saved it until 2023 (AutoencoderKL)",
        {"codec": AUTOENCODER_OLD},
        ("quant_conv.weight", f"{_MIDDLE}query.weight"),
        networks={"codec": infer_autoencoder_kl},
        configs={"codec": (CONFIG,)},
    ),
)


def autoencoder_kl_config(sizes: KLSizes, size: tuple[int, int]) -> Json:
    """Returns the config of `AutoencoderKL`; `size` is the height and width of the pictures."""
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
