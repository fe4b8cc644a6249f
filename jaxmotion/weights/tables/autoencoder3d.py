"""CogVideoX's autoencoder, as diffusers names it (AutoencoderKLCogVideoX)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.models.autoencoder3d import Autoencoder3D, Autoencoder3DSizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes, last_number
from jaxmotion.weights.config_fields import ConfigField, ConfigTable, Value, attribute, fixed
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.rules import Rule, Transform, conv, linear, norm, under
from jaxmotion.weights.tables.autoencoder import PLAIN_LATENTS

_CONV = Transform(lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: (x.transpose(4, 3, 0, 1, 2),))
_POINTWISE = Transform(lambda x: x[:, :, 0, 0, 0].T, lambda x: (x.T[:, :, None, None, None],))


def _plain_norm(torch: str, path: str) -> tuple[Rule, ...]:
    return norm(torch, f"{path}/norm")


def _latent_norm(torch: str, path: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{torch}.norm_layer", f"{path}/norm"),
        *linear(f"{torch}.conv_y.conv", f"{path}/scale", _POINTWISE),
        *linear(f"{torch}.conv_b.conv", f"{path}/shift", _POINTWISE),
    )


def _causal(torch: str, path: str) -> tuple[Rule, ...]:
    return linear(f"{torch}.conv", path, _CONV)


def _network(named_norm: Callable[[str, str], Iterable[Rule]], way: str, resampled: str) -> tuple[Rule, ...]:
    block = (
        *named_norm("norm1", "norm_in"),
        *_causal("conv1", "conv_in"),
        *named_norm("norm2", "norm_out"),
        *_causal("conv2", "conv_out"),
        *linear("conv_shortcut", "shortcut", _POINTWISE),
    )
    stage = f"{way}_blocks.{{stage}}."
    return (
        *_causal("conv_in", "conv_in"),
        *under("mid_block.resnets.{i}.", "middle_resnet_{i}/", block),
        *under(f"{stage}resnets.{{i}}.", f"{way}_{{stage}}_resnet_{{i}}/", block),
        *conv(f"{stage}{resampled}rs.0.conv", f"{way}_{{stage}}_{resampled}/conv"),
        *named_norm("norm_out", "norm_out"),
        *_causal("conv_out", "conv_out"),
    )


AUTOENCODER3D = (
    *under("encoder.", "encoder/", _network(_plain_norm, "down", "downsample")),
    *under("decoder.", "decoder/", _network(_latent_norm, "up", "upsample")),
)


def infer_autoencoder3d(seen: Shapes) -> Network:
    """Returns the autoencoder."""
    stages = 1 + last_number(r"encoder/down_(\d+)_resnet_0/", seen)
    sizes = Autoencoder3DSizes(
        latent_channels=seen["decoder/conv_in/kernel"][3],
        features=tuple(seen[f"encoder/down_{stage}_resnet_0/norm_out/norm/scale"][0] for stage in range(stages)),
        blocks_per_stage=1 + last_number(r"encoder/down_0_resnet_(\d+)/", seen),
        groups=1,
    )
    side = 2 ** (stages - 1)
    return Autoencoder3D(sizes), (jnp.zeros((1, 1, side, side, 3)),)


@runtime_checkable
class PictureScale(Protocol):
    """What multiplies the scaled latents of a picture to animate."""

    @property
    def rescale(self) -> float:
        """The factor: 1 where pictures are scaled like clips."""
        ...


def _is_inverted(picture: PictureScale) -> Value:
    return not math.isclose(picture.rescale, 1.0)


CONFIG = ConfigTable(
    Autoencoder3DSizes,
    (
        attribute("scaling_factor", 1.15258426, "scaling"),
        attribute("norm_num_groups", 32, "groups"),
        ConfigField("temporal_compression_ratio", 4, lambda sizes: 2**sizes.halvings, "halvings"),
        *fixed(act_fn="silu", norm_eps=1e-6),
        *PLAIN_LATENTS,
    ),
)
PICTURES = ConfigTable(
    PictureScale, (ConfigField("invert_scale_latents", False, _is_inverted, "rescale", decides=False),)
)
"""Those who train and who sample CogVideoX1.5 scale pictures differently, so this only differs."""

FORMATS = (
    Format(
        "cogvideox-vae",
        "an autoencoder of CogVideoX as diffusers saves it (AutoencoderKLCogVideoX)",
        {"codec": AUTOENCODER3D},
        ("encoder.conv_in.conv.weight", "decoder.norm_out.conv_y.conv.weight"),
        networks={"codec": infer_autoencoder3d},
        configs={"codec": (CONFIG, PICTURES)},
    ),
)


def autoencoder_cogvideox_config(sizes: Autoencoder3DSizes, size: tuple[int, int], *, inverted: bool) -> Json:
    """Returns the config of `AutoencoderKLCogVideoX`.

    Args:
        size: height and width of the pictures.
        inverted: whether the latents of a picture to animate are divided by the scaling factor.
    """
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
