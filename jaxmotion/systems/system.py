"""A system: a codec, conditioners, a denoiser and a diffusion process, trained with one loss and sampled in one scan.

`System` is what a config names; `build` makes the `VideoDiffusion` that trains and samples. The trainer itself needs
only `init`, `loss` and `sharding`, so a task that is no diffusion model can be trained by it as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Float, Int, Key, UInt8

from jaxmotion.diffusion.guidance import guide
from jaxmotion.diffusion.inversion import invert
from jaxmotion.diffusion.loss import Weighting, diffusion_loss
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, sample
from jaxmotion.models.autoencoder import SHARDING as CODEC_SHARDING
from jaxmotion.nn.apply import apply
from jaxmotion.systems.conditioner import Canvas, Conditioner
from jaxmotion.types import IMAGE, VIDEO, Array, Batch, Condition, Params, pixels_to_uint8

Table = tuple[tuple[str, Any], ...]
"""(regular expression on a '/'-joined parameter path, PartitionSpec); the first match wins."""


class Task(Protocol):
    """All the trainer needs to know."""

    sharding: Table

    def init(self, key: Array) -> Params:
        """Fresh parameters."""
        ...

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """The scalar to minimise and what to log beside it."""
        ...


class System:
    """Base of the configs that name a system. All have `frames` and `size` (height, width in pixels) of their clips."""

    frames: int
    size: tuple[int, int]

    @property
    def captions(self) -> tuple[int, int] | None:
        """(vocabulary, length) of the token ids that it reads; None when it reads no captions."""
        return None

    @property
    def labels(self) -> tuple[str, ...]:
        """Entries of a batch that it learns from beside clips and captions, where the data knows them."""
        return ()

    def build(self) -> Task:
        """The task that this config describes."""
        raise NotImplementedError(f"{type(self).__name__} must say what it builds.")

    def calibrate(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> dict[str, Any]:
        """What must be measured on training clips before the first step, as JSON values; nothing by default.

        `clips` is read only if there is something to measure.
        """
        return {}

    def calibrated(self, measured: Mapping[str, Any]) -> Self:
        """This config with the measured values filled in."""
        return self


@dataclasses.dataclass(frozen=True)
class Noise:
    """Sampling starts from the Gaussian noise itself."""

    def start(self, noise: Array, inverted: Callable[[], Array]) -> Array:
        """The noise; `inverted` is not called."""
        return noise


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How clips are sampled."""

    sampler: DDIM | DPMSolverPP | DDPM = DDIM()
    """The update rule and its number of steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale on the text; 1 is the plain conditional prediction."""
    start: Any = Noise()
    """What the first step starts from: `Noise` or LivePhoto's `PriorInversion`."""
    inversion_steps: int = 25
    """Steps of the DDIM inversion, when the start asks for one."""

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"The inversion needs at least one step; got {self.inversion_steps}.")


@dataclasses.dataclass(frozen=True)
class VideoDiffusion:
    """A video diffusion model: the one class behind all three systems.

    conditioners: by name; channel conditions enter in this order.
    measures:     batch entries that training measures on the clip and sampling asks a person for.
    """

    canvas: Canvas
    conditioners: Mapping[str, Conditioner]
    denoiser: nn.Module
    process: Process
    weighting: Weighting
    measures: Mapping[str, Callable[[Batch], Array]]
    denoiser_sharding: Table

    @property
    def sharding(self) -> Table:
        """One table for the whole tree: every part's rules under the part's name."""
        tables = {"denoiser": self.denoiser_sharding, "codec": CODEC_SHARDING}
        for conditioner in self.conditioners.values():
            tables.update(conditioner.sharding())
        return tuple(
            (f"^{part}(?=/).*(?:{pattern})", spec) for part, table in tables.items() for pattern, spec in table
        )

    def init(self, key: Array) -> dict[str, Any]:
        """Random parameters: `codec`, `denoiser` and the parts that the conditioners own."""
        codec_key, denoiser_key, condition_key = jax.random.split(key, 3)
        params: dict[str, Any] = {"codec": self.canvas.codec.init(codec_key)}
        for index, (name, conditioner) in enumerate(self.conditioners.items()):
            parts = conditioner.init(jax.random.fold_in(condition_key, index), self.canvas)
            clash = set(parts) & set(params)
            if clash:
                raise ValueError(f"The conditioner {name!r} brings the part {sorted(clash)} that is already there.")
            params.update(parts)
        shape = (1, self.canvas.frames, self.canvas.height, self.canvas.width)
        extra = sum(c.channels(self.canvas.codec) for c in self.conditioners.values())
        tokens = {name: size for c in self.conditioners.values() for name, size in c.tokens().items()}
        condition = Condition(
            channels=(jnp.zeros((*shape, extra)),) if extra else (),
            tokens={name: jnp.zeros((1, 1, 1, size)) for name, size in tokens.items()},
        )
        latents = jnp.zeros((*shape, self.canvas.codec.latent_channels))
        params["denoiser"] = self.denoiser.init(denoiser_key, latents, jnp.zeros((1,), jnp.int32), condition)["params"]
        return {part: tree for part, tree in params.items() if tree}

    def condition(self, params: Params, batch: Batch) -> Condition:
        """The sum of all conditions of a batch."""
        conditions = (c.condition(params, batch, self.canvas) for c in self.conditioners.values())
        return sum(conditions, Condition())

    def predict(
        self, params: Params, zt: Array, t: Int[Array, " B"], condition: Condition
    ) -> Float[Array, "B T h w C"]:
        """The denoiser's output in float32; the network itself computes in the type of its parameters."""
        dtype = jax.tree.leaves(params["denoiser"])[0].dtype
        zt, condition = jax.tree.map(lambda x: x.astype(dtype), (zt, condition))
        return apply(self.denoiser, params["denoiser"], zt, t, condition).astype(jnp.float32)

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean weighted denoising error of a batch, and its parts at low and at high noise.

        Source: LivePhoto Eq. 2; the target is whatever `process.prediction` names.
        """
        drop_key, time_key, noise_key = jax.random.split(key, 3)
        batch = {**batch, **{name: measure(batch) for name, measure in self.measures.items()}}
        for index, conditioner in enumerate(self.conditioners.values()):
            batch = conditioner.drop(batch, jax.random.fold_in(drop_key, index))
        z0 = self.canvas.encode(params, batch[VIDEO]).astype(jnp.float32)
        steps = self.process.schedule.steps
        t = jax.random.randint(time_key, (z0.shape[0],), 0, steps)
        eps = jax.random.normal(noise_key, z0.shape)
        prediction = self.predict(params, self.process.corrupt(z0, eps, t), t, self.condition(params, batch))
        losses = diffusion_loss(self.process, self.weighting, prediction, z0, eps, t)
        early = (t < steps // 2).astype(jnp.float32)
        parts = {
            "loss_low_noise": jnp.sum(losses * early) / jnp.maximum(jnp.sum(early), 1.0),
            "loss_high_noise": jnp.sum(losses * (1 - early)) / jnp.maximum(jnp.sum(1 - early), 1.0),
        }
        return jnp.mean(losses), parts

    def noise(self, keys: Key[Array, " B"]) -> Float[Array, "B T h w C"]:
        """What sampling draws: one key for each clip, so that it does not depend on what else is in the batch."""
        canvas = self.canvas
        shape = (canvas.frames, canvas.height, canvas.width, canvas.codec.latent_channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    def sample(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[Any], None] | None = None,
    ) -> UInt8[Array, "B T H W 3"]:
        """Clips for the pictures (and texts, levels, ...) of a batch, one key for each clip.

        `on_step` is called on the host after every step with its number, for a progress bar.
        """
        z0 = self.sample_latents(params, batch, keys, sampling, on_step)
        return pixels_to_uint8(self.canvas.codec.decode(params.get("codec", {}), z0))

    def sample_latents(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[Any], None] | None = None,
    ) -> Float[Array, "B T h w C"]:
        """The latents of these clips."""
        canvas = self.canvas
        nulled = batch
        for conditioner in self.conditioners.values():
            nulled = conditioner.null(nulled)
        null, asked = self.condition(params, nulled), self.condition(params, batch)

        def denoise(zt: Array, t: Array, condition: Condition) -> Array:
            return self.predict(params, zt, t, condition)

        def inverted() -> Array:
            latent = canvas.encode(params, batch[IMAGE][:, None]).astype(jnp.float32)
            still = repeat(latent, "B 1 h w C -> B T h w C", T=canvas.frames)
            times = {"spacing": sampling.sampler.spacing, "steps_offset": sampling.sampler.steps_offset}
            return invert(self.process, guide(denoise, [(null, 1.0)]), still, steps=sampling.inversion_steps, **times)

        terms = [(asked, 1.0)] if sampling.guidance == 1.0 else [(null, 1.0), (asked, sampling.guidance)]
        start = sampling.start.start(self.noise(keys), inverted)
        return sample(sampling.sampler, self.process, guide(denoise, terms), start, keys, on_step=on_step)
