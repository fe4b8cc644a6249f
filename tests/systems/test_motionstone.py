"""MotionStone: what it adds to CogVideoX, how scores and pictures enter, and what a fresh one does."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant, CosineByStep
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import CAMERA, FPS, IMAGE, OBJECT, TEXT, TEXT_FEATURES, VIDEO
from jaxmotion.foundation.types import Condition
from jaxmotion.meter import meter
from jaxmotion.meter.estimate import Clip
from jaxmotion.models import tadaconv
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.motion_estimator import MotionEstimatorSizes
from jaxmotion.parallel.sharding import paths
from jaxmotion.runs import experiment
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.motionstone import intensity
from jaxmotion.systems.motionstone.injection import IMAGE_NOISE, FirstFrame, ScoreEmbedding
from jaxmotion.systems.motionstone.intensity import (
    INTENSITY,
    ConstantScores,
    EstimatedScores,
    ProvidedScores,
    ScalarScore,
)
from jaxmotion.systems.motionstone.pretrained_meter import METER
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.video import motion_scale
from jaxmotion.video.canvas import lying_canvas
from jaxmotion.video.synthetic.cluttered_scenes import SceneDistribution
from tests.support.quick_keys import quick_key


@pytest.fixture(scope="module")
def configs(root):
    return f"{root / 'configs' / 'motionstone.py'}"


@pytest.fixture(scope="module")
def system(configs):
    """The tiny system, shallower."""
    tiny = experiment.load(f"{configs}:tiny").system
    return dataclasses.replace(tiny, transformer=dataclasses.replace(tiny.transformer, depth=1, heads=2))


@pytest.fixture(scope="module")
def model(system):
    return system.build()


@pytest.fixture(scope="module")
def params(model):
    """Random everywhere, also where a fresh one has zeros, but not in the scores' last layers."""
    fresh = jax.jit(model.init)(quick_key(0))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), fresh["denoiser"])
    return {**fresh, "denoiser": noisy}


@pytest.fixture
def batch(system, model):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, model.latent_shape.frames, *system.size, 3), np.uint8)
    return {
        VIDEO: video,
        IMAGE: video[:, 0],
        TEXT: rng.integers(0, 1000, (2, 16), np.int32),
        OBJECT: np.array([2.0, 9.0], np.float32),
        CAMERA: np.array([7.0, 1.0], np.float32),
        FPS: np.array([8.0, 8.0], np.float32),
    }


def stirred(params, part):
    """The parameters with another last layer of a score than zeros."""
    last = params[part]["linear_out"]
    moved = {**last, "kernel": jax.random.normal(jax.random.key(7), last["kernel"].shape)}
    return {**params, part: {**params[part], "linear_out": moved}}


def test_a_fresh_one_is_cogvideox(model, params, batch):
    """Bit for bit, whatever the scores: their last layers are zero."""
    condition = model.condition(params, batch)
    assert len(condition.vectors) == 2
    zt = jax.random.normal(
        jax.random.key(2), (2, model.latent_shape.frames, model.latent_shape.height, model.latent_shape.width, 48)
    )
    t = jnp.array([999, 10])
    plain = Condition(condition.channels, condition.tokens)
    predict = jax.jit(model.predict)
    np.testing.assert_array_equal(predict(params, zt, t, condition), predict(params, zt, t, plain))
    assert np.abs(predict(params, zt, t, plain)).max() > 0.1
    moved = predict(stirred(params, "object_score"), zt, t, model.condition(stirred(params, "object_score"), batch))
    assert np.abs(moved - predict(params, zt, t, plain)).max() > 1e-3


def test_each_score_has_its_half_of_the_time_embedding(model, params, batch):
    changed = stirred(stirred(params, "object_score"), "camera_score")
    told = model.condition(changed, batch).vectors
    total = np.sum(told, axis=0)
    other = {**batch, OBJECT: batch[OBJECT][::-1].copy()}
    moved = np.sum(model.condition(changed, other).vectors, axis=0)
    half = total.shape[1] // 2
    assert np.abs(moved - total)[:, :half].max() > 0.01
    np.testing.assert_array_equal(moved[:, half:], total[:, half:])


def test_a_dropped_score_adds_nothing(model, params, batch):
    changed = stirred(params, "object_score")
    score = model.conditioners["object"]
    (vectors,) = score.condition(changed, batch, model.latent_shape, jnp.array([True, False])).vectors
    assert np.abs(vectors[0]).max() > 0.01
    np.testing.assert_array_equal(vectors[1], 0)


def test_an_unknown_score_adds_nothing(model, params, batch):
    changed = stirred(params, "object_score")
    unknown = {**batch, OBJECT: np.array([3.0, np.nan], np.float32)}
    (vectors,) = model.conditioners["object"].condition(changed, unknown, model.latent_shape, jnp.ones(2, bool)).vectors
    assert np.abs(vectors[0]).max() > 0.01
    np.testing.assert_array_equal(vectors[1], 0)


def test_the_picture_is_the_first_latent_and_the_rest_is_zero(model, params, batch):
    channels = model.condition(params, batch).channels[0]
    first = model.latent_shape.encode(params, batch[VIDEO][:, :1])
    np.testing.assert_array_equal(channels[:, :1], first)
    np.testing.assert_array_equal(channels[:, 1:], 0)


def test_copies_of_the_first_latent_fill_a_clip_up():
    """CogVideoX1.5 takes latents two by two: 5 frames are 2 latents, 9 are 3 and a copy."""
    codec = CausalCodec(Autoencoder3DSizes(4, (4, 4, 4, 4), blocks_per_stage=1, groups=2))
    params = {"codec": jax.jit(codec.init)(quick_key(0))}
    video = np.random.default_rng(0).integers(0, 256, (1, 9, 8, 8, 3), np.uint8)
    latent_shape = LatentShape(codec, codec.num_latent_frames(9), 1, 1, frame_multiple=2)
    assert (latent_shape.frames, latent_shape.pad_frames) == (4, 1)
    assert latent_shape.for_batch({VIDEO: video[:, :5]}) == dataclasses.replace(latent_shape, latents=2)
    assert latent_shape.for_batch({VIDEO: video[:, :5]}).pad_frames == 0
    encode = jax.jit(latent_shape.encode)
    z = encode(params, video)
    np.testing.assert_array_equal(latent_shape.pad(z), jnp.concatenate([z[:, :1], z], axis=1))
    place = jax.jit(lambda params, batch: FirstFrame(rescale=2.0).condition(params, batch, latent_shape, kept).channels)
    kept = jnp.ones(1, bool)
    (channels,) = place(params, {IMAGE: video[:, 0]})
    picture = 2 * encode(params, video[:, :1])
    np.testing.assert_allclose(channels, jnp.pad(picture, ((0, 0), (0, 3), *[(0, 0)] * 3)), rtol=1e-6)


def test_training_sees_noisy_pictures(model):
    many = {IMAGE: np.zeros((400, 4, 4, 3), np.uint8)}
    seen = FirstFrame().augment(many, jax.random.key(0))
    spread = np.log(np.std(seen[IMAGE_NOISE], axis=(1, 2, 3)))
    assert np.mean(spread) == pytest.approx(-3.0, abs=0.1)
    assert np.std(spread) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("picture", [FirstFrame(sample_posterior=True), ReferenceLatent(sample_posterior=True)])
def test_pictures_are_drawn_from_the_posterior_in_training_only(picture):
    """With the posterior's mean and deviation, otherwise for every key, and as before where nothing is drawn."""

    class Known:
        latent_channels, spatial_compression = 1, 1

        def encode(self, params, x, key=None):
            drawn = 0.0 if key is None else 0.5 * jax.random.normal(key, x.shape[:-1])[..., None]
            return 3.0 + drawn + 0.0 * x[..., :1]

    shape, pixels = LatentShape(Known(), 1, 64, 64), {IMAGE: np.zeros((2, 64, 64, 3), np.uint8)}  # pyright: ignore

    def latents(batch):
        (channels,) = picture.condition({}, batch, shape, jnp.ones(2, bool)).channels
        return np.asarray(channels[:, 0]) / getattr(picture, "rescale", 1.0)

    np.testing.assert_array_equal(latents(pixels), 3.0)
    first, again, second = (latents(picture.augment(pixels, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.1
    assert first.mean() == pytest.approx(3.0, abs=0.03)
    assert first.std() == pytest.approx(0.5, abs=0.03)
    assert np.abs(first[0] - first[1]).max() > 0.1
    plain = dataclasses.replace(picture, sample_posterior=False)
    np.testing.assert_array_equal(latents(plain.augment(pixels, jax.random.key(0))), 3.0)


def test_targets_are_drawn_or_means_as_the_config_says(system):
    assert system.build().sample_posterior
    assert not dataclasses.replace(system, sample_posterior=False).build().sample_posterior


def test_no_text_can_be_zeros(model, params, batch):
    """As in SAT; precomputed features are then all that is read, so that T5 need not be there."""
    zeros, kept = dataclasses.replace(model.conditioners["text"], null="zeros"), jnp.array([True, False])
    told = zeros.condition(params, batch, model.latent_shape, kept).tokens["text"]
    said = model.conditioners["text"].condition(params, batch, model.latent_shape, kept).tokens["text"]
    np.testing.assert_array_equal(told[0], said[0])
    np.testing.assert_array_equal(told[1], 0)
    assert np.abs(said[1]).max() > 0.1
    known = {**batch, TEXT_FEATURES: np.asarray(told[:, 0])}
    without = {part: tree for part, tree in params.items() if part != "text_encoder"}
    np.testing.assert_array_equal(zeros.condition(without, known, model.latent_shape, kept).tokens["text"], told)
    assert zeros.idle_parts([TEXT, TEXT_FEATURES]) == {"text_encoder"}
    assert not zeros.idle_parts([TEXT])
    assert not model.conditioners["text"].idle_parts([TEXT, TEXT_FEATURES])
    assert zeros.precomputable()[TEXT_FEATURES].settings == (
        model.conditioners["text"].precomputable()[TEXT_FEATURES].settings
    )
    with pytest.raises(ValueError, match="null is 'nothing'; it can be 'empty_caption' or 'zeros'"):
        dataclasses.replace(zeros, null="nothing")


def test_a_dropped_picture_is_zeros(model, params, batch):
    kept = jnp.array([True, False])
    (channels,) = model.conditioners["image"].condition(params, batch, model.latent_shape, kept).channels
    assert np.abs(channels[0]).max() > 0
    np.testing.assert_array_equal(channels[1], 0)


@pytest.mark.parametrize(
    ("guidance", "others", "terms"),
    [
        (1.0, (), 1),
        (6.0, (), 2),
        (6.0, (("object", 6.0), ("camera", 6.0)), 2),
        (6.0, (("object", 2.0), ("camera", 2.0)), 3),
        (6.0, (("object", 2.0), ("camera", 4.0)), 4),
        (1.0, (("camera", 4.0),), 2),
    ],
)
def test_guidance_evaluates_no_more_conditions_than_it_needs(model, params, batch, guidance, others, terms):
    sampling = Sampling(DDIM(4), guidance, guidance_scales=others)
    found = model._terms(params, batch, sampling, np.array([999, 0]))
    assert len(found) == terms
    last = found[-1][0]
    for ours, asked in zip(jax.tree.leaves(last), jax.tree.leaves(model.condition(params, batch)), strict=True):
        np.testing.assert_array_equal(ours, asked)  # the last term is all that was asked for
    if terms == 2 and not others:  # both branches of the text's guidance share the vectors of the scores
        for base, full in zip(found[0][0].vectors, last.vectors, strict=True):
            np.testing.assert_array_equal(base, full)


def test_guiding_what_is_not_there_is_an_error(model, params, batch):
    with pytest.raises(ValueError, match="no condition 'boxes'"):
        model._terms(params, batch, Sampling(DDIM(4), 2.0, guidance_scales=(("boxes", 2.0),)), np.array([999]))


def test_the_rising_scale_is_that_of_the_step():
    times = np.array([999, 749, 499, 249])
    scale = CosineByStep().scale(6.0, times)
    expected = 1 + 6 * (1 - np.cos(np.pi * (np.arange(4) / 4) ** 5)) / 2
    np.testing.assert_allclose(scale(jnp.asarray(times)), expected, rtol=1e-6)
    assert Constant().scale(6.0, times) == 6.0


def test_the_dynamic_scale_is_that_of_the_time():
    """As CogVideoX samples: 1 + w (1 - cos(pi ((N - t) / N)^5)) / 2, whose t is that of training."""
    times = np.array([999, 979, 499, 50, 19])
    found = np.asarray(CogVideoXDynamic().scale(6.0, times)(jnp.asarray(times)))
    expected = [1 + 6 * (1 - math.cos(math.pi * ((5 - t) / 5) ** 5.0)) / 2 for t in times.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scores_may_be_fixed_or_a_single_number(system, model, batch):
    fixed = dataclasses.replace(system, intensity=ConstantScores(5.0, 3.0)).build()
    seen = fixed.conditioners["intensity"].augment(batch, jax.random.key(0))
    assert np.asarray(seen[OBJECT]).tolist() == [5.0, 5.0]
    assert np.asarray(seen[CAMERA]).tolist() == [3.0, 3.0]
    one = ScoreEmbedding(INTENSITY, "all", system.transformer.time_features)
    kept = {name: each for name, each in system.conditioners.items() if name not in (OBJECT, CAMERA)}
    for kind in ("ssim", "feature_difference"):
        single = dataclasses.replace(
            system, conditioners={**kept, "score": one}, intensity=ScalarScore(kind), dropout={}
        )
        assert set(single.controls) == {INTENSITY}
        rng = np.random.default_rng(0)
        still = np.repeat(rng.integers(0, 256, (1, 1, *system.size, 3), np.uint8), model.latent_shape.frames, axis=1)
        clips = [np.concatenate([still, batch[VIDEO][:1]])]
        with pytest.raises(ValueError, match="not measured yet"):
            single.build().measured_entries[INTENSITY]({}, {VIDEO: clips[0]})
        done = single.with_calibration(single.measure_calibration(clips))
        assert done.measure_calibration(clips) == {}
        np.testing.assert_allclose(
            done.build().measured_entries[INTENSITY]({}, {VIDEO: clips[0]}), [1.0, 10.0], atol=1e-3
        )


def test_the_ranks_of_a_scalar_score_are_those_of_all_batches(monkeypatch):
    """Later batches move more; the loader never ends, and no more clips are read than are asked for."""
    monkeypatch.setattr(intensity, "CLIPS_TO_CALIBRATE", 12)
    first, second = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 16, 3), np.uint8)
    new = np.arange(256).reshape(16, 16, 1) < 20 * np.arange(12)[:, None, None, None]
    clips = np.stack([first, np.where(new, second, first)], axis=1)
    score = ScalarScore("ssim")
    batches = itertools.chain(np.split(clips, 3), itertools.repeat(None))
    numbers = jax.vmap(score._number)(clips)
    np.testing.assert_allclose(score.calibrate(batches).edges, np.quantile(numbers, np.linspace(0, 1, 10)), atol=2e-5)


def test_what_does_not_fit_is_said(system):
    with pytest.raises(ValueError, match="told 'object', but ScalarScore knows only intensity"):
        dataclasses.replace(system, intensity=ScalarScore("ssim"))
    narrow = dataclasses.replace(system, transformer=dataclasses.replace(system.transformer, in_channels=48))
    with pytest.raises(ValueError, match="in_channels to 96 and out_channels to 48"):
        narrow.build()
    high = dataclasses.replace(system, size=(34, 32))
    with pytest.raises(ValueError, match=r"height of 34 px; this model needs a multiple of 4, e\.g\. 32 or 36"):
        high.build()
    learned = dataclasses.replace(
        system, transformer=dataclasses.replace(system.transformer, positions="rotary_and_learned"), size=(32, 24)
    )
    with pytest.raises(ValueError, match="32 x 24 px; this transformer has learned the places of 24 x 24 px"):
        learned.build()
    large = dataclasses.replace(
        system, transformer=dataclasses.replace(system.transformer, positions="rotary_grid"), size=(24, 32)
    )
    with pytest.raises(ValueError, match="24 x 32 px; this transformer takes at most 24 x 24"):
        large.build()
    with pytest.raises(ValueError, match="come without 'object'"):
        ScoreEmbedding(OBJECT).condition({}, {}, None, jnp.ones(2, bool))


def test_data_with_known_motion_brings_the_scores(system):
    source = SyntheticClips(frames=2, size=(16, 16)).open()
    assert set(system.optional_entries) <= set(source.optional_entries)
    assert system.intensity == ProvidedScores()
    assert 1 <= source.example(0)[OBJECT] <= 10


def test_the_published_size(configs):
    """5B-I2V with two MLPs of 256 features each, by shapes alone; the encoder and the codec whole."""
    full = experiment.load(configs).system
    shapes = paths(jax.eval_shape(full.build().init, jax.random.key(0)))
    counts = {}
    for path, leaf in shapes.items():
        part = path.split("/")[0]
        counts[part] = counts.get(part, 0) + int(np.prod(leaf.shape))
    # the 5,570,283,072 parameters of 5B, patches of 16 channels more, and a table of 17,776 positions
    assert counts["denoiser"] == 5_570_283_072 + 16 * 4 * 3072 + 17_776 * 3072
    assert counts["text_encoder"] == 4_762_310_656
    assert counts["codec"] == 215_583_907
    assert counts["object_score"] == counts["camera_score"] == 2 * (256 * 256 + 256)
    assert full.build().latent_shape.frames == 13
    newer = experiment.load(f"{configs}:v1_5").system.build()
    assert (newer.latent_shape.frames, newer.latent_shape.pad_frames) == (22, 1)


def test_training_clips_get_the_scores_that_the_meter_gives(monkeypatch) -> None:
    """At any rate and in any shape: in the same windows, lying on the side where they are tall, and not squeezed."""
    monkeypatch.setattr(meter, "canvas", lambda height, width: (64, 48))
    network = MotionEstimatorSizes(tadaconv.TINY, hidden=16)
    params = jax.jit(network.build().init)(jax.random.key(0))
    source = EstimatedScores(network, size=(48, 64))
    video = np.stack([clip[VIDEO] for clip in SceneDistribution(frames=20, size=(64, 48)).sampler().clips(3)])
    fps = np.array([8.0, 24.0, 12.5], np.float32)  # two windows, one of every third frame, one of every second
    read = jax.jit(source.read)({METER: params}, {VIDEO: video, FPS: fps})
    measured = meter.NetworkMeter(network, params, "")([Clip.at(*clip) for clip in zip(video, fps, strict=True)])
    theirs = [[motion_scale.score(each.object_speed), motion_scale.score(each.camera_speed)] for each in measured]
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(np.stack([read[OBJECT], read[CAMERA]], 1), theirs, atol=1e-3)


def test_clips_are_measured_in_their_own_shape() -> None:
    assert lying_canvas(480, 720) == (168, 224)
    assert lying_canvas(1280, 720, like=(144, 256)) == (144, 256)
    assert lying_canvas(720, 1280, like=(72, 128)) == (72, 128)
    assert lying_canvas(100, 100, like=(72, 128)) == (96, 96)
