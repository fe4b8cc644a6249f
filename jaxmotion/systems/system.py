"""A system: a codec, conditioners, a denoiser and a diffusion process, trained with one loss and sampled in one scan.

`System` is what a config names; `build` makes the `VideoDiffusion` that trains and samples. The trainer itself needs
only `init`, `loss` and `sharding`, so a task that is no diffusion model can be trained by it as well.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat
from jaxtyping import Float, Int, Key, UInt8

from jaxmotion.diffusion.guidance import Dynamic, Flat, Rising, Term, guide
from jaxmotion.diffusion.inversion import invert
from jaxmotion.diffusion.loss import Weighting, diffusion_loss
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, SDEDPMSolverPP, sample
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import IMAGE, MOMENTS, TEXT, VIDEO, Array, Batch, Condition, Params, pixels_to_uint8
from jaxmotion.nn.apply import apply
from jaxmotion.parallel.sharding import paths
from jaxmotion.systems.conditioner import Canvas, Codec, Conditioner

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


@dataclasses.dataclass(frozen=True)
class Dial:
    """A batch entry in 1..10 that a person asks for. `whole`: it is a whole number."""

    default: float = 5.0
    whole: bool = False

    def entry(self, values: Sequence[float]) -> np.ndarray:
        """The entry of a batch."""
        return np.asarray(values, np.int32 if self.whole else np.float32)


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

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of the labels without which it learns nothing."""
        return ()

    @property
    def dials(self) -> Mapping[str, Dial]:
        """What a person asks for beside a picture and a text, by batch entry."""
        return {}

    def at(self, frames: int, size: tuple[int, int]) -> Self:
        """This system for clips of another length and size, which needs the same parameters.

        Raises:
            ValueError: the size does not fit, or the parameters would be others.
        """
        if (frames, size) == (self.frames, self.size):
            return self
        other = self._at(frames, size)
        ours, theirs = (
            {path: leaf.shape for path, leaf in paths(jax.eval_shape(each.build().init, jax.random.key(0))).items()}
            for each in (self, other)
        )
        changed = [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]
        if changed:
            raise ValueError(
                f"This system cannot make clips of {frames} frames of {size[0]} x {size[1]} px: it was made for "
                f"{self.frames} of {self.size[0]} x {self.size[1]}, and {changed[0]} would be "
                f"{theirs.get(changed[0])} instead of {ours.get(changed[0])}."
            )
        return other

    def _at(self, frames: int, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, frames=frames, size=size)  # pyright: ignore

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


@register()
@dataclasses.dataclass(frozen=True)
class Noise:
    """Sampling starts from the Gaussian noise itself."""

    def start(self, noise: Array, inverted: Callable[[], Array]) -> Array:
        """The noise; `inverted` is not called."""
        return noise


@register()
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How clips are sampled."""

    sampler: DDIM | DPMSolverPP | SDEDPMSolverPP | DDPM = DDIM()
    """The update rule and its number of steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale on the text; 1 is the plain conditional prediction."""
    start: Any = Noise()
    """What the first step starts from: `Noise` or LivePhoto's `PriorInversion`."""
    inversion_steps: int = 25
    """Steps of the DDIM inversion, when the start asks for one."""
    others: tuple[tuple[str, float], ...] = ()
    """Guidance scales on other conditions by their names, such as (("object", 2.0),); each one that is not 1 takes one
    more evaluation of the network in every step, unless it is that of the condition before it."""
    curve: Flat | Rising | Dynamic = Flat()
    """How the scales run over the steps."""

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"The inversion needs at least one step; got {self.inversion_steps}.")

    def scales(self, known: Collection[str]) -> dict[str, float]:
        """The scales that are not 1, by the names of conditions, the text first.

        Raises:
            ValueError: one is of a condition that is not among the known ones.
        """
        scales = {TEXT: self.guidance, **dict(self.others)}
        unknown = [name for name, scale in scales.items() if name not in known and name != TEXT]
        if unknown:
            raise ValueError(f"There is no condition {unknown[0]!r} to guide; this system has {', '.join(known)}.")
        return {name: scale for name, scale in scales.items() if scale != 1.0 and name in known}


@dataclasses.dataclass(frozen=True)
class VideoDiffusion:
    """A video diffusion model: the one class behind all three systems.

    conditioners: by name; channel conditions enter in this order.
    measures:     batch entries that training measures on the clip, unless the data brings them, and sampling asks a
                  person for.
    sampled:      whether training draws the latents of a clip as its codec says they spread, or takes their mean.
    """

    canvas: Canvas
    conditioners: Mapping[str, Conditioner]
    denoiser: nn.Module
    process: Process
    weighting: Weighting
    measures: Mapping[str, Callable[[Params, Batch], Array]]
    denoiser_sharding: Table
    sampled: bool = False

    @property
    def sharding(self) -> Table:
        """One table for the whole tree: every part's rules under the part's name."""
        tables = {"denoiser": self.denoiser_sharding, "codec": self.canvas.codec.sharding}
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
        shape = (1, self.canvas.length, self.canvas.height, self.canvas.width)
        extra = sum(c.channels(self.canvas.codec) for c in self.conditioners.values())
        tokens = {
            name: (c.captions[1] if c.captions else 1, size)
            for c in self.conditioners.values()
            for name, size in c.tokens().items()
        }
        condition = Condition(
            channels=(jnp.zeros((*shape, extra)),) if extra else (),
            tokens={name: jnp.zeros((1, 1, *shape)) for name, shape in tokens.items()},
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

        The clips of a batch may have another length and size than the canvas, as those of buckets do.
        Source: LivePhoto Eq. 2; the target is whatever `process.prediction` names.
        """
        return dataclasses.replace(self, canvas=self.canvas.of(batch))._loss(params, batch, key)

    def _loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        drop_key, time_key, noise_key = jax.random.split(key, 3)
        measures = {name: measure for name, measure in self.measures.items() if name not in batch}
        batch = {**batch, **{name: measure(params, batch) for name, measure in measures.items()}}
        for index, conditioner in enumerate(self.conditioners.values()):
            batch = conditioner.drop(batch, jax.random.fold_in(drop_key, index))
        latent_key = jax.random.fold_in(noise_key, 1) if self.sampled else None
        z0 = self.canvas.filled(self._latents(params, batch, latent_key)).astype(jnp.float32)
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

    def _latents(self, params: Params, batch: Batch, key: Array | None) -> Float[Array, "B t h w C"]:
        """Those of a batch's clips, which a prepared set has encoded already."""
        if MOMENTS in batch:
            return self.canvas.codec.scaled(batch[MOMENTS].astype(jnp.float32), key)  # pyright: ignore
        return self.canvas.encode(params, batch[VIDEO], key)

    def noise(self, keys: Key[Array, " B"]) -> Float[Array, "B T h w C"]:
        """What sampling draws: one key for each clip, so that it does not depend on what else is in the batch."""
        canvas = self.canvas
        shape = (canvas.length, canvas.height, canvas.width, canvas.codec.latent_channels)
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

    def decode(self, params: Params, z0: Float[Array, "B T h w C"]) -> Iterator[UInt8[Array, "B T H W 3"]]:
        """Pixels of latents, a few frames at a time where the codec can do so. Not for use inside `jax.jit`."""
        codec, mine = self.canvas.codec, params.get("codec", {})
        stream = codec.stream(mine, z0) if isinstance(codec, Streaming) else [_decoded(codec, mine, z0)]
        return map(_uint8, stream)

    def sample_latents(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[Any], None] | None = None,
    ) -> Float[Array, "B T h w C"]:
        """The latents of these clips, without copies of the first."""
        canvas = self.canvas
        times = sampling.sampler.timesteps(self.process)
        terms = self._terms(params, batch, sampling, times)

        def denoise(zt: Array, t: Array, condition: Condition) -> Array:
            return self.predict(params, zt, t, condition)

        def inverted() -> Array:
            latent = canvas.encode(params, batch[IMAGE][:, None]).astype(jnp.float32)
            still = repeat(latent, "B 1 h w C -> B T h w C", T=canvas.length)
            same = {"spacing": sampling.sampler.spacing, "steps_offset": sampling.sampler.steps_offset}
            null = batch
            for conditioner in self.conditioners.values():
                null = conditioner.null(null)
            plain = guide(denoise, [(self.condition(params, null), 1.0)])
            return invert(self.process, plain, still, steps=sampling.inversion_steps, **same)

        start = sampling.start.start(self.noise(keys), inverted)
        z0 = sample(sampling.sampler, self.process, guide(denoise, terms), start, keys, on_step=on_step)
        return z0[:, canvas.copies :]

    def _terms(self, params: Params, batch: Batch, sampling: Sampling, times: np.ndarray) -> list[Term]:
        """What guidance combines: first nothing of what is guided, then one condition more in each term.

        What is not guided is in all of them. Neighbours with the same scale share a term, for then their sum does not
        hold what lies between.
        """
        asked = {name: each.condition(params, batch, self.canvas) for name, each in self.conditioners.items()}
        scales = sampling.scales(self.conditioners)
        told = dict(asked)
        for name in scales:
            conditioner = self.conditioners[name]
            told[name] = conditioner.condition(params, conditioner.null(batch), self.canvas)
        terms: list[Term] = [(sum(told.values(), Condition()), 1.0)]
        names = list(scales)
        for name, following in zip(names, [*names[1:], None], strict=False):
            told[name] = asked[name]
            if following is None or scales[following] != scales[name]:
                scale = sampling.curve.scale(scales[name], times)
                terms.append((sum(told.values(), Condition()), scale))
        return terms


@runtime_checkable
class Streaming(Protocol):
    """A codec that decodes a few frames at a time."""

    def stream(self, params: Params, z: Float[Array, "B t h w C"]) -> Iterator[Float[Array, "B T H W 3"]]:
        """Pixels in [-1, 1], some frames after the others."""
        ...


@functools.partial(jax.jit, static_argnums=0)
def _decoded(codec: Codec, params: Params, z: Array) -> Array:
    return codec.decode(params, z)


_uint8 = jax.jit(pixels_to_uint8)
