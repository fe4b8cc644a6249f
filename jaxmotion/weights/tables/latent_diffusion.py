"""Stable Diffusion 1.5 as one file, in the names of the latent diffusion code (`v1-5-pruned*` and most fine-tunes).

Source: the public code of latent diffusion (arXiv:2112.10752), modules `openaimodel` and `autoencoder`. It numbers
the blocks of the U-Net in one row, so the tables are written for the stages and blocks of Stable Diffusion 1.5.
"""

from __future__ import annotations

from jaxmotion.weights.checkpoint_format import Format
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import Rule, conv, linear, norm, pointwise, under
from jaxmotion.weights.tables.autoencoder import infer_autoencoder_kl
from jaxmotion.weights.tables.clip import CLIP_TEXT, CLIP_TEXT_BARE, TEXT_HEADER, infer_clip_text
from jaxmotion.weights.tables.process import HEADER_CONFIG
from jaxmotion.weights.tables.stable_diffusion import TRANSFORMER, infer_unet

STAGES, BLOCKS = 4, 2
ATTENTION = (True, True, True, False)

RESNET = (
    *norm("in_layers.0", "norm_in"),
    *conv("in_layers.2", "conv_in"),
    *linear("emb_layers.1", "time"),
    *norm("out_layers.0", "norm_out"),
    *conv("out_layers.3", "conv_out"),
    *pointwise("skip_connection", "shortcut"),
)


def _block(torch: str, path: str, attention: bool) -> tuple[Rule, ...]:
    transformer = under(f"{torch}1.", f"{path}transformer/", TRANSFORMER) if attention else ()
    return (*under(f"{torch}0.", f"{path}resnet/", RESNET), *transformer)


def _down() -> tuple[Rule, ...]:
    rules: tuple[Rule, ...] = ()
    for stage in range(STAGES):
        first = 1 + stage * (BLOCKS + 1)
        for block in range(BLOCKS):
            rules += _block(f"input_blocks.{first + block}.", f"down_{stage}_block_{block}/", ATTENTION[stage])
        if stage < STAGES - 1:
            rules += conv(f"input_blocks.{first + BLOCKS}.0.op", f"down_{stage}_downsample/conv")
    return rules


def _up() -> tuple[Rule, ...]:
    rules: tuple[Rule, ...] = ()
    for stage, attention in enumerate(reversed(ATTENTION)):
        first = stage * (BLOCKS + 1)
        for block in range(BLOCKS + 1):
            rules += _block(f"output_blocks.{first + block}.", f"up_{stage}_block_{block}/", attention)
        if stage < STAGES - 1:
            place = 2 if attention else 1
            rules += conv(f"output_blocks.{first + BLOCKS}.{place}.conv", f"up_{stage}_upsample/conv")
    return rules


LDM_UNET = (
    *conv("input_blocks.0.0", "conv_in"),
    *linear("time_embed.0", "time_embedding/linear_in"),
    *linear("time_embed.2", "time_embedding/linear_out"),
    *_down(),
    *under("middle_block.0.", "middle/resnet_in/", RESNET),
    *under("middle_block.1.", "middle/transformer/", TRANSFORMER),
    *under("middle_block.2.", "middle/resnet_out/", RESNET),
    *_up(),
    *norm("out.0", "norm_out"),
    *conv("out.2", "conv_out"),
)

_VAE_RESNET = (
    *norm("norm1", "norm_in"),
    *conv("conv1", "conv_in"),
    *norm("norm2", "norm_out"),
    *conv("conv2", "conv_out"),
    *pointwise("nin_shortcut", "shortcut"),
)
_VAE_MIDDLE = (
    *under("block_1.", "resnet_in/", _VAE_RESNET),
    *norm("attn_1.norm", "norm"),
    *pointwise("attn_1.q", "attention/query"),
    *pointwise("attn_1.k", "attention/key"),
    *pointwise("attn_1.v", "attention/value"),
    *pointwise("attn_1.proj_out", "attention/out"),
    *under("block_2.", "resnet_out/", _VAE_RESNET),
)


def _decoder_stages() -> tuple[Rule, ...]:
    """Their decoder counts its stages from the finest, ours from the coarsest."""
    rules: tuple[Rule, ...] = ()
    for up in range(STAGES):
        theirs = f"decoder.up.{STAGES - 1 - up}"
        rules += under(f"{theirs}.block.{{block}}.", f"decoder/up_{up}_resnet_{{block}}/", _VAE_RESNET)
        rules += conv(f"{theirs}.upsample.conv", f"decoder/up_{up}_upsample/conv")
    return rules


LDM_AUTOENCODER = (
    *conv("encoder.conv_in", "encoder/conv_in"),
    *under("encoder.down.{stage}.block.{block}.", "encoder/down_{stage}_resnet_{block}/", _VAE_RESNET),
    *conv("encoder.down.{stage}.downsample.conv", "encoder/down_{stage}_downsample/conv"),
    *under("encoder.mid.", "encoder/middle/", _VAE_MIDDLE),
    *norm("encoder.norm_out", "encoder/norm_out"),
    *conv("encoder.conv_out", "encoder/conv_out"),
    *pointwise("quant_conv", "moments"),
    *pointwise("post_quant_conv", "latents"),
    *conv("decoder.conv_in", "decoder/conv_in"),
    *under("decoder.mid.", "decoder/middle/", _VAE_MIDDLE),
    *_decoder_stages(),
    *norm("decoder.norm_out", "decoder/norm_out"),
    *conv("decoder.conv_out", "decoder/conv_out"),
)

_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."

SINGLE_FILE = {
    "denoiser": under(_UNET, "", LDM_UNET),
    "codec": under(_VAE, "", LDM_AUTOENCODER),
    "text_encoder": under(_TEXT, "", CLIP_TEXT),
}
"""The three networks of a whole file by part. A file without some of them is whole too."""

SINGLE_FILE_BARE = {**SINGLE_FILE, "text_encoder": under(_TEXT, "", CLIP_TEXT_BARE)}
"""The same from tools that leave out `text_model.`."""

LEFT_BY_TRAINING = (
    "model_ema.*",
    "betas",
    "alphas_cumprod*",
    "sqrt_*",
    "log_one_minus_alphas_cumprod",
    "posterior_*",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "first_stage_model.loss.*",
    "first_stage_model.model_ema.*",
    "embedding_manager.*",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection*",
    f"{_TEXT}text_model.embeddings.position_ids",
    f"{_TEXT}embeddings.position_ids",
)
"""What such files hold beside the networks: tables of the schedule, running means, the loss of the autoencoder."""


_NETWORKS = {"denoiser": infer_unet, "codec": infer_autoencoder_kl, "text_encoder": infer_clip_text}
_CONFIGS = {"denoiser": (HEADER_CONFIG,), "text_encoder": (TEXT_HEADER,)}

FORMATS = (
    Format(
        "sd-single-file",
        "Stable Diffusion 1.5 in one file, in the names of latent diffusion",
        SINGLE_FILE,
        ("model.diffusion_model.input_blocks.0.0.weight",),
        forbidden=("cond_stage_model.transformer.embeddings.token_embedding.weight", "*temporal_transformer*"),
        ignored=LEFT_BY_TRAINING,
        networks=_NETWORKS,
        configs=_CONFIGS,
    ),
    Format(
        "sd-single-file-bare",
        "Stable Diffusion 1.5 in one file, its text encoder without text_model.",
        SINGLE_FILE_BARE,
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            "cond_stage_model.transformer.embeddings.token_embedding.weight",
        ),
        ignored=LEFT_BY_TRAINING,
        networks=_NETWORKS,
        configs=_CONFIGS,
    ),
    Format(
        "ldm-vae",
        "an autoencoder of Stable Diffusion in the names of latent diffusion",
        {"codec": LDM_AUTOENCODER},
        ("quant_conv.weight", "decoder.mid.attn_1.q.weight"),
        ignored=("loss.*", "model_ema.*"),
        networks={"codec": infer_autoencoder_kl},
    ),
)

LORA_PARTS = (
    LoRAPart(
        "denoiser", "unet", ("lora_unet", "lycoris"), (LDM_UNET,), "the U-Net of Stable Diffusion 1.5", alternate=True
    ),
)
"""Names of the full depth of Stable Diffusion 1.5."""
