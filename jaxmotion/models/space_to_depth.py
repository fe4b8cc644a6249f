"""A codec without parameters: the cosine transform of each block of pixels."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.fft
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Params
from jaxmotion.models.autoencoder import check_pixels

PHOTO_SCALE = 1.75
"""Photographs have a mean square of about 0.33 in [-1, 1] (measured on those of scikit-image, 0.1 to 0.7); this makes
it 1."""


@register(fields={"factor": "spatial_compression"})
@dataclasses.dataclass(frozen=True)
class SpaceToDepth:
    """The cosine transform of each `factor` x `factor` block of each colour: exact, orthonormal, without weights.

    Channel 3 (u * factor + v) + colour holds vertical frequency u and horizontal frequency v, so the first three
    channels are a small picture (times `factor * scale`).

    Source: the DCT-II with orthonormal scaling (Ahmed, Natarajan and Rao, 1974).
    scale: factor between orthonormal coefficients and latents.
    """

    spatial_compression: int = 4
    scale: float = PHOTO_SCALE

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: the coefficients of three colours."""
        return 3 * self.spatial_compression**2

    def num_latent_frames(self, frames: int) -> int:
        """As many latents as frames."""
        return frames

    @property
    def sharding(self) -> tuple[tuple[str, P], ...]:
        """There is nothing to lay out."""
        return ()

    def init(self, key: Array) -> Params:
        """No parameters."""
        return {}

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B T h w C"]:
        """Latents of pixels; exact, so the key is not used."""
        check_pixels(x, self.spatial_compression)
        blocks = rearrange(
            x, "B T (h p) (w q) c -> B T h w (p q) c", p=self.spatial_compression, q=self.spatial_compression
        )
        z = jnp.einsum("...pc,fp->...fc", blocks, self.basis().astype(x.dtype) * self.scale)
        return rearrange(z, "B T h w f c -> B T h w (f c)")

    def decode(self, params: Params, z: Float[Array, "B T h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels of latents."""
        coefficients = rearrange(z, "B T h w (f c) -> B T h w f c", c=3)
        blocks = jnp.einsum("...fc,fp->...pc", coefficients, self.basis().astype(z.dtype) / self.scale)
        return rearrange(
            blocks, "B T h w (p q) c -> B T (h p) (w q) c", p=self.spatial_compression, q=self.spatial_compression
        )

    def basis(self) -> Float[np.ndarray, "f p"]:
        """Orthonormal rows: the two-dimensional cosines over a flattened block."""
        dct = np.asarray(scipy.fft.dct(np.eye(self.spatial_compression), axis=0, norm="ortho"))
        return np.kron(dct, dct).astype(np.float32)
