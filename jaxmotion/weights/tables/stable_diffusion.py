"""Stable Diffusion 1.5's U-Net and AnimateDiff's motion modules, as diffusers names them.

Source: `UNet2DConditionModel`, `MotionAdapter` and `UNetMotionModel` of diffusers.
"""

from __future__ import annotations

from jaxmotion.weights.rules import Rule, conv, linear, norm, pair, pointwise, under


def attention(torch: str, path: str) -> tuple[Rule, ...]:
    """An attention layer of diffusers."""
    return (
        *linear(f"{torch}.to_q", f"{path}/query"),
        *linear(f"{torch}.to_k", f"{path}/key"),
        *linear(f"{torch}.to_v", f"{path}/value"),
        *linear(f"{torch}.to_out.0", f"{path}/out"),
    )


def feedforward(torch: str, path: str) -> tuple[Rule, ...]:
    """A feedforward layer with GEGLU of diffusers."""
    return (*pair(f"{torch}.net.0.proj", f"{path}/linear_in"), *linear(f"{torch}.net.2", f"{path}/linear_out"))


def _block(first: str, second: str) -> tuple[Rule, ...]:
    """A transformer block of two attentions and a feedforward layer."""
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
    *_block("space", "text"),
    *pointwise("proj_out", "proj_out"),
)
MOTION_MODULE = (
    *norm("norm", "norm"),
    *linear("proj_in", "proj_in"),
    *_block("time_0", "time_1"),
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
