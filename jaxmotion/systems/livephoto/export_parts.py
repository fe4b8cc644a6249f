"""LivePhoto as a pipeline of public classes: which part of it goes into which component, and what ships beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmotion.diffusion.guidance import CogVideoXDynamic
from jaxmotion.diffusion.sampling import Noise, Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.models.autoencoder import KLCodec
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.embedding import position_sinusoid
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.export import ExportableTokenizer
from jaxmotion.systems.livephoto import export_rules as rules
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import FrameMap, LevelMap
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.systems.text import TextTokens
from jaxmotion.weights.checkpoint_format import with_widened_input
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.diffusers_folder import Component, Pipeline
from jaxmotion.weights.diffusers_scheduler import scheduler_of
from jaxmotion.weights.rules import ConversionError, Rules, Tensors, paths_with_rules, tensors_of, under
from jaxmotion.weights.tables.autoencoder import AUTOENCODER, autoencoder_kl_config
from jaxmotion.weights.tables.clip import CLIP_TEXT, clip_text_config
from jaxmotion.weights.tables.dinov2 import DINOV2, DINOV2_GATED, dinov2_config
from jaxmotion.weights.tables.stable_diffusion import (
    MOTION,
    UNET,
    motion_adapter_config,
    num_positions,
    unet_motion_config,
)

if TYPE_CHECKING:
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

CODE = Path(__file__).parent / "pytorch"
"""Folder of PyTorch files that ship with exports of this system."""
_CHANNELS = {ReferenceLatent: "reference", FrameMap: "frame", LevelMap: "level"}
_TOKENS = (ContentTokens, TextTokens, ReweightedText)


def pipeline_of(system: LivePhoto, params: Tensors, sampling: Sampling, tokenizer: ExportableTokenizer) -> Pipeline:
    """The pipeline that makes the clips of this system.

    Args:
        params: all parameters by path, as `flat_parameters` gives them.

    Raises:
        ValueError: a part of the system has no form that diffusers can load; the message says which and why.
    """
    found = ingredients(system)
    text = found[TextTokens].encoder
    if (text.vocabulary, text.length) != (tokenizer.vocabulary, tokenizer.length):
        raise ValueError(
            f"The text encoder reads {text.length} tokens of a vocabulary of {text.vocabulary}; the tokenizer makes "
            f"{tokenizer.length} of {tokenizer.vocabulary}."
        )
    clip_text = under("", "text_encoder/", CLIP_TEXT)
    components = {
        "unet": Component("diffusers", "UNetMotionModel", unet_config(system), tensors=unet_tensors(system, params)),
        "vae": _codec(system, params),
        "tokenizer": tokenizer.export(),
        "text_encoder": Component(
            "transformers", "CLIPTextModel", clip_text_config(text), tensors=tensors_with_rules(clip_text, params)
        ),
        "scheduler": _scheduler(system, sampling),
    }
    if ReweightedText in found:
        components["text_reweighting"] = _reweighting(system, found[ReweightedText], text.features, params)
    if ContentTokens in found:
        components |= _content(system, found[ContentTokens], params)
    spare = set(params) - {path for table in tables(system) for path in paths_with_rules(table, params)}
    if spare:
        raise ConversionError(unexpected=sorted(spare), source="What an export writes")
    return Pipeline("pipeline", "LivePhotoPipeline", components, _arguments(system, sampling), CODE)


def tables(system: LivePhoto) -> list[Rules]:
    """The rules of all components; together they name every parameter once."""
    found = ingredients(system)
    codec = [under("", "codec/", AUTOENCODER)] if isinstance(system.codec, KLCodec) else []
    reweighting = [rules.TEXT_REWEIGHTING] if ReweightedText in found else []
    content = [rules.CONTENT_LAYERS, _dinov2(found[ContentTokens])] if ContentTokens in found else []
    return [_unet(system), under("", "text_encoder/", CLIP_TEXT), *codec, *reweighting, *content]


def ingredients(system: LivePhoto) -> dict[type, Any]:
    """The conditioners by class.

    Raises:
        ValueError: one of them is of a class that the exported pipeline does not know.
    """
    found = {type(each): each for conditioner in system.conditioners.values() for each in _stack(conditioner)}
    for kind in found:
        if kind not in (*_CHANNELS, *_TOKENS):
            raise ValueError(f"An exported LivePhoto has no place for the conditioner {kind.__name__}.")
    if TextTokens not in found:
        raise ValueError("An exported LivePhoto needs text tokens; this system has none.")
    return found


def unet_sizes(system: LivePhoto) -> UNetSizes:
    """The sizes of the denoiser with its condition channels."""
    channels = sum(conditioner.channels(system.codec) for conditioner in system.conditioners.values())
    return dataclasses.replace(system.unet, condition_channels=channels)


def unet_config(system: LivePhoto) -> Json:
    """The config.json of the denoiser as `UNetMotionModel`."""
    height, width = (pixels // system.codec.spatial_compression for pixels in system.size)
    return unet_motion_config(
        unet_sizes(system),
        text_features=ingredients(system)[TextTokens].encoder.features,
        frames=system.frames,
        size=(height, width),
        middle=system.motion_in_middle,
    )


def unet_tensors(system: LivePhoto, params: Tensors) -> dict[str, Any]:
    """The `state_dict` of the denoiser as `UNetMotionModel`."""
    tensors = tensors_with_rules(_unet(system), params)
    return {**tensors, **positions(tensors, system.frames)}


def adapter_of(system: LivePhoto, params: Tensors) -> Component:
    """The motion modules and the widened first convolution, as a `MotionAdapter`.

    `UNetMotionModel.from_unet2d` takes all motion modules, of the first convolution the columns from the fifth on, and
    of its bias nothing.

    Raises:
        ValueError: the latents have not four channels, so those columns would be others; or the modules norm frame by
            frame, which the class does not.
    """
    sizes = unet_sizes(system)
    if system.motion_norm == "frame":
        raise ValueError(
            "These motion modules norm each frame alone (system.motion_norm frame); diffusers' MotionAdapter norms the "
            "whole clip and would compute something else. Export it as diffusers, whose pipeline norms as they do, or "
            "as comfy."
        )
    if sizes.in_channels != 4:
        raise ValueError(
            f"A MotionAdapter attaches to U-Nets with latents of 4 channels; these have {sizes.in_channels}. "
            "Export the whole pipeline instead."
        )
    config = motion_adapter_config(sizes, frames=system.frames, middle=system.motion_in_middle)
    motion = tensors_with_rules(under("", "denoiser/", MOTION), params)
    tensors = {**motion, **positions(motion, system.frames)}
    if sizes.condition_channels:
        unet = tensors_with_rules(_unet(system), params)
        tensors |= {name: unet[name] for name in ("conv_in.weight", "conv_in.bias")}
    return Component("diffusers", "MotionAdapter", config, tensors=tensors)


def tensors_with_rules(table: Rules, params: Tensors) -> dict[str, Any]:
    """The tensors of those parameters that the rules name."""
    return dict(tensors_of(table, {path: params[path] for path in paths_with_rules(table, params)}))


def positions(tensors: Tensors, frames: int) -> dict[str, np.ndarray]:
    """The tables of sines and cosines that motion modules keep beside their parameters, one for each block."""
    query, length = ".attn1.to_q.weight", num_positions(frames)
    blocks = [name.removesuffix(query) for name in tensors if name.endswith(query) and ".motion_modules." in name]
    widths = {block: tensors[block + query].shape[0] for block in blocks}
    return {f"{block}.pos_embed.pe": position_sinusoid(length, width)[None] for block, width in widths.items()}


def _stack(conditioner: Conditioner) -> Iterator[Conditioner]:
    """A conditioner and the one that it builds on."""
    yield conditioner
    if isinstance(conditioner, ReweightedText):
        yield from _stack(conditioner.base)


def _unet(system: LivePhoto) -> Rules:
    sizes, table = unet_sizes(system), (*UNET, *MOTION)
    return under("", "denoiser/", with_widened_input(table, sizes.in_channels) if sizes.condition_channels else table)


def _dinov2(content: ContentTokens) -> Rules:
    return under("", "content_encoder/", DINOV2_GATED if content.encoder.gated else DINOV2)


def _codec(system: LivePhoto, params: Tensors) -> Component:
    codec = system.codec
    match codec:
        case KLCodec():
            config = autoencoder_kl_config(codec.sizes, system.size)
            tensors = tensors_with_rules(under("", "codec/", AUTOENCODER), params)
            return Component("diffusers", "AutoencoderKL", config, tensors=tensors)
        case SpaceToDepth():
            config = config_of("SpaceToDepth", factor=codec.spatial_compression, scaling_factor=codec.scale)
            return Component("space_to_depth", "SpaceToDepth", config, tensors={"basis": codec.basis()})
    raise ValueError(f"The codec {type(codec).__name__} has no form that diffusers can load.")


def _scheduler(system: LivePhoto, sampling: Sampling) -> Component:
    name, arguments = scheduler_of(system.process, sampling.sampler)
    return Component("diffusers", name, config_of(name, **arguments), "scheduler_config.json")


def _reweighting(system: LivePhoto, reweighted: ReweightedText, features: int, params: Tensors) -> Component:
    config = config_of(
        "TextReweighting",
        dim=features,
        num_frames=system.frames,
        num_layers=reweighted.layers,
        heads=reweighted.heads,
        initial_weight=reweighted.initial_weight,
    )
    tensors = tensors_with_rules(rules.TEXT_REWEIGHTING, params)
    return Component("text_reweighting", "TextReweighting", config, tensors=tensors, code=CODE)


def _content(system: LivePhoto, content: ContentTokens, params: Tensors) -> dict[str, Component]:
    config = dinov2_config(content.encoder)
    encoder = Component(
        "transformers", config["architectures"][0], config, tensors=tensors_with_rules(_dinov2(content), params)
    )
    config = config_of(
        "ContentLayers",
        input_dim=content.encoder.features,
        cross_attention_dim=content.features,
        heads=system.unet.heads,
        image_size=content.encoder.image_size,
        blocks=_attending(system.unet),
    )
    tensors = tensors_with_rules(rules.CONTENT_LAYERS, params)
    layers = Component("content_layers", "ContentLayers", config, tensors=tensors, code=CODE)
    return {"content_encoder": encoder, "content_layers": layers}


def _attending(sizes: UNetSizes) -> dict[str, int]:
    """Features of every spatial transformer, by its name in diffusers' U-Net."""
    stages = list(zip(sizes.features, sizes.attention_stages, strict=True))
    down = {
        f"down_blocks.{stage}.attentions.{block}": features
        for stage, (features, attends) in enumerate(stages)
        if attends
        for block in range(sizes.blocks_per_stage)
    }
    up = {
        f"up_blocks.{stage}.attentions.{block}": features
        for stage, (features, attends) in enumerate(reversed(stages))
        if attends
        for block in range(sizes.blocks_per_stage + 1)
    }
    return {**down, "mid_block.attentions.0": sizes.features[-1], **up}


def _arguments(system: LivePhoto, sampling: Sampling) -> Json:
    """The pipeline's arguments that are no components."""
    match sampling.initial_noise:
        case PriorInversion(first, last):
            prior = [first, last]
        case Noise():
            prior = [0.0, 0.0]
        case other:
            raise ValueError(f"An exported LivePhoto cannot start from {type(other).__name__}.")
    order = [
        _CHANNELS[type(each)] for c in system.conditioners.values() for each in _stack(c) if type(each) in _CHANNELS
    ]
    return {
        "clip": {
            "num_frames": system.frames,
            "height": system.size[0],
            "width": system.size[1],
            "vae_scale_factor": system.codec.spatial_compression,
        },
        "channels": ",".join(order),
        "level_scale": system.level.scale if system.level else 1.0,
        "motion_norm": system.motion_norm,
        "defaults": {
            "num_inference_steps": sampling.sampler.steps,
            "guidance_scale": sampling.guidance,
            "use_dynamic_cfg": sampling.guidance_schedule == CogVideoXDynamic(),
            "eta": getattr(sampling.sampler, "eta", 0.0),
            "prior_strength": prior,
            "num_inversion_steps": sampling.count_inversion_steps(),
            "decode_chunk_size": getattr(system.codec, "frames_at_once", 0),
        },
    }
