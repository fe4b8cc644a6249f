"""A fourth system, as a user writes one in a package of his own: a picture that drifts the way a word says.

It has an entry that no other system has (`drift`), a control that is no number, an export, an evaluation, and latents
that can be precomputed. No line of the package knows of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxmotion.data.source import DataConfig, DataSource
from jaxmotion.diffusion.loss import Uniform
from jaxmotion.diffusion.process import Process
from jaxmotion.evaluation.evaluation import Evaluation, KeyNumber
from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import FPS, IMAGE, VIDEO
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
from jaxmotion.video.synthetic.captions import CAPTION

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
        return Condition(
            channels=(
                jnp.broadcast_to(drift, (len(kept), latent_shape.frames, latent_shape.height, latent_shape.width, 2)),
            )
        )


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
    labels = needs = (DRIFT,)

    def build(self):
        latent_shape = LatentShape(CODEC, self.frames, *(side // 4 for side in self.size))
        parts = {"reference": ReferenceLatent(), DRIFT: DriftMap()}
        return VideoDiffusion(
            latent_shape, parts, Denoiser(), Process(), Uniform(), MEASURES, PLACES, dropout={DRIFT: 0.1}
        )

    def precomputable(self):
        return precompute_latents(CODEC, {}, MEASURES)

    def exports(self):
        return {"safetensors": SAFETENSORS, "recipe": Export("the sizes, as JSON", self._write_recipe)}

    def _write_recipe(self, job):
        job.destination.mkdir()
        path = job.destination / "recipe.json"
        path.write_text(json.dumps({"frames": job.system.frames, "weights": sorted(job.params)}))
        return [path]


@register()
@dataclasses.dataclass(frozen=True)
class Drifting(DataConfig):
    """Random pictures that drift."""

    frames: int = 4
    fps: float = 8.0
    size: tuple[int, int] = (16, 16)

    def open(self, report=None):
        return DriftingSource(self)

    def held_out_examples(self, count, entries):
        return [DriftingSource(self).load(1000 + index) for index in range(count)]


class DriftingSource(DataSource):
    optional_entries = (DRIFT,)

    def __len__(self):
        return 8

    def load(self, index, rng=None):
        picture = np.random.default_rng(index).integers(0, 256, (*self.config.size, 3), np.uint8)
        way = list(WAYS.values())[index % 4]
        frames = [np.roll(picture, np.multiply(way, n), (0, 1)) for n in range(self.config.frames)]
        fps, drift = np.float32(self.config.fps), np.array(way, np.float32)
        return {VIDEO: np.stack(frames), FPS: fps, DRIFT: drift, CAPTION: "", "id": f"clip {index}"}


@register()
@dataclasses.dataclass(frozen=True)
class Spread(Evaluation):
    """How much clips of different ways differ, in grey levels."""

    def entries(self, controls):
        return (DRIFT,)

    def measure(self, generate, scenes: Sequence, fps: float) -> Mapping:
        ways = [{DRIFT: "left"}, {DRIFT: "right"}]
        clips = np.stack([generate(scene, ways, 0).astype(float) for scene in scenes])
        return {"spread": float(np.abs(clips[:, 0] - clips[:, 1]).mean())}

    def key_numbers(self, numbers):
        return (KeyNumber("spread", numbers["spread"], "Clips of different ways differ"),)
