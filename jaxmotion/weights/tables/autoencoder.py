"""Stable Diffusion's autoencoder, as diffusers names it.

Source: `AutoencoderKL` of diffusers. Older files, that of Stable Diffusion 1.5 among them, name the middle's attention
query, key, value and proj_attn.
"""

from __future__ import annotations

from collections.abc import Iterable

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
