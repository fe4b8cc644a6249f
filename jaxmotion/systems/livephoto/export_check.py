"""Differences between an exported LivePhoto and ours, part by part and as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxmotion.diffusion.process import to_z0_and_eps
from jaxmotion.diffusion.sampler import DDIM, DDPM, Coefficients, step
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE, TEXT
from jaxmotion.foundation.types import Condition, Params
from jaxmotion.models.clip import CLIPText
from jaxmotion.models.dinov2 import DINOv2
from jaxmotion.nn.apply import apply
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.export_parts import ingredients, unet_sizes
from jaxmotion.systems.livephoto.intensity import LEVEL
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText, TextReweighting
from jaxmotion.systems.text import TextTokens
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.weights.parity import Outputs, ParityCheck, Report
from jaxmotion.weights.parity import verify as run_both

if TYPE_CHECKING:
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

FRAMES = 1e-3
"""The largest difference of frames in [0, 1]."""


def verify(folder: Path, system: LivePhoto, params: Params, sampling: Sampling) -> Report:
    """Runs an exported folder beside the system it came from."""
    return run_both(
        folder, parts_of(system), lambda pipe: _Parity(system, params, sampling, pipe), trust_remote_code=True
    )


def parts_of(system: LivePhoto) -> list[str]:
    """Returns the names of the parts to verify, in the order in which a clip is made."""
    found = ingredients(system)
    reweighting = ["text_reweighting"] if ReweightedText in found else []
    content = ["content_encoder", "content_layers"] if ContentTokens in found else []
    return ["text_encoder", *reweighting, "vae_encode", *content, "unet", "scheduler", "vae_decode", "pipeline"]


class _Parity(ParityCheck):
    """At the smallest size that passes all networks."""

    def __init__(self, system: LivePhoto, params: Params, sampling: Sampling, pipe: Any):
        super().__init__(params, pipe)
        side = system.codec.spatial_compression * system.unet.stride
        self.system = dataclasses.replace(system, size=(side, side))
        self.model: VideoDiffusion = self.system.build()
        self.sampling = sampling
        self.found = ingredients(system)

    def reason(self, part: str) -> str:
        """DDPM's noise is drawn differently."""
        noisy = isinstance(self.sampling.sampler, DDPM) and part in ("scheduler", "pipeline")
        return "its steps add noise that the two sides draw differently" if noisy else ""

    def limit(self, part: str) -> tuple[str, float]:
        """Frames have their own."""
        return ("absolute", FRAMES) if part == "pipeline" else super().limit(part)

    def unet(self) -> Outputs:
        """One prediction of the stock U-Net, without the content layers."""
        conditioners = {k: v for k, v in self.system.conditioners.items() if "content" not in v.tokens()}
        plain = dataclasses.replace(self.system, conditioners=conditioners).build()
        return self._prediction(plain, {}, None)

    def content_layers(self) -> Outputs:
        """One prediction of the U-Net that looks at random patches through the content layers."""
        patches = self.normal(2, 5, self.found[ContentTokens].encoder.features)
        tokens = apply(nn.Dense(self.found[ContentTokens].features), self.params("content")["content"], patches)
        content = self.pipe.content_layers(self.torch(patches))
        return self._prediction(self.model, {"content": rearrange(tokens, "B L D -> B 1 L D")}, content)

    def vae_encode(self) -> Outputs:
        """Latents of random pictures."""
        pixels = self.rng.uniform(-1, 1, (2, 1, *self.system.size, 3)).astype(np.float32)
        ours = jax.jit(self.system.codec.encode)(self.params("codec").get("codec", {}), pixels)
        theirs = self.pipe.encode_pixels(self.torch(rearrange(pixels, "B 1 H W C -> B C H W")))
        return rearrange(ours, "B 1 h w C -> B C h w"), theirs

    def vae_decode(self) -> Outputs:
        """Pixels of random latents."""
        z = self._latents()
        ours = jax.jit(self.system.codec.decode)(self.params("codec").get("codec", {}), z)
        return rearrange(ours, "B T H W C -> B C T H W"), self.pipe.decode_latents(self.torch(_channels_first(z)), 0)

    def text_encoder(self) -> Outputs:
        """The last hidden state of random tokens."""
        sizes = self.found[TextTokens].encoder
        ids = self.rng.integers(0, sizes.vocabulary, (2, sizes.length))
        ours = jax.jit(CLIPText(sizes).apply)({"params": self.params("text_encoder")["text_encoder"]}, ids)
        return ours, self.pipe.text_encoder(self.torch(ids)).last_hidden_state

    def text_reweighting(self) -> Outputs:
        """Random embeddings, weighted."""
        sizes, reweighted = self.found[TextTokens].encoder, self.found[ReweightedText]
        text = self.normal(2, sizes.length, sizes.features)
        network = TextReweighting(self.system.frames, reweighted.layers, reweighted.heads, reweighted.initial_weight)
        weights = jax.jit(network.apply)({"params": self.params("reweighting")["reweighting"]}, text)
        return weights[..., None] * text[:, None], self.pipe.text_reweighting(self.torch(text))

    def content_encoder(self) -> Outputs:
        """All tokens of random pictures."""
        sizes = self.found[ContentTokens].encoder
        pictures = self.normal(1, sizes.image_size, sizes.image_size, 3)
        ours = jax.jit(DINOv2(sizes).apply)({"params": self.params("content_encoder")["content_encoder"]}, pictures)
        theirs = self.pipe.content_encoder(self.torch(rearrange(pictures, "B H W C -> B C H W")))
        return ours, theirs.last_hidden_state

    def scheduler(self) -> Outputs:
        """Every step of a schedule, each from where the scheduler has come to with random predictions."""
        process, sampler, scheduler = self.system.process, self.sampling.sampler, self.pipe.scheduler
        plan = sampler.plan(process)
        scheduler.set_timesteps(sampler.steps)
        if scheduler.timesteps.tolist() != plan.t.tolist():
            return np.asarray(plan.t, np.float32), scheduler.timesteps.float()
        shape, eta = (1, 2, 4, 4, 3), getattr(sampler, "eta", 0.0)
        z, last = self.normal(*shape), jnp.zeros(shape)
        ours, theirs = [], []
        for i, t in enumerate(scheduler.timesteps):
            row = Coefficients(*(jnp.asarray(column[i]) for column in plan))
            prediction, noise = self.normal(*shape), self.normal(*shape)
            z0, eps = to_z0_and_eps(process.prediction, jnp.asarray(row.signal), jnp.asarray(row.sigma), z, prediction)
            ours.append(step(row, z, z0, eps, last, noise))
            noisy = {"eta": eta, "variance_noise": self.torch(noise)} if eta else {}
            theirs.append(scheduler.step(self.torch(prediction), t, self.torch(z), **noisy).prev_sample)
            z, last = jnp.asarray(theirs[-1].numpy()), z0
        return np.stack(ours), np.stack(theirs)

    def pipeline(self) -> Outputs:
        """Frames in [0, 1] of a photo, after two steps of inversion and two of sampling that add no noise."""
        steps, guidance, prior = 2, 2.0, (0.2, 0.1)
        sampler = dataclasses.replace(self.sampling.sampler, steps=steps)
        if isinstance(sampler, DDIM):
            sampler = dataclasses.replace(sampler, eta=0.0)
        sampling = Sampling(sampler, guidance, PriorInversion(*prior), inversion_steps=steps)
        (height, width), prompt, level = self.system.size, "the camera pans left", 5
        photo = self.rng.integers(0, 256, (height, width, 3), np.uint8)
        length = self.found[TextTokens].encoder.length
        ids = self.pipe.tokenizer([prompt], padding="max_length", max_length=length, truncation=True).input_ids
        batch = {IMAGE: photo[None], TEXT: np.asarray(ids, np.int32), LEVEL: np.array([level], np.int32)}
        keys = jax.random.split(jax.random.key(0), 1)

        def frames(params: Params) -> jax.Array:
            z0 = self.model.sample_latents(params, batch, keys, sampling)
            return jnp.clip(self.model.latent_shape.codec.decode(params.get("codec", {}), z0) / 2 + 0.5, 0, 1)

        theirs = self.pipe(
            photo,
            prompt,
            level,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            use_dynamic_cfg=False,
            eta=0.0,
            prior_strength=prior,
            num_inversion_steps=steps,
            latents=self.torch(_channels_first(self.model.noise(keys))),
            output_type="np",
        ).frames
        return jax.jit(frames)(self.params()), theirs

    def _prediction(self, model: VideoDiffusion, tokens: dict[str, Any], content: Any) -> Outputs:
        """One prediction about random latents under random channels and text, and the given content."""
        z, t = self._latents(), 321
        text_sizes, channels = self.found[TextTokens].encoder, unet_sizes(self.system).condition_channels
        maps = self.normal(*z.shape[:-1], channels)
        text = self.normal(len(z), z.shape[1], text_sizes.length, text_sizes.features)
        condition = Condition(channels=(maps,) if channels else (), tokens={"text": text, **tokens})
        ours = jax.jit(model.predict)(self.params("denoiser"), z, jnp.full(len(z), t), condition)
        conditions = [self.torch(_channels_first(maps))], content
        theirs = self.pipe.predict(
            self.torch(_channels_first(z)), self.torch(np.array(t)), self.torch(text), conditions
        )
        return _channels_first(ours), theirs

    def _latents(self) -> jax.Array:
        latent_shape = self.model.latent_shape
        return self.normal(
            2, latent_shape.frames, latent_shape.height, latent_shape.width, latent_shape.codec.latent_channels
        )


def _channels_first(clips: Any) -> Any:
    return rearrange(clips, "B T h w C -> B C T h w")
