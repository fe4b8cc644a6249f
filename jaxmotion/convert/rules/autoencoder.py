"""Stable Diffusion's autoencoder, as diffusers names it.

Source: `AutoencoderKL` of diffusers. Older files name the middle's attention query, key, value and proj_attn.
"""

from __future__ import annotations

from jaxmotion.convert.rename import conv, linear, norm, pointwise, under

_RESNET = (
    *norm("norm1", "norm_in"),
    *conv("conv1", "conv_in"),
    *norm("norm2", "norm_out"),
    *conv("conv2", "conv_out"),
    *pointwise("conv_shortcut", "shortcut"),
)
_MIDDLE = (
    *under("resnets.0.", "resnet_in/", _RESNET),
    *norm("attentions.0.group_norm", "norm"),
    *linear("attentions.0.to_q", "attention/query"),
    *linear("attentions.0.to_k", "attention/key"),
    *linear("attentions.0.to_v", "attention/value"),
    *linear("attentions.0.to_out.0", "attention/out"),
    *linear("attentions.0.query", "attention/query"),
    *linear("attentions.0.key", "attention/key"),
    *linear("attentions.0.value", "attention/value"),
    *linear("attentions.0.proj_attn", "attention/out"),
    *under("resnets.1.", "resnet_out/", _RESNET),
)

AUTOENCODER = (
    *conv("encoder.conv_in", "encoder/conv_in"),
    *under("encoder.down_blocks.{stage}.resnets.{block}.", "encoder/down_{stage}_resnet_{block}/", _RESNET),
    *conv("encoder.down_blocks.{stage}.downsamplers.0.conv", "encoder/down_{stage}_downsample/conv"),
    *under("encoder.mid_block.", "encoder/middle/", _MIDDLE),
    *norm("encoder.conv_norm_out", "encoder/norm_out"),
    *conv("encoder.conv_out", "encoder/conv_out"),
    *pointwise("quant_conv", "moments"),
    *pointwise("post_quant_conv", "latents"),
    *conv("decoder.conv_in", "decoder/conv_in"),
    *under("decoder.mid_block.", "decoder/middle/", _MIDDLE),
    *under("decoder.up_blocks.{stage}.resnets.{block}.", "decoder/up_{stage}_resnet_{block}/", _RESNET),
    *conv("decoder.up_blocks.{stage}.upsamplers.0.conv", "decoder/up_{stage}_upsample/conv"),
    *norm("decoder.conv_norm_out", "decoder/norm_out"),
    *conv("decoder.conv_out", "decoder/conv_out"),
)
