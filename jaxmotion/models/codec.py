"""The interface of codecs: pixels to latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from jax.sharding import PartitionSpec
from jaxtyping import Float

from jaxmotion.foundation.types import Array, Params


class Codec(Protocol):
    """Pixels to latents and back. Implementations are in `models/autoencoder.py`."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def spatial_compression(self) -> int:
        """Pixels that one latent position spans, in height and in width."""
        ...

    def num_latent_frames(self, frames: int) -> int:
        """Returns the number of latents of so many frames."""
        ...

    @property
    def sharding(self) -> tuple[tuple[str, PartitionSpec], ...]:
        """Sharding rules: (regular expression on paths of its parameters, PartitionSpec); the first match wins."""
        ...

    def init(self, key: Array) -> Params:
        """Random parameters; an empty dict when there are none."""
        ...

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B t h w C"]:
        """Latents of pixels in [-1, 1], scaled to about unit variance: their mean, or a sample when a key is given."""
        ...

    def decode(self, params: Params, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels in [-1, 1] of latents."""
        ...


@runtime_checkable
class MomentsCodec(Protocol):
    """A codec whose latents are normally distributed, so that their moments can be computed before training."""

    def moments(self, params: Params, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w D"]:
        """Returns mean and log variance of the latents of pixels in [-1, 1], D = 2C, unscaled."""
        ...

    def sample_moments(self, moments: Float[Array, "B t h w D"], key: Array | None = None) -> Float[Array, "B t h w C"]:
        """Returns scaled latents of these moments: their mean, or a sample when a key is given."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A codec that decodes a few frames at a time."""

    def stream(self, params: Params, z: Float[Array, "B t h w C"]) -> Iterator[Float[Array, "B T H W 3"]]:
        """Pixels in [-1, 1], some frames after the others."""
        ...
