"""The tiny video decoder, as its public files name it: a plain sequence of numbered layers.

Source: TAEHV (github.com/madebyollin/taehv). The encoder of these files has no use here and is kept beside.
"""

from __future__ import annotations

import re

import jax.numpy as jnp

from jaxmotion.models.autoencoder_tiny3d import TinyDecoder3D, TinyDecoder3DSizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.rules import conv, pointwise, under

_LAYER = (
    *conv("{layer}.conv.0", "layer_{layer}/conv_in"),
    *conv("{layer}.conv.2", "layer_{layer}/conv_middle"),
    *conv("{layer}.conv.4", "layer_{layer}/conv_out"),
    *pointwise("{layer}.conv", "layer_{layer}/grow"),
    *conv("{layer}", "layer_{layer}"),
)

TINY_DECODER_3D = under("decoder.", "", _LAYER)
ENCODER = ("encoder.*",)


def infer_tiny_decoder3d(seen: Shapes) -> Network:
    """Returns the decoder; a stage is three blocks, a layer that may double frames, and a convolution."""
    grown = sorted(int(found[1]) for path in seen if (found := re.fullmatch(r"layer_(\d+)/grow/kernel", path)))
    kernels = {number: seen[f"layer_{number}/grow/kernel"] for number in grown}
    sizes = TinyDecoder3DSizes(
        latent_channels=seen["layer_1/kernel"][2],
        features=(seen["layer_1/kernel"][3], *(seen[f"layer_{number + 1}/kernel"][3] for number in grown)),
        doublings=tuple(kernel[1] == 2 * kernel[0] for kernel in kernels.values()),
        blocks=grown[0] - 4,
    )
    return TinyDecoder3D(sizes), (jnp.zeros((1, 2, 1, 1, sizes.latent_channels)),)


FORMATS = (
    Format(
        "taehv",
        "a tiny video autoencoder, whose decoder makes previews (TAEHV, such as taecvx)",
        {"preview": TINY_DECODER_3D},
        ("decoder.1.weight", "decoder.3.conv.0.weight", "decoder.22.weight"),
        ignored=ENCODER,
        networks={"preview": infer_tiny_decoder3d},
    ),
)
