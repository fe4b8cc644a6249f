"""A clip depends on its own row and key, not on what was sampled beside it; and nothing is compiled twice."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.sampling import generate as module
from jaxmotion.sampling.generate import generate


@dataclasses.dataclass(frozen=True, eq=False)
class Shaker:
    """A system that shows the photo with noise as strong as the level, and counts how often it is traced."""

    traced: list = dataclasses.field(default_factory=list)

    def decode(self, params, z0):
        return [z0[:, :1], z0[:, 1:]]

    def sample_latents(self, params, batch, keys, sampling, on_step=None):
        self.traced.append(len(keys))
        for step in range(sampling.sampler.steps):
            jax.debug.callback(on_step, step)
        noise = jax.vmap(lambda key: jax.random.normal(key, (4, 8, 8, 3)))(keys)
        level = batch["level"][:, None, None, None, None].astype(jnp.float32)
        clip = batch["image"][:, None] + params["strength"] * level * noise
        return jnp.clip(clip, 0, 255).astype(jnp.uint8)


PARAMS = {"strength": np.float32(1.0)}
SAMPLING = Sampling(DDIM(3))


def request(count: int) -> tuple[dict, jax.Array]:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return {"image": images, "level": np.arange(count, dtype=np.int32)}, jax.random.split(jax.random.key(0), count)


def test_clips_do_not_depend_on_how_they_are_grouped() -> None:
    system, (batch, keys) = Shaker(), request(5)
    together = generate(system, PARAMS, batch, keys, SAMPLING)
    assert together.shape == (5, 4, 8, 8, 3)
    assert np.array_equal(together[0, 0], batch["image"][0])  # level 0: the photo itself
    for at_once in (1, 2, 3):
        assert np.array_equal(generate(system, PARAMS, batch, keys, SAMPLING, at_once=at_once), together)


def test_one_compilation_for_a_model_its_settings_and_a_batch_size() -> None:
    system, (batch, keys) = Shaker(), request(7)
    for _ in range(3):
        generate(system, PARAMS, batch, keys, SAMPLING, at_once=3)  # 3 + 3 + 1, the last filled up
    assert system.traced == [3]
    generate(system, {"strength": np.float32(2.0)}, batch, keys, SAMPLING, at_once=3)
    assert system.traced == [3]
    generate(system, PARAMS, batch, keys, Sampling(DDIM(4)), at_once=3)
    assert system.traced == [3, 3]
    other = Shaker()  # of the same values, but another object
    generate(other, PARAMS, batch, keys, SAMPLING, at_once=3)
    assert other.traced == [3]


def test_the_bar_counts_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar(module.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False})
            bars.append(self)

    monkeypatch.setattr(module, "tqdm", Bar)
    batch, keys = request(5)
    system = Shaker()
    for _ in range(2):
        generate(system, PARAMS, batch, keys, SAMPLING, at_once=2)
    assert [(bar.n, bar.total) for bar in bars] == [(9, 9), (9, 9)]


def test_large_pictures_are_sampled_a_few_at_a_time() -> None:
    batch = {"image": np.zeros((9, 256, 256, 3), np.uint8), "level": np.zeros(9, np.int32)}

    class Still(Shaker):
        def sample_latents(self, params, batch, keys, sampling, on_step=None):
            self.traced.append(len(keys))
            return batch["image"][:, None]

    system = Still()
    assert generate(system, PARAMS, batch, jax.random.split(jax.random.key(0), 9), SAMPLING).shape[0] == 9
    assert system.traced == [4]


def test_entries_must_have_as_many_rows_as_keys() -> None:
    batch, keys = request(3)
    with pytest.raises(ValueError, match="'level': 2"):
        generate(Shaker(), PARAMS, {**batch, "level": batch["level"][:2]}, keys, SAMPLING)
    with pytest.raises(ValueError, match="at least one row"):
        generate(Shaker(), PARAMS, {name: value[:0] for name, value in batch.items()}, keys[:0], SAMPLING)
