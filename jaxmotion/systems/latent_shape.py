"""The shape of what is denoised: how many latent frames, how large, with how much padding."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float

from jaxmotion.foundation.entries import MOMENTS, VIDEO
from jaxmotion.foundation.types import Array, Batch, Params, pixels_to_float
from jaxmotion.models.codec import Codec


@dataclasses.dataclass(frozen=True)
class LatentShape:
    """The clip that is being denoised: how many latents it is, how large they are, and the codec between.

    frame_multiple: the number of latents is brought to a multiple of this, by copies of the first one before it.
    """

    codec: Codec
    latents: int
    height: int
    width: int
    frame_multiple: int = 1

    @classmethod
    def for_clips(
        cls, codec: Codec, frames: int, size: tuple[int, int], *, stride: int = 1, frame_multiple: int = 1
    ) -> LatentShape:
        """Returns the latent shape of clips of so many frames of (height, width) pixels.

        Args:
            stride: latent positions that the denoiser takes together, in height and in width.

        Raises:
            ValueError: the codec and the denoiser cannot divide the size; the message says what would do.
        """
        factor = codec.spatial_compression * stride
        for name, pixels in zip(("height", "width"), size, strict=True):
            if pixels % factor:
                below, above = pixels // factor * factor, -(-pixels // factor) * factor
                fitting = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"Clips have a {name} of {pixels} px; this model needs a multiple of {factor}, e.g. {fitting}."
                )
        height, width = (pixels // codec.spatial_compression for pixels in size)
        return cls(codec, codec.num_latent_frames(frames), height, width, frame_multiple)

    @property
    def frames(self) -> int:
        """Number of latents that are denoised together."""
        return self.latents + self.pad_frames

    @property
    def pad_frames(self) -> int:
        """Number of copies of the first latent that stand before it."""
        return -self.latents % self.frame_multiple

    def for_batch(self, batch: Batch) -> LatentShape:
        """Returns the latent shape of a batch's clips, whose length and size may be others."""
        if MOMENTS in batch:
            latents, height, width = batch[MOMENTS].shape[1:4]
        else:
            frames, height, width = batch[VIDEO].shape[1:4]
            latents = self.codec.num_latent_frames(frames)
            height, width = height // self.codec.spatial_compression, width // self.codec.spatial_compression
        return dataclasses.replace(self, latents=latents, height=height, width=width)

    def encode(self, params: Params, pixels: Array, key: Array | None = None) -> Float[Array, "B t h w C"]:
        """Latents of uint8 frames [B T H W 3], without copies; `params` is the whole tree."""
        return self.codec.encode(params.get("codec", {}), pixels_to_float(pixels), key)

    def pad(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T h w C"]:
        """Latents with the copies of the first one before it."""
        return jnp.concatenate([*[z[:, :1]] * self.pad_frames, z], axis=1)
