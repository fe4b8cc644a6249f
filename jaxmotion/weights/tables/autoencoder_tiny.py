"""The tiny autoencoder, as diffusers names it.

Source: `AutoencoderTiny` of diffusers, whose encoder and decoder are plain sequences of numbered layers.
"""

from __future__ import annotations

from jaxmotion.weights.rules import conv, under

_LAYER = (
    *conv("layers.{layer}", "layer_{layer}"),
    *conv("layers.{layer}.conv.0", "layer_{layer}/conv_in"),
    *conv("layers.{layer}.conv.2", "layer_{layer}/conv_middle"),
    *conv("layers.{layer}.conv.4", "layer_{layer}/conv_out"),
)

AUTOENCODER_TINY = (*under("encoder.", "encoder/", _LAYER), *under("decoder.", "decoder/", _LAYER))
