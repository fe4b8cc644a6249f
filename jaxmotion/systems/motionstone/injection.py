"""How MotionStone tells CogVideoX the picture and the two scores.

Source: MotionStone (arXiv:2412.05848), Overall Pipeline and Motion Condition Injection Design; what concerns the
picture is CogVideoX's own (arXiv:2408.06072, section 2.5 and its SAT code).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE
from jaxmotion.foundation.types import Batch, Condition, Params, pixels_to_float
from jaxmotion.models.codec import Codec
from jaxmotion.nn.apply import apply
from jaxmotion.nn.embedding import TimeEmbedding
from jaxmotion.nn.linear import ZEROS
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.latent_shape import Canvas

IMAGE_NOISE = "image_noise"  # float32 [B H W 3]: what training adds to the picture in [-1, 1]
IMAGE_KEPT = "image_kept"  # float32 [B], 1 or 0: whether training shows the picture at all

Share = Literal["first_half", "second_half", "all"]
"""Which channels of the time embedding a score is added to."""


@register()
@dataclasses.dataclass(frozen=True)
class FirstFrame(Conditioner):
    """The latent of the picture in the place of the first latent frame, zeros in those of all others, as channels.

    Source: MotionStone, Overall Pipeline ("zeros for the other frames"), as in CogVideoX-5B-I2V. Training adds noise to
    the pixels before they are encoded, sigma = exp(N(noise[0], noise[1]^2)) for each clip, and leaves some out.
    Unsaid there, chosen here: a picture is left out clip by clip (SAT: batch by batch).
    """

    noise: tuple[float, float] = (-3.0, 0.5)
    """Mean and deviation of the logarithm of the noise."""
    dropped: float = 0.05
    """Share of the training clips whose picture is left out."""
    rescale: float = 1.0
    """What scaled latents are multiplied by; 1 / 0.7^2 for CogVideoX1.5-5B-I2V, which learned them divided by 0.7."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropped <= 1:
            raise ValueError(f"A share of pictures to leave out lies in [0, 1]; got {self.dropped}.")

    def channels(self, codec: Codec) -> int:
        return codec.latent_channels

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        pixels = pixels_to_float(batch[IMAGE]) + batch.get(IMAGE_NOISE, 0.0)
        latent = canvas.codec.encode(params.get("codec", {}), pixels[:, None]) * self.rescale
        if IMAGE_KEPT in batch:
            latent = latent * batch[IMAGE_KEPT].reshape(-1, 1, 1, 1, 1).astype(latent.dtype)
        # Where the canvas has a copy of the first latent, the picture stands beside the copy only: so does diffusers'
        # pipeline for CogVideoX1.5, whose padding by further copies is never reached.
        return Condition(channels=(jnp.pad(latent, ((0, 0), (0, canvas.length - 1), (0, 0), (0, 0), (0, 0))),))

    def drop(self, batch: Batch, key: Array) -> Batch:
        size_key, noise_key, drop_key = jax.random.split(key, 3)
        mean, deviation = self.noise
        rows = batch[IMAGE].shape[0]
        sigma = jnp.exp(mean + deviation * jax.random.normal(size_key, (rows, 1, 1, 1)))
        noise = sigma * jax.random.normal(noise_key, batch[IMAGE].shape)
        kept = 1.0 - jax.random.bernoulli(drop_key, self.dropped, (rows,)).astype(jnp.float32)
        return {**batch, IMAGE_NOISE: noise, IMAGE_KEPT: kept}


@register()
@dataclasses.dataclass(frozen=True)
class Score(Conditioner):
    """A score, through the sinusoid of the diffusion time and an MLP of its own, added to the time embedding.

        e_o = MLP_o(phi(s_o)),  e_c = MLP_c(phi(s_c)),  emb = t_emb + concat([e_o, e_c])

    Two of these, one in the first and one in the second half of the channels, are the paper's decoupled injection; two
    in all channels are its ablation "w/o D". The MLP's last layer starts at 0, so that a fresh one changes nothing. A
    score that is not a number adds nothing: that is what dropping a score, and guidance, put in its place.

    Source: Motion Condition Injection Design.
    Unsaid there, chosen here: phi is the sinusoid of the time, applied to the score as it is; the order object, camera;
    the last layer's zeros; what a dropped score is.
    """

    entry: str
    """The batch entry that it reads, 1..10, such as `object` or `camera`."""
    share: Share = "all"
    """Which channels of the time embedding it is added to."""
    features: int = 512
    """Width of the time embedding; each half of it is as wide as its MLP."""

    @property
    def width(self) -> int:
        """Width of the MLP and its result."""
        return self.features if self.share == "all" else self.features // 2

    @property
    def part(self) -> str:
        """The name of its parameters."""
        return f"{self.entry}_score"

    def init(self, key: Array, canvas: Canvas) -> Params:
        return {self.part: self._network.init(key, jnp.zeros((1,)))["params"]}

    def sharding(self) -> Mapping[str, tuple]:
        return {self.part: ((r".*", P()),)}

    def condition(self, params: Params, batch: Batch, canvas: Canvas) -> Condition:
        return Condition(vectors=(self.vector(params, self._told(batch)),))

    def vector(self, params: Params, score: Float[Array, " B"]) -> Float[Array, "B E"]:
        """What these scores add to the time embedding; zeros in the channels that are not theirs."""
        known = jnp.isfinite(score)
        said: Array = apply(self._network, params[self.part], jnp.where(known, score, 0.0))
        said = jnp.where(known[:, None], said, 0.0)
        before, after = {"first_half": (0, self.width), "second_half": (self.width, 0), "all": (0, 0)}[self.share]
        return jnp.pad(said, ((0, 0), (before, after)))

    def null(self, batch: Batch) -> Batch:
        return {**batch, self.entry: jnp.full_like(self._told(batch), jnp.nan)}

    def _told(self, batch: Batch) -> Array:
        if self.entry not in batch:
            raise ValueError(
                f"The clips come without {self.entry!r}, which this system is told: take data that knows it, or a "
                "system that measures it."
            )
        return batch[self.entry]

    @property
    def _network(self) -> TimeEmbedding:
        return TimeEmbedding(self.width, self.width, last_init=ZEROS)


def inner(conditioner: Conditioner) -> Any:
    """The conditioner itself, without what drops it in training."""
    return getattr(conditioner, "of", conditioner)
