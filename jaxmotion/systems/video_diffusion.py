"""A video diffusion model: its loss, and the sampling of clips."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat
from jaxtyping import Bool, Float, Int, Key, UInt8

from jaxmotion.diffusion.guidance import Term, guide
from jaxmotion.diffusion.inversion import invert
from jaxmotion.diffusion.loss import Weighting, diffusion_loss
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import sample
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE, MOMENTS, VIDEO
from jaxmotion.foundation.types import Array, Batch, Condition, Params, pixels_to_uint8
from jaxmotion.models.codec import Codec, MomentsCodec, Streaming
from jaxmotion.nn.apply import apply
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.system import System, Table


class VideoDiffusionSystem(System):
    """Base of the configs that build a `VideoDiffusion` from a codec and conditioners."""

    codec: Codec
    conditioners: dict[str, Conditioner]
    dropout: dict[str, float]

    @property
    def token_spec(self) -> tuple[int, int] | None:
        """(vocabulary, length) of the text encoder's token ids."""
        return next((c.token_spec for c in self.conditioners.values() if c.token_spec), None)

    def idle_parts(self, entries: Collection[str]) -> frozenset[str]:
        """Those of its conditioners."""
        return frozenset().union(*(each.idle_parts(entries) for each in self.conditioners.values()))

    @property
    def condition_channels(self) -> int:
        """Number of channels that stand beside z_t."""
        return sum(c.channels(self.codec) for c in self.conditioners.values())

    @property
    def guidable(self) -> Mapping[str, bool]:
        return guidable_conditions(self.conditioners, self.dropout)


def guidable_conditions(conditioners: Mapping[str, Conditioner], dropout: Mapping[str, float]) -> dict[str, bool]:
    """Returns for each condition whether it can be guided: whether the network knows what its absence means."""
    named = {name: each for name, each in conditioners.items() if not each.only_measures}
    return {name: each.null_is_known or dropout.get(name, 0.0) > 0.0 for name, each in named.items()}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a key of caches of compiled functions
class VideoDiffusion:
    """A video diffusion model: the one class behind all systems that make clips.

    conditioners:     by name; channel conditions enter in this order.
    measured_entries: batch entries that training measures on the clip, unless the data brings them, and sampling asks
                      a person for.
    dropout:          share of the training clips for which a conditioner is dropped, by its name; clip by clip, and
                      for each conditioner independently of the others.
    sample_posterior: sample latents from the VAE posterior during training instead of using its mean.
    """

    latent_shape: LatentShape
    conditioners: Mapping[str, Conditioner]
    denoiser: nn.Module
    process: Process
    weighting: Weighting
    measured_entries: Mapping[str, Callable[[Params, Batch], Array]]
    denoiser_sharding: Table
    sample_posterior: bool = False
    dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [name for name, each in self.conditioners.items() if not each.only_measures]
        unknown = sorted(set(self.dropout) - set(named))
        if unknown:
            raise ValueError(f"There is no conditioner {unknown[0]!r} to drop; this system has {', '.join(named)}.")
        for name, rate in self.dropout.items():
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"A drop probability lies in [0, 1]; got {rate} for {name!r}.")

    @property
    def sharding(self) -> Table:
        """One table for the whole tree: every part's rules under the part's name."""
        tables = {"denoiser": self.denoiser_sharding, "codec": self.latent_shape.codec.sharding}
        for conditioner in self.conditioners.values():
            tables.update(conditioner.sharding())
        return tuple(
            (f"^{part}(?=/).*(?:{pattern})", spec) for part, table in tables.items() for pattern, spec in table
        )

    def init(self, key: Array) -> Params:
        """Random parameters: `codec`, `denoiser` and the parts that the conditioners own."""
        codec_key, denoiser_key, condition_key = jax.random.split(key, 3)
        params: dict[str, Any] = {"codec": self.latent_shape.codec.init(codec_key)}
        for index, (name, conditioner) in enumerate(self.conditioners.items()):
            parts = conditioner.init(jax.random.fold_in(condition_key, index), self.latent_shape)
            clash = set(parts) & set(params)
            if clash:
                raise ValueError(f"The conditioner {name!r} brings the part {sorted(clash)} that is already there.")
            params.update(parts)
        shape = (1, self.latent_shape.frames, self.latent_shape.height, self.latent_shape.width)
        extra = sum(c.channels(self.latent_shape.codec) for c in self.conditioners.values())
        tokens = {
            name: (c.token_spec[1] if c.token_spec else 1, size)
            for c in self.conditioners.values()
            for name, size in c.tokens().items()
        }
        condition = Condition(
            channels=(jnp.zeros((*shape, extra)),) if extra else (),
            tokens={name: jnp.zeros((1, 1, *shape)) for name, shape in tokens.items()},
        )
        latents = jnp.zeros((*shape, self.latent_shape.codec.latent_channels))
        params["denoiser"] = self.denoiser.init(denoiser_key, latents, jnp.zeros((1,), jnp.int32), condition)["params"]
        return {part: tree for part, tree in params.items() if tree}

    def condition(
        self,
        params: Params,
        batch: Batch,
        kept: Mapping[str, Bool[Array, " B"]] | None = None,
        latent_shape: LatentShape | None = None,
    ) -> Condition:
        """Returns the sum of all conditions of a batch.

        Args:
            kept: masks by conditioner; all rows by default.
            latent_shape: that of the batch, where its clips have another length or size than the system's.
        """
        kept, shape = {**self._all_kept(batch), **(kept or {})}, latent_shape or self.latent_shape
        return sum(
            (c.condition(params, batch, shape, kept[name]) for name, c in self.conditioners.items()), Condition()
        )

    def _all_kept(self, batch: Batch) -> dict[str, Bool[Array, " B"]]:
        rows = next(iter(batch.values())).shape[0]
        return dict.fromkeys(self.conditioners, jnp.ones((rows,), bool))

    def draw_kept(self, rows: int, key: Array) -> dict[str, Bool[Array, " B"]]:
        """Returns a mask for each conditioner that is dropped in training.

        Each is drawn from a key of its own, folded from the place of the conditioner, so they are independent even
        where several conditioners read the same entry.
        """
        places = {name: index for index, name in enumerate(self.conditioners)}
        return {
            name: ~jax.random.bernoulli(jax.random.fold_in(key, places[name]), rate, (rows,))
            for name, rate in self.dropout.items()
        }

    def predict(
        self, params: Params, zt: Array, t: Int[Array, " B"], condition: Condition
    ) -> Float[Array, "B T h w C"]:
        """The denoiser's output in float32; the network itself computes in the type of its parameters."""
        dtype = jax.tree.leaves(params["denoiser"])[0].dtype
        zt, condition = jax.tree.map(lambda x: x.astype(dtype), (zt, condition))
        return apply(self.denoiser, params["denoiser"], zt, t, condition).astype(jnp.float32)

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean weighted denoising error of a batch, and its parts at low and at high noise.

        The clips of a batch may have another length and size than `latent_shape`, as those of buckets do.
        Source: LivePhoto Eq. 2; the target is whatever `process.prediction` names.
        """
        latent_shape = self.latent_shape.for_batch(batch)
        drop_key, time_key, noise_key = jax.random.split(key, 3)
        measures = {name: measure for name, measure in self.measured_entries.items() if name not in batch}
        batch = {**batch, **{name: measure(params, batch) for name, measure in measures.items()}}
        for index, conditioner in enumerate(self.conditioners.values()):
            batch = conditioner.augment(batch, jax.random.fold_in(drop_key, index))
        latent_key = jax.random.fold_in(noise_key, 1) if self.sample_posterior else None
        z0 = latent_shape.pad(self._latents(params, batch, latent_key)).astype(jnp.float32)
        steps = self.process.schedule.steps
        t = jax.random.randint(time_key, (z0.shape[0],), 0, steps)
        eps = jax.random.normal(noise_key, z0.shape)
        condition = self.condition(params, batch, self.draw_kept(z0.shape[0], drop_key), latent_shape)
        prediction = self.predict(params, self.process.corrupt(z0, eps, t), t, condition)
        losses = diffusion_loss(self.process, self.weighting, prediction, z0, eps, t)
        early = (t < steps // 2).astype(jnp.float32)
        parts = {
            "loss_low_noise": jnp.sum(losses * early) / jnp.maximum(jnp.sum(early), 1.0),
            "loss_high_noise": jnp.sum(losses * (1 - early)) / jnp.maximum(jnp.sum(1 - early), 1.0),
        }
        return jnp.mean(losses), parts

    def _latents(self, params: Params, batch: Batch, key: Array | None) -> Float[Array, "B t h w C"]:
        """Returns the latents of a batch's clips, or those that a precomputed set has encoded already."""
        if MOMENTS in batch:
            codec = self.latent_shape.codec
            if not isinstance(codec, MomentsCodec):
                raise TypeError(f"The batch has moments of latents; {type(codec).__name__} makes no latents of them.")
            return codec.sample_moments(batch[MOMENTS].astype(jnp.float32), key)
        return self.latent_shape.encode(params, batch[VIDEO], key)

    def noise(self, keys: Key[Array, " B"]) -> Float[Array, "B T h w C"]:
        """Returns the noise that sampling starts from: one key per clip, so the rest of the batch has no influence."""
        latent_shape = self.latent_shape
        shape = (latent_shape.frames, latent_shape.height, latent_shape.width, latent_shape.codec.latent_channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    def sample(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[int], None] | None = None,
    ) -> UInt8[Array, "B T H W 3"]:
        """Clips for the pictures (and texts, levels, ...) of a batch, one key for each clip.

        `on_step` is called on the host after every step with its number, for a progress bar.
        """
        z0 = self.sample_latents(params, batch, keys, sampling, on_step)
        return pixels_to_uint8(self.latent_shape.codec.decode(params.get("codec", {}), z0))

    def decode(self, params: Params, z0: Float[Array, "B T h w C"]) -> Iterator[UInt8[Array, "B T H W 3"]]:
        """Pixels of latents, a few frames at a time where the codec can do so. Not for use inside `jax.jit`."""
        codec, mine = self.latent_shape.codec, params.get("codec", {})
        stream = codec.stream(mine, z0) if isinstance(codec, Streaming) else [_decode(codec, mine, z0)]
        return map(_uint8, stream)

    def sample_latents(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Array, "B T h w C"]:
        """The latents of these clips, without copies of the first."""
        latent_shape = self.latent_shape
        times = sampling.sampler.timesteps(self.process)
        terms = self._terms(params, batch, sampling, times)

        def denoise(zt: Array, t: Array, condition: Condition) -> Array:
            return self.predict(params, zt, t, condition)

        def inverted() -> Array:
            latent = latent_shape.encode(params, batch[IMAGE][:, None]).astype(jnp.float32)
            still = repeat(latent, "B 1 h w C -> B T h w C", T=latent_shape.frames)
            same = {"spacing": sampling.sampler.spacing, "steps_offset": sampling.sampler.steps_offset}
            kept = self._all_kept(batch)
            absent = {name: ~kept[name] for name, c in self.conditioners.items() if c.absent_in_inversion}
            plain = guide(denoise, [(self.condition(params, batch, absent), 1.0)])
            return invert(self.process, plain, still, steps=sampling.count_inversion_steps(), **same)

        start = sampling.initial_noise.start(self.noise(keys), inverted)
        z0 = sample(sampling.sampler, self.process, guide(denoise, terms), start, keys, on_step=on_step)
        return z0[:, latent_shape.pad_frames :]

    def _terms(self, params: Params, batch: Batch, sampling: Sampling, times: np.ndarray) -> list[Term]:
        """Returns the terms of guidance: first nothing of what is guided, then one condition more in each term.

        What is not guided is in all of them. Neighbours with the same scale share a term, for then their sum does not
        hold what lies between.
        """
        kept = self._all_kept(batch)
        conditions = {
            name: each.condition(params, batch, self.latent_shape, kept[name])
            for name, each in self.conditioners.items()
        }
        scales = sampling.scales(guidable_conditions(self.conditioners, self.dropout))
        current = dict(conditions)
        for name in scales:
            conditioner = self.conditioners[name]
            current[name] = conditioner.condition(params, batch, self.latent_shape, ~kept[name])
        terms: list[Term] = [(sum(current.values(), Condition()), 1.0)]
        names = list(scales)
        for name, following in zip(names, [*names[1:], None], strict=False):
            current[name] = conditions[name]
            if following is None or scales[following] != scales[name]:
                scale = sampling.guidance_schedule.scale(scales[name], times)
                terms.append((sum(current.values(), Condition()), scale))
        return terms


@functools.partial(jax.jit, static_argnums=0)
def _decode(codec: Codec, params: Params, z: Array) -> Array:
    return codec.decode(params, z)


_uint8 = jax.jit(pixels_to_uint8)
