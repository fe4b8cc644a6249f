"""MotionStone: a photo, a caption and two scores, one for the objects and one for the camera, become a clip.

Source: MotionStone (arXiv:2412.05848). CogVideoX-I2V, whose time embedding is told both scores. Table 2's rows are this
system with another source of scores (`intensity`) or other shares of the time embedding (`injection.ScoreEmbedding`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Self

from jaxtyping import UInt8

from jaxmotion.diffusion.loss import MinSNR, Uniform
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.schedule import scaled_linear, zero_terminal_snr
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.entries import CAMERA, IMAGE, OBJECT
from jaxmotion.foundation.types import Array
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.cogvideox import CogVideoX, CogVideoXSizes
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.systems import pretrained
from jaxmotion.systems.conditioner import Conditioner, separate_dropout
from jaxmotion.systems.control import Controls, Scalar
from jaxmotion.systems.export import Exporter
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.lora import PretrainedLoRA
from jaxmotion.systems.motionstone.export import EXPORTS
from jaxmotion.systems.motionstone.injection import ScoreEmbedding
from jaxmotion.systems.motionstone.intensity import INTENSITY, Intensity, ProvidedScores
from jaxmotion.systems.precompute import Precompute, precompute_latents
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.reference import first_frame
from jaxmotion.systems.video_diffusion import VideoDiffusion, VideoDiffusionSystem
from jaxmotion.video import motion_scale

_CONTROLS = {
    OBJECT: "how fast the objects move, 1 (still) to 10",
    CAMERA: "how fast the camera moves, 1 (still) to 10",
    INTENSITY: "how much moves, of objects and camera together, 1 (still) to 10",
}

MEASURED_BY = {
    OBJECT: ("object_speed",),
    CAMERA: ("camera_speed",),
    INTENSITY: ("object_speed", "camera_speed"),
}
"""Measures (`evaluation.measures`) of the motion that each score is meant to move."""
UNITS = {
    OBJECT: motion_scale.SCORE,
    CAMERA: motion_scale.SCORE,
    INTENSITY: "rank of an intensity among the training clips, 1 to 10",
}
HELD = {CAMERA: 1.0, OBJECT: 5.0}
"""Scores while the other is swept for a control curve. Source: MotionStone, its qualitative sweeps: the camera's at an
object score of 5, the object's at the lowest camera score."""


def _separate_dropout(values: Json) -> Json:
    """Earlier versions kept the rate of dropping the picture in its conditioner, `FirstFrame.dropped`."""
    values = separate_dropout(values)
    for name, part in values["conditioners"].items():
        if "dropped" in part:
            values["conditioners"][name] = {key: value for key, value in part.items() if key != "dropped"}
            values["dropout"][name] = part["dropped"]
    return values


@register(upgrade=_separate_dropout)
@dataclasses.dataclass(frozen=True)
class MotionStone(VideoDiffusionSystem):
    """The sizes and ingredients of a MotionStone model."""

    transformer: CogVideoXSizes
    """The denoiser; its channels must fit the conditioners'."""
    codec: CausalCodec | SpaceToDepth
    conditioners: dict[str, Conditioner]
    """The conditions of the denoiser, by name; guidance scales go by these names."""
    intensity: Intensity = ProvidedScores()
    """Where the scores of training clips come from."""
    process: Process = Process(zero_terminal_snr(scaled_linear()), "v")
    weighting: Uniform | MinSNR = Uniform()
    frames: int = 49
    size: tuple[int, int] = (480, 720)
    """Height and width in pixels."""
    dropout: dict[str, float] = dataclasses.field(default_factory=dict)
    """Share of training clips for which a conditioner is dropped, by its name."""
    sample_posterior: bool = True
    """Whether training draws the latents of clips from the autoencoder's posterior, as CogVideoX's trainings do, or
    takes their mean."""

    def __post_init__(self) -> None:
        for score in self.scores:
            if score.entry not in self.intensity.scores:
                raise ValueError(
                    f"The transformer is told {score.entry!r}, but {type(self.intensity).__name__} knows only "
                    f"{', '.join(self.intensity.scores)}."
                )
            if score.features != self.transformer.time_features:
                raise ValueError(
                    f"The score {score.entry!r} has {score.features} features; the time embedding that it is added to "
                    f"has {self.transformer.time_features}."
                )

    @property
    def scores(self) -> list[ScoreEmbedding]:
        """The scores that the transformer is told."""
        return [each for each in self.conditioners.values() if isinstance(each, ScoreEmbedding)]

    @property
    def controls(self) -> Controls:
        """The scores, 5 where nothing is said (Table 2, "w/o M")."""
        return {
            score.entry: Scalar(
                description=_CONTROLS.get(score.entry, ""),
                measures=MEASURED_BY[score.entry],
                unit=UNITS.get(score.entry, ""),
                held=HELD.get(score.entry),
            )
            for score in self.scores
        }

    def build(self) -> VideoDiffusion:
        """The model. Raises ValueError when the size does not fit the codec, or the channels not the conditioners."""
        stride, multiple = self.transformer.stride, self.transformer.patch[0]
        latent_shape = LatentShape.for_clips(self.codec, self.frames, self.size, stride=stride, frame_multiple=multiple)
        brought = self.codec.latent_channels + self.condition_channels
        if brought != self.transformer.in_channels or self.codec.latent_channels != self.transformer.out_channels:
            raise ValueError(
                f"The transformer takes {self.transformer.in_channels} channels and gives "
                f"{self.transformer.out_channels}; the codec has {self.codec.latent_channels}, with the conditions "
                f"{brought}. Set transformer.in_channels to {brought} and out_channels to {self.codec.latent_channels}."
            )
        self._check_places(latent_shape.height, latent_shape.width)
        return VideoDiffusion(
            latent_shape=latent_shape,
            conditioners={"intensity": self.intensity, **self.conditioners},
            denoiser=CogVideoX(self.transformer),
            process=self.process,
            weighting=self.weighting,
            measured_entries={IMAGE: lambda params, batch: first_frame(batch), **self.intensity.measured_entries()},
            denoiser_sharding=CogVideoX.SHARDING,
            sample_posterior=self.sample_posterior,
            dropout=self.dropout,
        )

    def precomputable(self) -> Mapping[str, Precompute]:
        """Latents, text features and measured scores, where the codec gives moments."""
        parts = [self.intensity.precomputable(), *(each.precomputable() for each in self.conditioners.values())]
        conditioned = {name: each for part in parts for name, each in part.items()}
        return precompute_latents(self.codec, conditioned, {IMAGE: lambda params, batch: first_frame(batch)})

    def _check_places(self, height: int, width: int) -> None:
        """Refuses sizes that the transformer has no places for."""
        grid, stride = self.transformer.grid, self.transformer.stride
        known = tuple(side * stride * self.codec.spatial_compression for side in grid[1:])
        tokens = (height // stride, width // stride)
        if self.transformer.has_places(*tokens):
            return
        if self.transformer.positions == "rotary_and_learned":
            raise ValueError(
                f"Clips are {self.size[0]} x {self.size[1]} px; this transformer has learned the places of "
                f"{known[0]} x {known[1]} px and knows no others. CogVideoX1.5 takes other sizes."
            )
        raise ValueError(
            f"Clips are {self.size[0]} x {self.size[1]} px; this transformer takes at most {known[0]} x {known[1]}."
        )

    def exports(self) -> Mapping[str, Exporter]:
        return EXPORTS

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        return {
            "backbone": pretrained.backbone(),
            "vae": pretrained.vae(),
            "text_encoder": pretrained.text_encoder(),
            "lora": PretrainedLoRA(),
            **self.intensity.pretrained(),
        }

    @property
    def optional_entries(self) -> tuple[str, ...]:
        """The scores, where the data must bring them."""
        return self.intensity.optional_entries

    @property
    def required_entries(self) -> tuple[str, ...]:
        """The optional ones: there is nothing else to learn them from."""
        return self.optional_entries

    def measure_calibration(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Json:
        """Returns the edges of a scalar intensity on the training clips; nothing for other sources of scores."""
        edges = getattr(self.intensity.calibrate(clips), "edges", ())
        return {} if edges == getattr(self.intensity, "edges", ()) else {"intensity_edges": list(edges)}

    def with_calibration(self, measured: Json) -> Self:
        """Returns this config with the measured edges in its source of scores."""
        if "intensity_edges" not in measured:
            return self
        filled = dataclasses.replace(self.intensity, edges=tuple(measured["intensity_edges"]))
        return dataclasses.replace(self, intensity=filled)
