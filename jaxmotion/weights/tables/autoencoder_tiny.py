"""The tiny autoencoder, as diffusers names it.

Source: `AutoencoderTiny` of diffusers, whose encoder and decoder are plain sequences of numbered layers.
"""

from __future__ import annotations

import re

import jax.numpy as jnp

from jaxmotion.models.autoencoder_tiny import AutoencoderTiny, AutoencoderTinySizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.config_fields import ConfigTable, fixed
from jaxmotion.weights.rules import conv, under

_LAYER = (
    *conv("layers.{layer}", "layer_{layer}"),
    *conv("layers.{layer}.conv.0", "layer_{layer}/conv_in"),
    *conv("layers.{layer}.conv.2", "layer_{layer}/conv_middle"),
    *conv("layers.{layer}.conv.4", "layer_{layer}/conv_out"),
)

AUTOENCODER_TINY = (*under("encoder.", "encoder/", _LAYER), *under("decoder.", "decoder/", _LAYER))


def infer_autoencoder_tiny(seen: Shapes) -> Network:
    """Returns the autoencoder.

    Its encoder is a convolution, then for each stage a convolution (not for the first) and blocks, then a convolution.
    """
    kernels = sorted(
        (int(found[1]), found[2] is not None)
        for path in seen
        if (found := re.fullmatch(r"encoder/layer_(\d+)(/conv_in)?/kernel", path))
    )
    blocks, count = [], 0
    for _, is_block in kernels[1:]:
        count += is_block
        if not is_block:
            blocks.append(count)
            count = 0
    features, latents = seen["encoder/layer_0/kernel"][3], seen["decoder/layer_0/kernel"][2]
    side = 2 ** max(len(blocks) - 1, 0)
    network = AutoencoderTiny(AutoencoderTinySizes(latents, features, tuple(blocks)))
    return network, (jnp.zeros((1, 1, side, side, 3)),)


CONFIG = ConfigTable(
    AutoencoderTinySizes,
    fixed(act_fn="relu", upsample_fn="nearest", upsampling_scaling_factor=2, scaling_factor=1.0, shift_factor=0.0),
)

FORMATS = (
    Format(
        "diffusers-vae-tiny",
        "a tiny autoencoder as diffusers saves it (AutoencoderTiny)",
        {"codec": AUTOENCODER_TINY},
        ("encoder.layers.0.weight", "decoder.layers.0.weight"),
        networks={"codec": infer_autoencoder_tiny},
        configs={"codec": (CONFIG,)},
    ),
)
