"""How far an exported MotionStone is from ours: its networks are run on the same inputs, one by one.

PyTorch, diffusers and transformers are imported only when something is verified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from tqdm import tqdm

from jaxmotion.convert.report import Pair, Report, difference, unverified, versions
from jaxmotion.models.t5 import T5Encoder
from jaxmotion.systems.conditioner import T5Tokens
from jaxmotion.systems.motionstone.motionstone import MotionStone, inner
from jaxmotion.systems.system import VideoDiffusion
from jaxmotion.types import Condition, Params


def verify(folder: Path, system: MotionStone, params: Params, vector: np.ndarray | None) -> Report:
    """Runs the networks of an exported folder beside those they came from.

    A transformer that has learned the places of one size is run at that size on a single latent frame, any other on
    the smallest clip that it takes.

    Args:
        vector: what was baked into the time embedding; None where the folder has dials.
    """
    parts = parts_of(baked=vector is not None)
    try:
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    except ImportError as error:
        return unverified(parts, f"{error.name} is not installed")
    remote = {} if vector is not None else {"trust_remote_code": True}
    pipe: Any = DiffusionPipeline.from_pretrained(str(folder), tokenizer=None, dtype=torch.float32, **remote)
    full = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    sides, found = _Sides(system, full, pipe, vector), {}
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        for name in tqdm(parts, desc="verifying", unit="part", leave=False, disable=None):
            found[name] = difference(*getattr(sides, name)())
    return Report(found, versions())


def parts_of(*, baked: bool) -> list[str]:
    """What there is to verify."""
    return ["text_encoder", "vae_encode", "vae_decode", *([] if baked else ["motion_scores"]), "transformer"]


class _Sides:
    """A system and the pipeline it was exported to. Each method runs one part on both sides."""

    def __init__(self, system: MotionStone, params: Params, pipe: Any, vector: np.ndarray | None):
        self.system, self.params, self.pipe, self.vector = system, params, pipe, vector
        self.model: VideoDiffusion = system.build()
        self.rng = np.random.default_rng(0)

    def text_encoder(self) -> Pair:
        """The last hidden state of random tokens."""
        parts = map(inner, self.system.conditioners.values())
        text: Any = next(part for part in parts if isinstance(part, T5Tokens))
        ids = self.rng.integers(0, text.encoder.vocabulary, (1, text.encoder.length))
        ours = jax.jit(T5Encoder(text.encoder).apply)({"params": self.params["text_encoder"]}, ids)
        return ours, self.pipe.text_encoder(_torch(ids))[0]

    def vae_encode(self) -> Pair:
        """Moments of five random frames."""
        codec: Any = self.system.codec
        side = 2 * codec.factor
        pixels = self.rng.uniform(-1, 1, (1, 5, side, side, 3)).astype(np.float32)
        ours = jax.jit(codec.moments)(self.params["codec"], pixels)
        theirs = self.pipe.vae.encode(_torch(rearrange(pixels, "B T H W C -> B C T H W"))).latent_dist.parameters
        return rearrange(ours, "B t h w C -> B C t h w"), theirs

    def vae_decode(self) -> Pair:
        """Frames of three random latents."""
        codec: Any = self.system.codec
        z = self._normal(1, 3, 2, 2, codec.latent_channels)
        ours = jax.jit(codec.decode)(self.params["codec"], z)
        theirs = self.pipe.vae.decode(_torch(rearrange(z / codec.sizes.scaling, "B t h w C -> B C t h w"))).sample
        return rearrange(ours, "B T H W C -> B C T H W"), theirs

    def motion_scores(self) -> Pair:
        """The vectors of some settings."""
        settings = [{name: float(value) for name in self.system.dials} for value in (1, 4.5, 10)]
        ours = [
            sum(s.vector(self.params, jnp.array([asked[s.entry]])) for s in self.system.scores) for asked in settings
        ]
        return jnp.concatenate(ours), np.concatenate([self.pipe.motion_scores(asked).numpy() for asked in settings])

    def transformer(self) -> Pair:
        """One prediction about random latents under a random picture and text."""
        sizes, codec = self.system.transformer, self.system.codec
        learned = sizes.positions == "rotary_and_learned"
        frames = sizes.patch[0]
        height, width = (side * sizes.stride for side in (sizes.grid[1:] if learned else (2, 3)))
        t = 321
        z = self._normal(1, frames, height, width, codec.latent_channels)
        channels = self._normal(1, frames, height, width, sizes.in_channels - sizes.out_channels)
        text = self._normal(1, sizes.text_length, sizes.text_features)
        vectors = () if self.vector is None else (jnp.asarray(self.vector)[None],)
        condition = Condition((channels,), {"text": text[:, None]}, vectors)
        ours = jax.jit(self.model.predict)(self.params, z, jnp.full(1, t), condition)
        pixels = (height * codec.factor, width * codec.factor)
        device = self.pipe.transformer.device
        rotary = None
        if self.pipe.transformer.config.use_rotary_positional_embeddings:
            rotary = self.pipe._prepare_rotary_positional_embeddings(*pixels, frames, device)
        offset = {"ofs": _torch(np.full(1, 2.0, np.float32))} if sizes.offset else {}
        theirs = self.pipe.transformer(
            hidden_states=_torch(rearrange(jnp.concatenate([z, channels], -1), "B T h w C -> B T C h w")),
            encoder_hidden_states=_torch(text),
            timestep=_torch(np.full(1, t)),
            image_rotary_emb=rotary,
            return_dict=False,
            **offset,
        )[0]
        return rearrange(ours, "B T h w C -> B T C h w"), theirs

    def _normal(self, *shape: int) -> jax.Array:
        return jnp.asarray(self.rng.normal(size=shape), jnp.float32)


def _torch(array: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(array))
