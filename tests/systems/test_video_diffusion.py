"""What all diffusion systems share: masks of what is dropped, the terms of guidance, and earlier configurations."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool

from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant, CosineByStep, guide
from jaxmotion.diffusion.loss import Uniform
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE, VIDEO
from jaxmotion.foundation.types import Batch, Condition, Params
from jaxmotion.models.codec import Codec
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.systems.conditioner import Conditioner, keep_rows, separate_dropout
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.video_diffusion import VideoDiffusion


@dataclasses.dataclass(frozen=True)
class Brightness(Conditioner):
    """The mean of the picture as one channel."""

    def channels(self, codec: Codec) -> int:
        return 1

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        mean = keep_rows(kept, jnp.mean(jnp.asarray(batch[IMAGE], jnp.float32), axis=(1, 2, 3)))
        shape = (len(mean), latent_shape.frames, latent_shape.height, latent_shape.width, 1)
        return Condition(channels=(jnp.broadcast_to(mean[:, None, None, None, None], shape),))


class Denoiser(nn.Module):
    """Each condition counts once, the second ten times as much."""

    @nn.compact
    def __call__(self, zt: Array, t: Array, condition: Condition) -> Array:
        weight = self.param("weight", nn.initializers.ones, ())
        return weight * zt + condition.channels[0] + 10 * condition.channels[1]


def model(**dropout: float) -> VideoDiffusion:
    """Two conditioners that read the same entry."""
    return VideoDiffusion(
        latent_shape=LatentShape(SpaceToDepth(spatial_compression=4), 2, 1, 1),
        conditioners={"first": Brightness(), "second": Brightness()},
        denoiser=Denoiser(),
        process=Process(),
        weighting=Uniform(),
        measured_entries={},
        denoiser_sharding=(),
        dropout=dropout,
    )


def test_two_readers_of_one_entry_are_dropped_independently() -> None:
    kept = model(first=0.25, second=0.1).draw_kept(40_000, jax.random.key(0))
    first, second = (~np.asarray(kept[name]) for name in ("first", "second"))
    assert first.mean() == pytest.approx(0.25, abs=0.01)  # 4.6 standard deviations
    assert second.mean() == pytest.approx(0.1, abs=0.007)
    assert (first & second).mean() == pytest.approx(0.025, abs=0.004)


def test_a_mask_reaches_its_own_conditioner_only() -> None:
    batch = {IMAGE: np.full((3, 4, 4, 3), 7, np.uint8)}
    found = model().condition({}, batch, {"first": jnp.array([True, False, True])})
    np.testing.assert_array_equal(found.channels[0][:, 0, 0, 0, 0], [7, 0, 7])
    np.testing.assert_array_equal(found.channels[1][:, 0, 0, 0, 0], [7, 7, 7])


def test_the_loss_is_that_of_the_masks() -> None:
    """With everything dropped, the loss is that of a picture that says nothing."""
    clips = {VIDEO: np.full((4, 2, 4, 4, 3), 128, np.uint8), IMAGE: np.full((4, 4, 4, 3), 7, np.uint8)}
    silent = {**clips, IMAGE: np.zeros_like(clips[IMAGE])}
    params = {"denoiser": {"weight": jnp.ones(())}}
    dropped, _ = model(first=1.0, second=1.0).loss(params, clips, jax.random.key(1))
    expected, _ = model().loss(params, silent, jax.random.key(1))
    kept, _ = model().loss(params, clips, jax.random.key(1))
    assert dropped == expected
    assert kept != expected


def test_guidance_adds_one_condition_at_a_time() -> None:
    """Terms: nothing of what is guided, then each guided condition in turn; what is not guided is in all of them."""
    batch, times = {IMAGE: np.full((1, 4, 4, 3), 2, np.uint8)}, np.array([500])

    def channels(**scales: float) -> list[tuple[float, float]]:
        sampling = Sampling(guidance=1.0, guidance_scales=tuple(scales.items()))
        terms = model(first=0.1, second=0.1)._terms({}, batch, sampling, times)
        return [tuple(float(each[0, 0, 0, 0, 0]) for each in condition.channels) for condition, _ in terms]

    assert channels() == [(2, 2)]
    assert channels(first=3.0) == [(0, 2), (2, 2)]
    assert channels(first=3.0, second=2.0) == [(0, 0), (2, 0), (2, 2)]
    assert channels(first=3.0, second=3.0) == [(0, 0), (2, 2)]


class Mixed(nn.Module):
    """What a condition does depends on the others."""

    @nn.compact
    def __call__(self, zt: Array, t: Array, condition: Condition) -> Array:
        weight = self.param("weight", nn.initializers.ones, ())
        first, second, third = condition.channels
        return weight * jnp.sin(zt + first + 2 * second + 5 * third)


@pytest.mark.parametrize(
    "schedule", [Constant(), CosineByStep(), CogVideoXDynamic()], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize(
    "others",
    [{}, {"second": 3.0}, {"second": 1.0}, {"second": 3.0, "third": 2.0}, {"second": 3.0, "third": 3.0}],
    ids=str,
)
def test_a_scale_of_one_is_the_limit_of_those_beside_it(schedule, others: dict[str, float]) -> None:
    """Whichever scale comes to 1: the text's, one of several, the first or the last, under any schedule."""
    parts = {"text": Brightness(), "second": Brightness(), "third": Brightness()}
    system = dataclasses.replace(model(), conditioners=parts, denoiser=Mixed(), dropout=dict.fromkeys(parts, 0.1))
    batch, params = {IMAGE: np.full((1, 4, 4, 3), 2, np.uint8)}, {"denoiser": {"weight": jnp.ones(())}}
    times = DDIM(4).timesteps(system.process)
    zt = jax.random.normal(jax.random.key(0), (1, 2, 1, 1, 48))

    def guided(**scales: float) -> np.ndarray:
        text, rest = scales.pop("text"), tuple(scales.items())
        sampling = Sampling(DDIM(4), text, guidance_scales=rest, guidance_schedule=schedule)
        denoise = guide(functools.partial(system.predict, params), system._terms(params, batch, sampling, times))
        return np.stack([denoise(zt, jnp.full((1,), t)) for t in times])

    for name in ("text", *others):
        scales = {"text": 4.0, **others}
        exact, above, below = (guided(**{**scales, name: value}) for value in (1.0, 1.001, 0.999))
        np.testing.assert_allclose(exact, above, atol=0.01)
        np.testing.assert_allclose(exact, below, atol=0.01)
        assert np.abs(exact - guided(**{**scales, name: 2.0})).max() > 0.05


def test_where_nothing_is_guided_the_network_is_evaluated_once() -> None:
    system = model(first=0.1, second=0.1)
    batch = {IMAGE: np.full((1, 4, 4, 3), 2, np.uint8)}
    for schedule, plain in ((Constant(), 1.0), (CosineByStep(), 0.0), (CogVideoXDynamic(), 0.0)):
        scales = (("first", plain), ("second", plain))
        sampling = Sampling(DDIM(4), plain, guidance_scales=scales, guidance_schedule=schedule)
        assert len(system._terms({}, batch, sampling, np.array([999]))) == 1


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="A guidance scale is a number"):
        Sampling(guidance_scales=(("first", scale),))


@pytest.mark.parametrize("rates", [{"first": 1.5}, {"third": 0.1}])
def test_rates_that_make_no_sense_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"drop probability lies in \[0, 1\]|no conditioner 'third' to drop"):
        model(**rates)


def test_rates_of_earlier_configurations_are_read() -> None:
    part = {"class": "TextTokens"}
    earlier = {"conditioners": {"text": {"class": "a.b:Droppable", "of": part, "probability": 0.5}}}
    now = {"conditioners": {"text": part}, "dropout": {"text": 0.5}}
    assert separate_dropout(earlier) == now
    assert separate_dropout(now) == now
