"""Differences between an exported MotionStone and ours: its networks are run on the same inputs, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxmotion.foundation.types import Condition, Params
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.t5 import T5Encoder
from jaxmotion.systems.text import T5Tokens
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.weights.parity import Outputs, ParityCheck, Report
from jaxmotion.weights.parity import verify as run_both

if TYPE_CHECKING:
    from jaxmotion.systems.motionstone.motionstone import MotionStone


def verify(folder: Path, system: MotionStone, params: Params, vector: np.ndarray | None) -> Report:
    """Runs the networks of an exported folder beside those they came from.

    A transformer that has learned the places of one size is run at that size on a single latent frame, for which both
    sides take sines, and its table is compared as it stands in the file; any other on the smallest clip that it takes.

    Args:
        vector: what was baked into the time embedding; None where the folder has dials.
    """
    baked = vector is not None
    remote = {} if baked else {"trust_remote_code": True}
    parts = parts_of(system, baked=baked)
    return run_both(folder, parts, lambda pipe: _Parity(system, params, pipe, vector), tokenizer=None, **remote)


def parts_of(system: MotionStone, *, baked: bool) -> list[str]:
    """Returns the names of the parts to verify."""
    scores = [] if baked else ["motion_scores"]
    table = ["positions"] if system.transformer.positions == "rotary_and_learned" else []
    return ["text_encoder", "vae_encode", "vae_decode", *scores, "transformer", *table]


class _Parity(ParityCheck):
    """Networks alone, each at its smallest inputs."""

    def __init__(self, system: MotionStone, params: Params, pipe: Any, vector: np.ndarray | None):
        super().__init__(params, pipe)
        self.system, self.vector = system, vector
        self.model: VideoDiffusion = system.build()

    @property
    def _codec(self) -> CausalCodec:
        codec = self.system.codec
        if not isinstance(codec, CausalCodec):
            raise TypeError(f"Pipelines of CogVideoX have its own autoencoder; this system has {type(codec).__name__}.")
        return codec

    def text_encoder(self) -> Outputs:
        """The last hidden state of random tokens."""
        text = next(part for part in self.system.conditioners.values() if isinstance(part, T5Tokens))
        ids = self.rng.integers(0, text.encoder.vocabulary, (1, text.encoder.length))
        ours = jax.jit(T5Encoder(text.encoder).apply)({"params": self.params("text_encoder")["text_encoder"]}, ids)
        return ours, self.pipe.text_encoder(self.torch(ids))[0]

    def vae_encode(self) -> Outputs:
        """Moments of five random frames."""
        codec = self._codec
        side = 2 * codec.spatial_compression
        pixels = self.rng.uniform(-1, 1, (1, 5, side, side, 3)).astype(np.float32)
        ours = jax.jit(codec.moments)(self.params("codec")["codec"], pixels)
        theirs = self.pipe.vae.encode(self.torch(rearrange(pixels, "B T H W C -> B C T H W"))).latent_dist.parameters
        return rearrange(ours, "B t h w C -> B C t h w"), theirs

    def vae_decode(self) -> Outputs:
        """Frames of three random latents."""
        codec = self._codec
        z = self.normal(1, 3, 2, 2, codec.latent_channels)
        ours = jax.jit(codec.decode)(self.params("codec")["codec"], z)
        theirs = self.pipe.vae.decode(self.torch(rearrange(z / codec.sizes.scaling, "B t h w C -> B C t h w"))).sample
        return rearrange(ours, "B T H W C -> B C T H W"), theirs

    def motion_scores(self) -> Outputs:
        """The vectors of some settings."""
        settings = [{name: float(value) for name in self.system.controls} for value in (1, 4.5, 10)]
        params = self.params(*(score.part for score in self.system.scores))
        ours = [sum(s.vector(params, jnp.array([values[s.entry]])) for s in self.system.scores) for values in settings]
        return jnp.concatenate(ours), np.concatenate([self.pipe.motion_scores(values).numpy() for values in settings])

    def positions(self) -> Outputs:
        """The learned table of the places."""
        ours = self.params("denoiser")["denoiser"]["positions"]
        return ours[None], self.pipe.transformer.patch_embed.pos_embedding

    def transformer(self) -> Outputs:
        """One prediction about random latents under a random picture and text."""
        sizes, codec = self.system.transformer, self.system.codec
        learned = sizes.positions == "rotary_and_learned"
        frames = sizes.patch[0]
        height, width = (side * sizes.stride for side in (sizes.grid[1:] if learned else (2, 3)))
        t = 321
        z = self.normal(1, frames, height, width, codec.latent_channels)
        channels = self.normal(1, frames, height, width, sizes.in_channels - sizes.out_channels)
        text = self.normal(1, sizes.text_length, sizes.text_features)
        vectors = () if self.vector is None else (jnp.asarray(self.vector)[None],)
        condition = Condition((channels,), {"text": text[:, None]}, vectors)
        ours = jax.jit(self.model.predict)(self.params("denoiser"), z, jnp.full(1, t), condition)
        pixels = (height * codec.spatial_compression, width * codec.spatial_compression)
        device = self.pipe.transformer.device
        rotary = None
        if self.pipe.transformer.config.use_rotary_positional_embeddings:
            rotary = self.pipe._prepare_rotary_positional_embeddings(*pixels, frames, device)
        offset = {"ofs": self.torch(np.full(1, 2.0, np.float32))} if sizes.offset else {}
        theirs = self.pipe.transformer(
            hidden_states=self.torch(rearrange(jnp.concatenate([z, channels], -1), "B T h w C -> B T C h w")),
            encoder_hidden_states=self.torch(text),
            timestep=self.torch(np.full(1, t)),
            image_rotary_emb=rotary,
            return_dict=False,
            **offset,
        )[0]
        return rearrange(ours, "B T h w C -> B T C h w"), theirs
