"""LivePhoto: a photo, a caption and a motion level become a clip.

Source: LivePhoto (arXiv:2312.02928). A frozen Stable Diffusion 1.5 U-Net with AnimateDiff-style motion modules; what
the paper adds enters as conditions: reference latent, frame map and level map as channels beside the noise latent
(4 + 4 + 1 + 1), DINOv2 content as tokens, and re-weighted text. The rows of its ablation tables are this list of
conditioners with one left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Self

from jaxtyping import Int, UInt8

from jaxmotion.diffusion.loss import MinSNR, Uniform
from jaxmotion.diffusion.process import Process
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.entries import IMAGE, VIDEO
from jaxmotion.foundation.types import Array, Batch, Params
from jaxmotion.models.animatediff import NORM_AXES, MotionModule, MotionNorm
from jaxmotion.models.autoencoder import KLCodec
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.models.stable_diffusion import SHARDING, stable_diffusion_unet, transformer_layers
from jaxmotion.models.unet import UNet, UNetSizes
from jaxmotion.nn.transformer import GatedCrossAttention
from jaxmotion.systems import pretrained
from jaxmotion.systems.conditioner import Conditioner, separate_dropout
from jaxmotion.systems.control import Controls, Scalar
from jaxmotion.systems.export import Exporter
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.livephoto.export import EXPORTS
from jaxmotion.systems.livephoto.intensity import LEVEL, LevelMap, level_of, ssim_intensity
from jaxmotion.systems.lora import PretrainedLoRA
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.reference import first_frame
from jaxmotion.systems.video_diffusion import VideoDiffusion, VideoDiffusionSystem


@register(upgrade=separate_dropout)
@dataclasses.dataclass(frozen=True)
class LivePhoto(VideoDiffusionSystem):
    """The sizes and ingredients of a LivePhoto model."""

    unet: UNetSizes
    """The denoiser; its condition channels and content layers follow from the conditioners."""
    codec: KLCodec | SpaceToDepth
    conditioners: dict[str, Conditioner]
    """The conditions of the denoiser, by name; the ones that bring channels stand in the order of the channels."""
    process: Process = Process()
    weighting: Uniform | MinSNR = Uniform()
    frames: int = 16
    size: tuple[int, int] = (256, 256)
    """Height and width in pixels."""
    dropout: dict[str, float] = dataclasses.field(default_factory=dict)
    """Share of training clips for which a conditioner is dropped, by its name."""
    motion_in_middle: bool = False
    """Whether the middle of the U-Net has a motion module too, as AnimateDiff v2 has and v1 and v3 have not."""
    motion_norm: MotionNorm = "clip"
    """What the norms of motion modules average over: the whole `clip`, as diffusers computes AnimateDiff's weights, or
    each `frame`, as AnimateDiff's own code and ComfyUI's nodes do."""
    sample_posterior: bool = False
    """Whether training draws the latents of clips from the autoencoder's posterior, as AnimateDiff's own training does,
    instead of taking their mean."""

    def __post_init__(self) -> None:
        if self.motion_norm not in NORM_AXES:
            raise ValueError(f"LivePhoto.motion_norm is {self.motion_norm!r}; it can be {' or '.join(NORM_AXES)}.")

    def build(self) -> VideoDiffusion:
        """The model. Raises ValueError when the size does not fit the codec."""
        latent_shape = LatentShape.for_clips(self.codec, self.frames, self.size, stride=self.unet.stride)
        tokens = [name for c in self.conditioners.values() for name in c.tokens()]
        unet = livephoto_unet(
            dataclasses.replace(self.unet, condition_channels=self.condition_channels),
            tokens,
            self.frames,
            norm=self.motion_norm,
            motion_in_middle=self.motion_in_middle,
        )
        level, measures = self.level, {IMAGE: lambda params, batch: first_frame(batch)}
        if level is not None:
            measures[LEVEL] = partial(_level_of_clip, level.edges)
        return VideoDiffusion(
            latent_shape=latent_shape,
            conditioners=self.conditioners,
            denoiser=unet,
            process=self.process,
            weighting=self.weighting,
            measured_entries=measures,
            dropout=self.dropout,
            denoiser_sharding=SHARDING,
            sample_posterior=self.sample_posterior,
        )

    @property
    def level(self) -> LevelMap | None:
        """The conditioner that carries the motion level; None when it is ablated."""
        return next((c for c in self.conditioners.values() if isinstance(c, LevelMap)), None)

    @property
    def controls(self) -> Controls:
        """The motion level. Source: Sec. 3.4."""
        words = "motion level, 1 (nearly still) to 10"
        return {LEVEL: Scalar(description=words, integer=True, default=5, unit=words)}

    def exports(self) -> Mapping[str, Exporter]:
        return EXPORTS

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        return {
            "backbone": pretrained.backbone(),
            "motion_module": pretrained.motion_module(),
            "vae": pretrained.vae(),
            "text_encoder": pretrained.text_encoder(),
            "content_encoder": pretrained.content_encoder(),
            "lora": PretrainedLoRA(),
        }

    def measure_calibration(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Json:
        """The edges between the levels, measured on training clips."""
        level = self.level
        return {} if level is None or level.edges else {"level_edges": level.measure_edges(clips)}

    def with_calibration(self, measured: Json) -> Self:
        """Returns this config with the measured edges in its level map."""
        level = self.level
        if level is None or "level_edges" not in measured:
            return self
        filled = dataclasses.replace(level, edges=tuple(measured["level_edges"]))
        conditioners = {name: filled if each is level else each for name, each in self.conditioners.items()}
        return dataclasses.replace(self, conditioners=conditioners)


def livephoto_unet(
    sizes: UNetSizes, tokens: Sequence[str], frames: int, *, norm: MotionNorm = "clip", motion_in_middle: bool = False
) -> UNet:
    """Stable Diffusion's U-Net with gated cross-attention to tokens it does not know, and motion modules in all stages.

    Source: Sec. 3.2 (motion modules "at each stage", aligned with AnimateDiff) and Sec. 3.3 (new cross-attention).
    Not specified in the paper; we use: the new cross-attention stands before the one to the text and starts behind a
    closed gate, tanh(0); motion modules follow every block of the way down and up, as in AnimateDiff's first and third
    weights, and the middle only if `motion_in_middle`, as in its second.
    """
    plain = transformer_layers(sizes)
    added = {
        name: partial(GatedCrossAttention, sizes.heads, reads=name, kernel=sizes.attention_kernel)
        for name in tokens
        if name not in plain
    }
    transformer = {"space": plain["space"], **added, "text": plain["text"], "feedforward": plain["feedforward"]}
    motion = partial(
        MotionModule,
        sizes.heads,
        sizes.groups,
        frames=max(frames, 32),
        expansion=sizes.expansion,
        norm_axes=NORM_AXES[norm],
    )
    middle = {"motion": motion} if motion_in_middle else {}
    return stable_diffusion_unet(sizes, transformer, after_block={"motion": motion}, after_middle=middle)


def _level_of_clip(edges: tuple[float, ...], params: Params, batch: Batch) -> Int[Array, " B"]:
    """The motion level of a training clip. Source: Sec. 3.4."""
    if not edges:
        raise ValueError("The edges between the levels are not measured yet; call measure_calibration.")
    return level_of(ssim_intensity(batch[VIDEO]), edges)
