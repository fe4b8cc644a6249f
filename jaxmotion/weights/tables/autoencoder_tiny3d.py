"""The tiny video decoder, as its public files name it: a plain sequence of numbered layers.

Source: TAEHV (github.com/madebyollin/taehv). The encoder of these files has no use here and is kept beside.
"""

from __future__ import annotations

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
