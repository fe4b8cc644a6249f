"""LivePhoto: its conditions say what the paper says, a fresh one is its pretrained parts, its size is as published."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from jaxmotion.diffusion.sampling import Noise
from jaxmotion.foundation import config_json
from jaxmotion.foundation.entries import IMAGE, TEXT, VIDEO
from jaxmotion.foundation.types import Condition
from jaxmotion.models import clip
from jaxmotion.models.stable_diffusion import stable_diffusion_unet
from jaxmotion.nn.convolution import GroupNorm
from jaxmotion.parallel import sharding
from jaxmotion.runs import experiment
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.livephoto.intensity import LEVEL, LevelMap, bin_edges, level_of, ssim_intensity
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.text import TextTokens
from jaxmotion.systems.video_diffusion import VideoDiffusion
from tests.support.quick_keys import quick_key

EDGES = tuple(np.linspace(0.1, 0.8, 9).tolist())


def load(root: Path, name: str) -> experiment.Experiment:
    return experiment.load(f"{root / 'configs' / 'livephoto.py'}:{name}")


@pytest.fixture(scope="module")
def tiny(root: Path) -> VideoDiffusion:
    """The tiny LivePhoto with level edges."""
    return load(root, "tiny").system.with_calibration({"level_edges": EDGES}).build()


def latents(model: VideoDiffusion) -> tuple[int, ...]:
    latent_shape = model.latent_shape
    return latent_shape.frames, latent_shape.height, latent_shape.width, latent_shape.codec.latent_channels


@pytest.fixture(scope="module")
def params(tiny: VideoDiffusion) -> dict:
    return jax.jit(tiny.init)(quick_key(0))


@pytest.fixture(scope="module")
def batch(tiny: VideoDiffusion) -> dict:
    rng = np.random.default_rng(0)
    return {
        VIDEO: jnp.asarray(rng.integers(0, 256, (2, tiny.latent_shape.frames, 32, 32, 3), np.uint8)),
        IMAGE: jnp.asarray(rng.integers(0, 256, (2, 32, 32, 3), np.uint8)),
        TEXT: jnp.asarray([[1022, 5, 6, 7] + [1023] * 12, [1022, 9] + [1023] * 14], jnp.int32),
        LEVEL: jnp.asarray([1, 10], jnp.int32),
    }


def test_channels_stand_in_the_order_reference_frame_level(tiny: VideoDiffusion, params: dict, batch: dict) -> None:
    channels = jnp.concatenate(tiny.condition(params, batch).channels, axis=-1)
    latent = tiny.latent_shape.encode(params, batch[IMAGE][:, None])
    np.testing.assert_array_equal(channels[..., :-2], np.repeat(latent, tiny.latent_shape.frames, axis=1))
    ramp = np.arange(8) / 7  # n / (F - 1)
    np.testing.assert_allclose(channels[0, :, 3, 5, -2], ramp, rtol=1e-6)
    scale = tiny.conditioners["level"].scale
    np.testing.assert_allclose(
        channels[..., -1],
        np.broadcast_to(np.array([1, 10])[:, None, None, None] * scale, channels.shape[:-1]),
        rtol=1e-6,
    )


def test_the_full_size_has_ten_channels_with_four_of_noise_first(root: Path) -> None:
    system = load(root, "full").system
    assert [c.channels(system.codec) for c in system.conditioners.values()] == [4, 1, 1, 0, 0]
    unet = system.build().denoiser
    assert (unet.sizes.in_channels, unet.sizes.condition_channels) == (4, 6)


def test_a_fresh_model_is_the_plain_u_net(tiny: VideoDiffusion, params: dict, batch: dict) -> None:
    """New channels start at zero, new attention behind a closed gate, motion modules at the identity."""
    condition = tiny.condition(params, batch)
    zt = jax.random.normal(jax.random.key(1), (2, *latents(tiny)))
    t = jnp.asarray([3, 700])
    whole = jax.jit(tiny.predict)(params, zt, t, condition)
    sizes = dataclasses.replace(tiny.denoiser.sizes, condition_channels=0)
    plain = jax.jit(stable_diffusion_unet(sizes).apply)(
        {"params": _without_new_parts(params["denoiser"])}, zt, t, Condition(tokens={"text": condition.tokens["text"]})
    )
    np.testing.assert_array_equal(whole, plain)


def _without_new_parts(tree: dict) -> dict:
    new = ("motion", "content", "conv_condition")
    return {k: _without_new_parts(v) if isinstance(v, dict) else v for k, v in tree.items() if k not in new}


def test_a_still_clip_has_the_literal_intensity_and_noise_has_less() -> None:
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 3), np.uint8), 8, axis=1)
    noise = np.random.default_rng(1).integers(0, 256, (1, 8, 32, 32, 3), np.uint8)
    assert float(ssim_intensity(still)[0]) == pytest.approx(7 / 8, abs=1e-6)
    assert float(ssim_intensity(noise)[0]) < 0.1


def test_equal_count_edges_put_a_tenth_of_the_clips_in_each_level() -> None:
    intensities = np.random.default_rng(0).beta(5, 2, 1000)
    levels = np.asarray(level_of(jnp.asarray(intensities), bin_edges(intensities)))
    counts = np.bincount(levels, minlength=11)[1:]
    assert counts.sum() == 1000
    assert np.all(np.abs(counts - 100) <= 1)
    assert intensities[levels == 10].max() < intensities[levels == 1].min()


def test_equal_width_edges_divide_the_range() -> None:
    intensities = np.concatenate([[0.0, 1.0], np.full(50, 0.55)])
    np.testing.assert_allclose(bin_edges(intensities, "equal-width"), np.arange(1, 10) / 10, atol=1e-9)


def test_clips_that_all_move_alike_have_no_levels() -> None:
    with pytest.raises(ValueError, match="coincide"):
        bin_edges(np.full(100, 0.5))
    with pytest.raises(ValueError, match="at least 10"):
        bin_edges(np.linspace(0, 1, 9))


def moving_clips(count: int) -> np.ndarray:
    """Clips [N 2 16 16 3] of which each moves more than the one before: more of its second frame is new."""
    first, second = np.random.default_rng(0).integers(0, 256, (2, count, 16, 16, 3), np.uint8)
    new = np.arange(16 * 16).reshape(16, 16, 1) < 8 * np.arange(count)[:, None, None, None]
    return np.stack([first, np.where(new, second, first)], axis=1)


def test_edges_are_measured_on_all_batches_up_to_the_number_of_clips_asked_for() -> None:
    """Later batches move more, so the edges of the first alone, or of more than was asked for, are others."""
    clips = moving_clips(30)
    intensities = np.concatenate([ssim_intensity(batch) for batch in np.split(clips, 5)])
    for count, expected in ((1000, intensities), (15, intensities[:15])):
        edges = LevelMap(clips=count).measure_edges(iter(np.split(clips, 5)))
        np.testing.assert_allclose(edges, bin_edges(expected), atol=1e-6)
    endless = itertools.chain(np.split(clips, 5), itertools.repeat(None))  # the loader never ends
    np.testing.assert_allclose(LevelMap(clips=30).measure_edges(endless), bin_edges(intensities), atol=1e-6)


def test_training_without_measured_edges_is_refused(root: Path, batch: dict) -> None:
    model = load(root, "tiny").system.build()
    clips = {name: value for name, value in batch.items() if name != LEVEL}
    with pytest.raises(ValueError, match="not measured"):
        jax.eval_shape(model.loss, jax.eval_shape(model.init, jax.random.key(0)), clips, jax.random.key(0))


def test_a_fresh_text_weight_is_the_initial_one_and_trained_ones_differ_by_frame(
    tiny: VideoDiffusion, params: dict, batch: dict
) -> None:
    """At 1, the default, a frozen network reads exactly the text that it was trained on."""
    reweighted, kept = tiny.conditioners["text"], jnp.ones(len(batch[TEXT]), bool)
    plain = reweighted.base.condition(params, batch, tiny.latent_shape, kept).tokens["text"]
    for started, weight in ((reweighted, 0.5), (ReweightedText(reweighted.base, heads=reweighted.heads), 1.0)):
        fresh = started.condition(params, batch, tiny.latent_shape, kept).tokens["text"]
        np.testing.assert_array_equal(fresh, np.broadcast_to(weight * plain, fresh.shape))
    noisy = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), params["reweighting"])
    weights = reweighted._network(tiny.latent_shape).apply({"params": noisy}, plain[:, 0])
    assert 0.0 < float(weights.min()) < float(weights.max()) < 1.0
    assert float(jnp.abs(weights[:, 0] - weights[:, 7]).max()) > 1e-3


def test_text_weights_of_earlier_versions_are_the_sigmoid_alone() -> None:
    """JSON without the field, also under its earlier tag, goes on as it was trained; a new config starts at 1."""
    now = ReweightedText(TextTokens(clip.TINY))
    assert now.initial_weight == 1.0
    assert config_json.from_json(config_json.to_json(now), ReweightedText) == now
    before = {name: value for name, value in config_json.to_json(now).items() if name != "initial_weight"}
    before = {**before, "class": "Reweighted", "of": before.pop("base")}
    assert config_json.from_json(before, ReweightedText) == dataclasses.replace(now, initial_weight=0.5)
    with pytest.raises(ValueError, match=r"start above 0; initial_weight is 0"):
        ReweightedText(TextTokens(clip.TINY), initial_weight=0.0)


def test_motion_modules_norm_what_they_are_told_to(root: Path) -> None:
    """The whole clip, as `torch.nn.GroupNorm` of diffusers does, or each frame, as AnimateDiff's own code does."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 8)) * np.arange(1, 4)[:, None, None, None]
    x = x.astype(np.float32)
    norm = torch.nn.GroupNorm(2, 8, eps=1e-6)
    with torch.no_grad():
        clips = norm(torch.tensor(rearrange(x, "B T H W C -> B C T H W"))).numpy()
        frames = norm(torch.tensor(rearrange(x, "B T H W C -> (B T) C H W"))).numpy()
    expected = {
        "clip": rearrange(clips, "B C T H W -> B T H W C"),
        "frame": rearrange(frames, "(B T) C H W -> B T H W C", T=3),
    }
    system = load(root, "tiny").system
    assert system.motion_norm == "clip"
    for kind, normed in expected.items():
        module = dict(dataclasses.replace(system, motion_norm=kind).build().denoiser.blocks(0))["motion"]
        axes = module.keywords["norm_axes"]
        layer = GroupNorm(2, epsilon=1e-6, axes=axes)
        np.testing.assert_allclose(layer.apply(layer.init(jax.random.key(0), x), x), normed, atol=1e-5)
    with pytest.raises(ValueError, match=r"motion_norm is 'video'; it can be clip or frame"):
        dataclasses.replace(system, motion_norm="video")


def test_dropped_text_is_the_empty_caption(tiny, params, batch) -> None:
    empty = {**batch, TEXT: jnp.full_like(batch[TEXT], clip.TINY.end_token).at[:, 0].set(clip.TINY.start_token)}
    kept = jnp.arange(len(batch[TEXT])) > 0
    text = tiny.conditioners["text"]
    (found,) = text.condition(params, batch, tiny.latent_shape, kept).tokens.values()
    (said,) = text.condition(params, batch, tiny.latent_shape, jnp.ones_like(kept)).tokens.values()
    (nothing,) = text.condition(params, empty, tiny.latent_shape, jnp.ones_like(kept)).tokens.values()
    np.testing.assert_array_equal(found[0], nothing[0])
    np.testing.assert_array_equal(found[1:], said[1:])


def test_prior_inversion_is_the_printed_interpolation() -> None:
    noise, inverted = jnp.ones((1, 3, 2, 2, 4)), jnp.full((1, 3, 2, 2, 4), 5.0)
    start = PriorInversion().start(noise, lambda: inverted)
    alpha = np.array([0.033, 0.0245, 0.016])
    np.testing.assert_allclose(start[0, :, 0, 0, 0], alpha * 5 + (1 - alpha), rtol=1e-6)
    np.testing.assert_array_equal(Noise().start(noise, lambda: pytest.fail("inverted for nothing")), noise)


def test_the_loss_reads_the_level_of_the_clip_itself(tiny: VideoDiffusion, batch: dict) -> None:
    still = jnp.repeat(batch[VIDEO][:, :1], 8, axis=1)
    assert np.asarray(tiny.measured_entries[LEVEL]({}, {VIDEO: still})).tolist() == [1, 1]
    assert np.asarray(tiny.measured_entries[LEVEL]({}, batch)).tolist() == [10, 10]
    np.testing.assert_array_equal(tiny.measured_entries[IMAGE]({}, batch), batch[VIDEO][:, 0])


@pytest.mark.slow
def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch(
    root: Path, tiny: VideoDiffusion, params: dict, batch: dict
) -> None:
    sampling = dataclasses.replace(
        load(root, "tiny").sampling,
        sampler=dataclasses.replace(load(root, "tiny").sampling.sampler, steps=2),
        inversion_steps=2,
    )
    noisy = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(2), x.shape), params)
    keys = jax.random.split(jax.random.key(0), 2)
    draw = jax.jit(lambda b, k: tiny.sample(noisy, b, k, sampling))
    request = {name: batch[name] for name in (IMAGE, TEXT, LEVEL)}
    both = draw(request, keys)
    swapped = draw({name: value[::-1] for name, value in request.items()}, keys[::-1])
    difference = np.abs(both.astype(jnp.int32) - swapped[::-1].astype(jnp.int32))
    assert int(difference.max()) <= 1  # rounding to uint8 after sums in another order
    assert both.dtype == jnp.uint8


@pytest.mark.parametrize(("name", "gone"), [("without_intensity", "level"), ("reference_latent", "content")])
def test_ablations_leave_one_condition_out(root: Path, name: str, gone: str) -> None:
    for prefix in ("", "tiny_"):
        system = load(root, prefix + name).system
        assert gone not in system.conditioners
        assert set(load(root, prefix.strip("_") or "full").system.conditioners) - set(system.conditioners) == {gone}


@pytest.mark.parametrize("name", ["reference_latent", "without_reweighting"])
def test_trained_patterns_of_ablations_all_match(root: Path, name: str) -> None:
    ablation = load(root, name)
    paths = sharding.paths(jax.eval_shape(ablation.system.build().init, jax.random.key(0)))
    for pattern in ablation.train.trained:
        assert any(re.search(pattern, path) for path in paths), pattern


def test_full_size_is_the_published_one(root: Path) -> None:
    """Counts of the public checkpoints; the content attention is LivePhoto's own."""
    full = load(root, "full")
    model = full.system.build()
    params = jax.eval_shape(model.init, jax.random.key(0))
    paths = {path: leaf.size for path, leaf in sharding.paths(params).items()}

    def count(pattern: str) -> int:
        return sum(size for path, size in paths.items() if re.search(pattern, path))

    new = r"/(motion|content)/|conv_condition"
    assert (
        count(r"^denoiser/")
        - sum(size for path, size in paths.items() if path.startswith("denoiser/") and re.search(new, path))
        == 859_520_964
    )
    assert count(r"^denoiser/.*/motion/") == 417_137_600
    assert count(r"^denoiser/conv_condition/") == 3 * 3 * 6 * 320
    assert count(r"^codec/") == 83_653_863
    assert count(r"^text_encoder/") == 123_060_480
    assert count(r"^content_encoder/") == 86_580_480
    assert count(r"^content/") == 768 * 768 + 768
    assert all(any(re.search(pattern, path) for pattern, _ in model.sharding) for path in paths)
    trained = {path for path in paths if any(re.search(pattern, path) for pattern in full.train.trained)}
    assert trained == {path for path in paths if re.search(rf"{new}|^(content|reweighting)/", path)}


def test_sizes_that_do_not_fit_say_what_would_do(root: Path) -> None:
    system = dataclasses.replace(load(root, "tiny").system, size=(32, 30))
    with pytest.raises(ValueError, match=r"width of 30 px; this model needs a multiple of 8, e\.g\. 24 or 32"):
        system.build()


def test_maps_and_priors_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="nine ascending edges"):
        LevelMap(edges=(0.5, 0.4))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        PriorInversion(first=2.0)


def test_tokens_of_the_same_name_cannot_be_brought_twice() -> None:
    once = Condition(tokens={"text": jnp.zeros((1, 1, 2, 3))})
    with pytest.raises(ValueError, match="each name can be used once"):
        once + once


def test_canvas_needs_no_weights_for_a_codec_without_any(tiny: VideoDiffusion, batch: dict) -> None:
    latent_shape: LatentShape = tiny.latent_shape
    assert latent_shape.encode({}, batch[VIDEO]).shape == (2, *latents(tiny))
