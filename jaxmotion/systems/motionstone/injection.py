"""Conditioners of MotionStone: the picture and the two scores, as CogVideoX gets them.

Source: MotionStone (arXiv:2412.05848), Overall Pipeline and Motion Condition Injection Design; what concerns the
picture is CogVideoX's own (arXiv:2408.06072, section 2.5 and its SAT code).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE
from jaxmotion.foundation.types import Batch, Condition, Params, pixels_to_float
from jaxmotion.models.codec import Codec
from jaxmotion.nn.apply import apply
from jaxmotion.nn.embedding import TimeEmbedding
from jaxmotion.nn.linear import ZEROS
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.reference import PICTURE_KEY, draw_picture

IMAGE_NOISE = "image_noise"  # float32 [B H W 3]: what training adds to the picture in [-1, 1]

TimeChannels = Literal["first_half", "second_half", "all"]
"""Which channels of the time embedding a score is added to."""


@register()
@dataclasses.dataclass(frozen=True)
class FirstFrame(Conditioner):
    """The latent of the picture in the place of the first latent frame, zeros in those of all others, as channels.

    Source: MotionStone, Overall Pipeline ("zeros for the other frames"), as in CogVideoX-5B-I2V. Training adds noise to
    the pixels before they are encoded, sigma = exp(N(noise[0], noise[1]^2)) for each clip.
    Not specified in the paper; we use: a picture is dropped clip by clip (SAT: batch by batch), and its latent is the
    mean of the autoencoder's posterior, from which the official trainings draw.
    """

    noise: tuple[float, float] = (-3.0, 0.5)
    """Mean and deviation of the logarithm of the noise."""
    rescale: float = 1.0
    """What scaled latents, 0.7 z, are multiplied by. 1: 0.7 z, as the trainers of all CogVideoX have it; 1 / 0.7: z, as
    SAT samples CogVideoX1.5-5B-I2V; 1 / 0.7^2: z / 0.7, as diffusers samples it (`invert_scale_latents`)."""
    sample_posterior: bool = False
    """Whether training draws the picture's latent from the posterior; sampling always takes the mean."""

    def channels(self, codec: Codec) -> int:
        return codec.latent_channels

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        pixels = pixels_to_float(batch[IMAGE]) + batch.get(IMAGE_NOISE, 0.0)
        key = batch.get(PICTURE_KEY)
        latent = latent_shape.codec.encode(params.get("codec", {}), pixels[:, None], key) * self.rescale
        latent = keep_rows(kept, latent)
        # Where a copy of the first latent is padded, the picture stands beside the copy only: so does diffusers'
        # pipeline for CogVideoX1.5, whose padding by further copies is never reached.
        return Condition(channels=(jnp.pad(latent, ((0, 0), (0, latent_shape.frames - 1), (0, 0), (0, 0), (0, 0))),))

    def augment(self, batch: Batch, key: Array) -> Batch:
        size_key, noise_key, _ = jax.random.split(key, 3)  # three, so that the noise of earlier runs goes on
        mean, deviation = self.noise
        rows = batch[IMAGE].shape[0]
        sigma = jnp.exp(mean + deviation * jax.random.normal(size_key, (rows, 1, 1, 1)))
        noise = sigma * jax.random.normal(noise_key, batch[IMAGE].shape)
        batch = {**batch, IMAGE_NOISE: noise}
        return draw_picture(batch, key) if self.sample_posterior else batch


@register("Score", fields={"share": "time_channels"})
@dataclasses.dataclass(frozen=True)
class ScoreEmbedding(Conditioner):
    """A score, through the sinusoid of the diffusion time and an MLP of its own, added to the time embedding.

        e_o = MLP_o(phi(s_o)),  e_c = MLP_c(phi(s_c)),  emb = t_emb + concat([e_o, e_c])

    Two of these, one in the first and one in the second half of the channels, are the paper's decoupled injection; two
    in all channels are its ablation "w/o D". The MLP's last layer starts at 0, so that a fresh one changes nothing. A
    dropped score adds nothing. A clip whose score is unknown (NaN: the list of scores leaves it out; the data says how
    many there are) is trained without it, like a dropped one.

    Source: Motion Condition Injection Design.
    Not specified in the paper; we use: phi is the sinusoid of the time, applied to the score as it is; the order
    object, camera; the last layer's zeros; what a dropped score is.
    """

    absent_in_inversion: ClassVar[bool] = True
    null_is_known: ClassVar[bool] = True  # CogVideoX itself

    entry: str
    """The batch entry that it reads, 1..10, such as `object` or `camera`."""
    time_channels: TimeChannels = "all"
    """Which channels of the time embedding it is added to."""
    features: int = 512
    """Width of the time embedding; each half of it is as wide as its MLP."""

    @property
    def width(self) -> int:
        """Width of the MLP and its result."""
        return self.features if self.time_channels == "all" else self.features // 2

    @property
    def part(self) -> str:
        """The name of its parameters."""
        return f"{self.entry}_score"

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        return {self.part: self._network.init(key, jnp.zeros((1,)))["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {self.part: ((r".*", P()),)}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        if self.entry not in batch:
            raise ValueError(
                f"The clips come without {self.entry!r}, which this system is told: take data that knows it, or a "
                "system that measures it."
            )
        return Condition(vectors=(keep_rows(kept, self.vector(params, batch[self.entry])),))

    def vector(self, params: Params, score: Float[Array, " B"]) -> Float[Array, "B E"]:
        """Returns the vectors that are added to the time embedding; zeros in the channels that are not theirs."""
        known = jnp.isfinite(score)
        embedded: Array = apply(self._network, params[self.part], jnp.where(known, score, 0.0))
        embedded = jnp.where(known[:, None], embedded, 0.0)
        before, after = {"first_half": (0, self.width), "second_half": (self.width, 0), "all": (0, 0)}[
            self.time_channels
        ]
        return jnp.pad(embedded, ((0, 0), (before, after)))

    @property
    def _network(self) -> TimeEmbedding:
        return TimeEmbedding(self.width, self.width, last_init=ZEROS)
