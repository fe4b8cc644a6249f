"""How far an exported pipeline is from ours: both are run on the same inputs, part by part and as a whole.

PyTorch, diffusers and transformers are imported only when something is verified.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from tqdm import tqdm

from jaxmotion.convert.livephoto import ingredients, unet_sizes
from jaxmotion.diffusion.process import split
from jaxmotion.diffusion.sampler import DDIM, DDPM, Plan, step
from jaxmotion.models.clip import CLIPText
from jaxmotion.models.dinov2 import DINOv2
from jaxmotion.nn.apply import apply
from jaxmotion.systems.conditioner import TextTokens
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import Reweighted, TextReweighting
from jaxmotion.systems.system import Sampling, VideoDiffusion
from jaxmotion.types import IMAGE, LEVEL, TEXT, Condition, Params

RELATIVE, FRAMES = 1e-4, 1e-3
"""The largest difference of a part's result, over the largest value of ours; and of frames in [0, 1]."""

Pair = tuple[Any, Any]
"""Our result and that of PyTorch, of the same shape."""


class VerificationError(ValueError):
    """An exported part differs from ours by more than it may; the message names it."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a part is from ours, or why nobody knows.

    absolute, relative: the largest difference, and that over the largest value of ours.
    limit:    (which of the two, how large it may be).
    reason:   why the part was not verified; empty when it was.
    """

    absolute: float = 0.0
    relative: float = 0.0
    limit: tuple[str, float] = ("relative", RELATIVE)
    reason: str = ""

    def __str__(self) -> str:
        kind, most = self.limit
        return f"{getattr(self, kind):.1e} ({kind}; at most {most:.0e})"

    @property
    def status(self) -> str:
        """What became of it."""
        if self.reason:
            return "not verified"
        kind, most = self.limit
        return "verified" if getattr(self, kind) <= most else "too large"  # NaN is too large

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        if self.reason:
            return {"status": self.status, "reason": self.reason}
        kind, most = self.limit
        return {
            "status": self.status,
            "largest_absolute_difference": self.absolute,
            "largest_relative_difference": self.relative,
            "limit": {kind: most},
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """The differences by part, and the versions that were compared."""

    parts: Mapping[str, Difference]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "versions": dict(self.versions),
            "inputs": "random, float32; relative to the largest value of jaxmotion's result",
            "parts": {name: part.to_json() for name, part in self.parts.items()},
        }

    def check(self, path: Path) -> None:
        """Raises VerificationError if a part differs by more than it may; `path` is where the report is."""
        worst = {name: part for name, part in self.parts.items() if part.status == "too large"}
        if worst:
            said = "; ".join(f"{name} by {part}" for name, part in worst.items())
            raise VerificationError(f"The export differs from the trained system: {said}. See {path}.")


def unverified(parts: Iterable[str], reason: str) -> Report:
    """The report when nothing was run."""
    return Report({name: Difference(reason=reason) for name in parts}, versions())


def verify(folder: Path, system: LivePhoto, params: Params, sampling: Sampling) -> Report:
    """Runs an exported folder beside the system it came from; every part is "not verified" without PyTorch."""
    try:
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    except ImportError as error:
        return unverified(parts_of(system), f"{error.name} is not installed")
    pipe: Any = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    sides = _Sides(system, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), sampling, pipe)
    parts: dict[str, Difference] = {}
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        for name in tqdm(parts_of(system), desc="verifying", unit="part", leave=False, disable=None):
            if isinstance(sampling.sampler, DDPM) and name in ("scheduler", "pipeline"):
                parts[name] = Difference(reason="its steps add noise that the two sides draw differently")
            else:
                limit = ("absolute", FRAMES) if name == "pipeline" else ("relative", RELATIVE)
                ours, theirs = getattr(sides, name)()
                parts[name] = difference(ours, theirs, limit)
    return Report(parts, versions())


def parts_of(system: LivePhoto) -> list[str]:
    """What there is to verify, in the order of a clip's making."""
    found = ingredients(system)
    reweighting = ["text_reweighting"] if Reweighted in found else []
    content = ["content_encoder", "content_layers"] if ContentTokens in found else []
    return ["text_encoder", *reweighting, "vae_encode", *content, "unet", "scheduler", "vae_decode", "pipeline"]


class _Sides:
    """A system and the pipeline it was exported to, at the smallest size that passes all networks.

    Each method runs one part on both sides.
    """

    def __init__(self, system: LivePhoto, params: Params, sampling: Sampling, pipe: Any):
        side = system.codec.factor * system.unet.stride
        self.system = dataclasses.replace(system, size=(side, side))
        self.model: VideoDiffusion = self.system.build()
        self.params, self.sampling, self.pipe = params, sampling, pipe
        self.rng = np.random.default_rng(0)
        self.found = ingredients(system)

    def unet(self) -> Pair:
        """One prediction of the stock U-Net, without the content layers."""
        conditioners = {k: v for k, v in self.system.conditioners.items() if "content" not in v.tokens()}
        plain = dataclasses.replace(self.system, conditioners=conditioners).build()
        return self._prediction(plain, {}, None)

    def content_layers(self) -> Pair:
        """One prediction of the U-Net that looks at random patches through the content layers."""
        patches = self._normal(2, 5, self.found[ContentTokens].encoder.features)
        tokens = apply(nn.Dense(self.found[ContentTokens].features), self.params["content"], patches)
        content = self.pipe.content_layers(self._torch(patches))
        return self._prediction(self.model, {"content": rearrange(tokens, "B L D -> B 1 L D")}, content)

    def vae_encode(self) -> Pair:
        """Latents of random pictures."""
        pixels = self.rng.uniform(-1, 1, (2, 1, *self.system.size, 3)).astype(np.float32)
        ours = jax.jit(self.system.codec.encode)(self.params.get("codec", {}), pixels)
        theirs = self.pipe.encode_pixels(self._torch(rearrange(pixels, "B 1 H W C -> B C H W")))
        return rearrange(ours, "B 1 h w C -> B C h w"), theirs

    def vae_decode(self) -> Pair:
        """Pixels of random latents."""
        z = self._latents()
        ours = jax.jit(self.system.codec.decode)(self.params.get("codec", {}), z)
        return rearrange(ours, "B T H W C -> B C T H W"), self.pipe.decode_latents(self._torch(_channels_first(z)), 0)

    def text_encoder(self) -> Pair:
        """The last hidden state of random tokens."""
        sizes = self.found[TextTokens].encoder
        ids = self.rng.integers(0, sizes.vocabulary, (2, sizes.length))
        ours = jax.jit(CLIPText(sizes).apply)({"params": self.params["text_encoder"]}, ids)
        return ours, self.pipe.text_encoder(self._torch(ids)).last_hidden_state

    def text_reweighting(self) -> Pair:
        """Random embeddings, weighted."""
        sizes, reweighted = self.found[TextTokens].encoder, self.found[Reweighted]
        text = self._normal(2, sizes.length, sizes.features)
        network = TextReweighting(self.system.frames, reweighted.layers, reweighted.heads)
        weights = jax.jit(network.apply)({"params": self.params["reweighting"]}, text)
        return weights[..., None] * text[:, None], self.pipe.text_reweighting(self._torch(text))

    def content_encoder(self) -> Pair:
        """All tokens of random pictures."""
        sizes = self.found[ContentTokens].encoder
        pictures = self._normal(1, sizes.image_size, sizes.image_size, 3)
        ours = jax.jit(DINOv2(sizes).apply)({"params": self.params["content_encoder"]}, pictures)
        theirs = self.pipe.content_encoder(self._torch(rearrange(pictures, "B H W C -> B C H W")))
        return ours, theirs.last_hidden_state

    def scheduler(self) -> Pair:
        """Every step of a schedule, each from where the scheduler has come to with random predictions."""
        process, sampler, scheduler = self.system.process, self.sampling.sampler, self.pipe.scheduler
        plan = sampler.plan(process)
        scheduler.set_timesteps(sampler.steps)
        if scheduler.timesteps.tolist() != plan.t.tolist():
            return np.asarray(plan.t, np.float32), scheduler.timesteps.float()
        shape, eta = (1, 2, 4, 4, 3), getattr(sampler, "eta", 0.0)
        z, last = self._normal(*shape), jnp.zeros(shape)
        ours, theirs = [], []
        for i, t in enumerate(scheduler.timesteps):
            row = Plan(*(jnp.asarray(column[i]) for column in plan))
            said, noise = self._normal(*shape), self._normal(*shape)
            z0, eps = split(process.prediction, jnp.asarray(row.signal), jnp.asarray(row.sigma), z, said)
            ours.append(step(row, z, z0, eps, last, noise))
            noisy = {"eta": eta, "variance_noise": self._torch(noise)} if eta else {}
            theirs.append(scheduler.step(self._torch(said), t, self._torch(z), **noisy).prev_sample)
            z, last = jnp.asarray(theirs[-1].numpy()), z0
        return np.stack(ours), np.stack(theirs)

    def pipeline(self) -> Pair:
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
            return jnp.clip(self.model.canvas.codec.decode(params.get("codec", {}), z0) / 2 + 0.5, 0, 1)

        theirs = self.pipe(
            photo,
            prompt,
            level,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            eta=0.0,
            prior_strength=prior,
            num_inversion_steps=steps,
            latents=self._torch(_channels_first(self.model.noise(keys))),
            output_type="np",
        ).frames
        return jax.jit(frames)(self.params), theirs

    def _prediction(self, model: VideoDiffusion, tokens: dict[str, Any], content: Any) -> Pair:
        """One prediction about random latents under random channels and text, and the given content."""
        z, t = self._latents(), 321
        text_sizes, channels = self.found[TextTokens].encoder, unet_sizes(self.system).condition_channels
        maps = self._normal(*z.shape[:-1], channels)
        text = self._normal(len(z), z.shape[1], text_sizes.length, text_sizes.features)
        condition = Condition(channels=(maps,) if channels else (), tokens={"text": text, **tokens})
        ours = jax.jit(model.predict)(self.params, z, jnp.full(len(z), t), condition)
        told = [self._torch(_channels_first(maps))], content
        theirs = self.pipe.predict(self._torch(_channels_first(z)), self._torch(np.array(t)), self._torch(text), told)
        return _channels_first(ours), theirs

    def _latents(self) -> jax.Array:
        canvas = self.model.canvas
        return self._normal(2, canvas.length, canvas.height, canvas.width, canvas.codec.latent_channels)

    def _normal(self, *shape: int) -> jax.Array:
        return jnp.asarray(self.rng.normal(size=shape), jnp.float32)

    @staticmethod
    def _torch(array: Any) -> Any:
        import torch

        return torch.from_numpy(np.array(array))


def _channels_first(clips: Any) -> Any:
    return rearrange(clips, "B T h w C -> B C T h w")


def difference(ours: Any, theirs: Any, limit: tuple[str, float] = ("relative", RELATIVE)) -> Difference:
    """How far two results are apart."""
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    if ours.shape != theirs.shape:
        raise VerificationError(f"Our result is {list(ours.shape)}, that of PyTorch is {list(theirs.shape)}.")
    largest = float(np.abs(ours - theirs).max())
    return Difference(largest, largest / (float(np.abs(ours).max()) or 1.0), limit)


def versions() -> dict[str, str]:
    """Of what is installed among the packages that matter."""
    found = {}
    for name in ("jaxmotion", "jax", "flax", "torch", "diffusers", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
