"""A fourth system, as a user writes one in a package of his own: a picture that drifts the way a word says.

It has an entry that no other system has (`drift`), a control that is no number, an export, and latents that can be
precomputed; its data and its evaluation are in `fourth_data.py`. No line of the package knows of it.
"""

from __future__ import annotations

import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxmotion.diffusion.loss import Uniform
from jaxmotion.diffusion.process import Process
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import IMAGE
from jaxmotion.foundation.types import Condition
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.systems.conditioner import Conditioner, keep_rows
from jaxmotion.systems.control import Control
from jaxmotion.systems.export import SAFETENSORS, Export
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.precompute import precompute_latents
from jaxmotion.systems.reference import ReferenceLatent, first_frame
from jaxmotion.systems.system import System
from jaxmotion.systems.video_diffusion import VideoDiffusion

DRIFT = "drift"  # float32 [B 2]: pixels down and to the right in each frame
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


@register()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Way(Control[str]):
    sweep = ("left", "down")

    def parse(self, text):
        return tuple(map(self.check, text.split(",")))

    def check(self, value):
        if value not in WAYS:
            raise ValueError(f"ways are {', '.join(WAYS)}; got {value!r}")
        return value

    def entry(self, values):
        return np.array([WAYS[value] for value in values], np.float32)

    def from_example(self, name, example):
        return next(word for word, way in WAYS.items() if way == tuple(example[name])) if name in example else None


@register()
@dataclasses.dataclass(frozen=True)
class DriftMap(Conditioner):
    def channels(self, codec):
        return 2

    def condition(self, params, batch, latent_shape, kept):
        drift = keep_rows(kept, jnp.asarray(batch[DRIFT], jnp.float32))[:, None, None, None]
        shape = (latent_shape.frames, latent_shape.height, latent_shape.width, 2)
        return Condition(channels=(jnp.broadcast_to(drift, (len(kept), *shape)),))


class Denoiser(nn.Module):
    @nn.compact
    def __call__(self, zt, t, condition):
        hidden = nn.gelu(nn.Dense(16)(jnp.concatenate([zt, *condition.channels], axis=-1)))
        return nn.Dense(zt.shape[-1])(hidden)


@register()
@dataclasses.dataclass(frozen=True)
class CosineCodec(SpaceToDepth):
    def moments(self, params, x):
        mean = self.encode(params, x)
        return jnp.concatenate([mean, jnp.full_like(mean, -30.0)], axis=-1)

    def sample_moments(self, moments, key=None):
        return jnp.split(moments, 2, axis=-1)[0]


CODEC, MEASURES = CosineCodec(spatial_compression=4), {IMAGE: lambda params, batch: first_frame(batch)}
PLACES = ((r".*", P()),)


@register()
@dataclasses.dataclass(frozen=True)
class Drifter(System):
    frames: int = 4
    size: tuple[int, int] = (16, 16)
    controls = {DRIFT: Way(description="the way the picture drifts")}  # noqa: RUF012
    optional_entries = required_entries = (DRIFT,)

    def build(self):
        shape = LatentShape.for_clips(CODEC, self.frames, self.size)
        parts = {"reference": ReferenceLatent(), DRIFT: DriftMap()}
        return VideoDiffusion(shape, parts, Denoiser(), Process(), Uniform(), MEASURES, PLACES, dropout={DRIFT: 0.1})

    def precomputable(self):
        return precompute_latents(CODEC, {}, MEASURES)

    def exports(self):
        return {"safetensors": SAFETENSORS, "recipe": Export("the sizes, as JSON", self._write_recipe)}

    def _write_recipe(self, job):
        job.destination.mkdir()
        path = job.destination / "recipe.json"
        path.write_text(json.dumps({"frames": job.system.frames, "weights": sorted(job.params)}))
        return [path]
