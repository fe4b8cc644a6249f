"""The motion estimator: what it reads, what it learns from, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.foundation.config_json import from_json
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.models import tadaconv
from jaxmotion.models.motion_estimator import Fields, MotionEstimatorSizes, Pixels, confidence
from jaxmotion.parallel.sharding import paths
from jaxmotion.runs.experiment import load_all
from jaxmotion.systems.motion_estimator.motion_estimator import MotionEstimator
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.motion_fields import CHANNELS, camera_flow, fit_camera, motion_fields
from jaxmotion.video.patch_matching import cells
from jaxmotion.weights.rules import to_torch
from jaxmotion.weights.tables.tadaconv import TADA2D
from tests.support.quick_keys import quick_key

TINY = MotionEstimator(MotionEstimatorSizes(tadaconv.TINY, hidden=16), frames=4, size=(48, 64))
DATA = ClutteredScenes(frames=4, size=(48, 64))


@pytest.fixture(scope="module")
def task():
    return TINY.build()


@pytest.fixture(scope="module")
def params(task):
    return jax.jit(task.init)(quick_key(0))


@pytest.fixture(scope="module")
def read(task):
    """The network, compiled once for each shape."""
    return jax.jit(task.network.read)


@pytest.fixture(scope="module")
def loss(task):
    return jax.jit(lambda params, batch: task.loss(params, batch, jax.random.key(0)))


@pytest.fixture(scope="module")
def batch():
    source = DATA.open()
    examples = [source.example(index) for index in range(8)]
    return {
        name: np.stack([example[name] for example in examples]) for name in ("video", "fps", *source.optional_entries)
    }


def test_the_same_motion_in_half_the_time_is_twice_the_speed() -> None:
    video = DATA.open().example(3)["video"][None]
    fields = jax.jit(motion_fields)
    slow, fast = (np.asarray(fields(video, np.full((1, 3), step, np.float32))) for step in (0.2, 0.1))
    length = unit.speed(1 + 4.5 * (slow[..., 2] + 0.5)), unit.speed(1 + 4.5 * (fast[..., 2] + 0.5))
    slower = length[0] < 0.4  # both below the score's end
    np.testing.assert_allclose(length[1][slower], 2 * length[0][slower], rtol=1e-3, atol=1e-5)
    assert slow.shape == (1, 3, 6, 8, CHANNELS)


@pytest.mark.parametrize(("kind", "place"), [("zoom", 2), ("roll", 3)])
def test_the_move_of_a_camera_is_the_one_that_was_drawn(read, params, kind, place) -> None:
    clear = dataclasses.replace(
        DATA,
        camera=(kind,),
        camera_speed=(0.1, 0.1),
        sprite_counts=(0,),
        degradations=(),
        plain=0,
        parallax=0,
        static_sprites=0,
        flow_regions=0,
    )
    example = dataclasses.replace(clear, size=(144, 256), frames=4).open().example(1)
    found = read(params, example["video"][None], np.full((1, 3), 1 / example["fps"], np.float32))
    assert int(np.argmax(found.moves[0])) == place
    np.testing.assert_allclose(found.moves[0], example["moves"], atol=0.02)


def test_a_camera_is_found_behind_an_object_on_a_quarter_of_the_patches() -> None:
    height, width = 144, 256
    x, y = (jnp.asarray(axis / np.hypot(height, width)) for axis in cells(height, width))
    truth = jnp.array([[[0.01, -0.004], [0.05, 0.02], [-0.02, 0.05]]])
    flow = camera_flow(truth, x, y)
    moving = (jnp.abs(x) < 0.22) & (jnp.abs(y) < 0.12)
    assert 0.2 < float(moving.mean()) < 0.3
    flow = flow + moving[None, ..., None] * jnp.array([0.05, 0.03])
    found, follows = fit_camera(flow, jnp.ones(flow.shape[:3]), x, y)
    # the ridge, 1e-4, pulls slopes by its share of a coordinate's mean square, 0.02 for y: half a percent
    np.testing.assert_allclose(found, truth, rtol=0.01)
    assert float(follows[0][moving].max()) < 0.05
    assert float(follows[0][~moving].min()) > 0.8


def test_unknown_labels_cost_nothing(params, loss, batch) -> None:
    known, _ = loss(params, {**batch, "camera": np.full(8, np.nan, np.float32)})
    other, _ = loss(params, {**batch, "camera": np.full(8, np.nan, np.float32), "object": batch["object"] + 1})
    assert np.isfinite(float(known))
    assert float(known) != float(other)


def pairs_of(batch):
    """Eight drawn clips as four pairs, of which nothing is known."""
    names = ("object", "camera", "moves", "own_area", "own_speed")
    unknown = {name: np.full_like(batch[name].reshape(4, 2, *batch[name].shape[1:]), np.nan) for name in names}
    return {
        "video": batch["video"][0::2],
        "second_video": batch["video"][1::2],
        "fps": np.full(4, 8, np.float32),
        "step_seconds": np.full((4, 2, 3), 1 / 8, np.float32),
        "stronger_object": np.full(4, np.nan, np.float32),
        "stronger_camera": np.full(4, np.nan, np.float32),
        **unknown,
    }


@pytest.fixture(scope="module")
def gradient(task, params):
    @jax.jit
    def run(batch):
        (value, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(params, batch, jax.random.key(0))
        return value, metrics, jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))

    return run


def test_judged_pairs_are_ranked_by_what_people_said(gradient, read, params, batch) -> None:
    base = pairs_of(batch)
    found = read(params, batch["video"], np.full((8, 3), 1 / 8, np.float32))
    ahead = np.asarray(found.object[0::2] - found.object[1::2])
    agreed = gradient({**base, "stronger_object": np.sign(ahead)})
    opposed = gradient({**base, "stronger_object": -np.sign(ahead)})
    assert float(agreed[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(opposed[0]) == pytest.approx(np.abs(ahead).mean(), rel=1e-3)
    assert float(agreed[1]["object_pairs_right"]) == 1.0
    assert float(opposed[1]["object_pairs_right"]) == 0.0


def test_one_batch_has_the_papers_whole_loss(gradient, batch) -> None:
    """Judged pairs, a pseudo-label and a drawn clip's truth: each part alone has a gradient, and the parts add up."""
    base = pairs_of(batch)

    def with_row(name, row, value):
        changed = base[name].copy()
        changed[row] = value
        return {name: changed}

    parts = {
        "L_o": with_row("stronger_object", slice(0, 2), [1, -1]),
        "L_c": with_row("stronger_camera", 0, -1),
        "L_r": {**with_row("object", 2, [9, 2]), **with_row("camera", 2, [1, 8])},
        "moves": with_row("moves", 3, 0.3),
        "maps": {**with_row("own_area", 3, 0.5), **with_row("own_speed", 3, 0.3)},
    }
    found = {name: gradient({**base, **part}) for name, part in parts.items()}
    nothing = gradient(base)
    assert (float(nothing[0]), float(nothing[2])) == (0.0, 0.0)
    sizes = {name: float(size) for name, (_, _, size) in found.items()}
    for name in ("L_o", "L_c"):  # the hinge has no gradient where the order is right
        opposed = gradient({**base, **{entry: -value for entry, value in parts[name].items()}})
        sizes[name] = max(sizes[name], float(opposed[2]))
    assert all(np.isfinite(size) and size > 0 for size in sizes.values()), sizes
    together = gradient({**base, **{name: value for part in parts.values() for name, value in part.items()}})
    assert float(together[0]) == pytest.approx(sum(float(value) for value, _, _ in found.values()), rel=1e-4)


def test_pairs_of_two_shapes_are_compared(task, params, batch) -> None:
    base = {name: value for name, value in pairs_of(batch).items() if not name.startswith(("own", "moves"))}
    square = {**base, "second_video": base["second_video"][:, :, :, :48], "stronger_object": np.ones(4, np.float32)}
    (_, metrics) = jax.jit(task.loss)(params, square, jax.random.key(0))
    seconds = np.full((4, 3), 1 / 8, np.float32)
    first, second = (task.network.predict(params, square[name], seconds) for name in ("video", "second_video"))
    assert float(metrics["object_pairs_right"]) == pytest.approx(float((first.object > second.object).mean()))


def test_it_learns(task, params, batch) -> None:
    @jax.jit
    def step(params, batch):
        (value, _), grads = jax.value_and_grad(task.loss, has_aux=True)(params, batch, jax.random.key(0))
        size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda p, g: p - 0.05 * g / size, params, grads), value

    values = []
    for _ in range(30):
        params, value = step(params, batch)
        values.append(float(value))
    assert min(values[-5:]) < 0.6 * values[0]


def test_scores_stay_in_their_range(read, params, batch) -> None:
    wild = jax.tree.map(lambda p: 30 * p, params)
    found = read(wild, batch["video"], np.full((8, 3), 1 / 8, np.float32))
    for scores in (found.object, found.camera):
        assert float(scores.min()) >= 1.0
        assert float(scores.max()) <= 10.0
    assert float(found.moves.min()) >= 0.0


def test_the_papers_way_looks_at_pixels() -> None:
    pixels = Pixels()
    video = np.full((1, 2, 32, 32, 3), 128, np.uint8)
    np.testing.assert_allclose(pixels(video, np.ones((1, 1))), (128 / 255 - 0.45) / 0.225, rtol=1e-6)
    config = MotionEstimatorSizes(tadaconv.R50, Pixels())
    shapes = jax.eval_shape(config.build().init, jax.random.key(0))
    assert shapes["object_in"]["kernel"].shape[0] == 2048 + 1  # the features and the time between frames
    assert Fields() == MotionEstimatorSizes(tadaconv.SMALL).view


def test_a_network_of_pixels_is_told_the_time_between_frames() -> None:
    """As a logarithm, which its heads read beside the features; networks from before are told nothing."""
    told = Pixels().tell(np.array([[0.125, 0.125], [0.25, 0.25]], np.float32))
    np.testing.assert_allclose(told, [[0.0], [np.log(2)]], atol=1e-6)
    earlier = from_json({"class": "Pixels", "mean": 0.45, "deviation": 0.225}, Pixels)
    assert earlier.tell(np.ones((2, 3), np.float32)).shape == (2, 0)
    sizes = MotionEstimatorSizes(dataclasses.replace(tadaconv.TINY, norm="group"), Pixels(), hidden=16)
    network = sizes.build()
    params = jax.jit(network.init)(jax.random.key(0))
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), np.uint8)
    read = jax.jit(network.predict)
    slow, fast = (read(params, video, np.full((1, 3), seconds, np.float32)) for seconds in (0.25, 0.05))
    assert abs(float(slow.camera[0] - fast.camera[0])) > 1e-3


def test_batch_norm_is_for_published_weights_only(tmp_path) -> None:
    """Its moments are constants; random weights get a norm that measures."""
    (r50,) = (value for name, value in load_all("motion_estimator").items() if name == "r50")
    assert r50.system.network.backbone.norm == "group"
    sizes = tadaconv.TAda2DSizes(tadaconv.Stem(8), tuple(tadaconv.Stage(1, 32) for _ in range(4)))
    published = MotionEstimator(MotionEstimatorSizes(sizes, Pixels(), hidden=16), frames=4, size=(48, 64))
    shapes = paths(jax.eval_shape(published.build().init, jax.random.key(0)))
    source = published.pretrained()["backbone"]
    with pytest.raises(CheckpointFileError, match=r"moments of a batch norm .*norm group"):
        source.load(published, shapes, {})
    tensors = {name: np.full(array.shape, 0.5, np.float32) for name, array in to_torch(TADA2D, fresh(shapes)).items()}
    file = tmp_path / "tada2d.safetensors"
    save_file(tensors, file)
    found = dataclasses.replace(source, source=str(file)).load(published, shapes, {})
    assert set(found) == {path for path in shapes if path.startswith("backbone/")}
    assert float(np.asarray(found["backbone/stem_bn/variance"]).mean()) == 0.5
    group = dataclasses.replace(
        published, network=dataclasses.replace(published.network, backbone=dataclasses.replace(sizes, norm="group"))
    )
    others = paths(jax.eval_shape(group.build().init, jax.random.key(0)))
    assert source.load(group, others, {}) == {}
    with pytest.raises(CheckpointFileError, match=r"--system\.network\.backbone\.norm batch"):
        dataclasses.replace(source, source=str(file)).load(group, others, {})


def fresh(shapes):
    """Zeros in the shapes of the backbone, as a tree."""
    flat = {tuple(path.split("/")[1:]): np.zeros(s.shape) for path, s in shapes.items() if path.startswith("backbone/")}
    return unflatten_dict(flat)


def test_group_norm_is_over_a_clip_and_four_channels() -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5, 8)).astype(np.float32)
    y = tadaconv.GroupNorm().apply({"params": {"scale": np.ones(8), "bias": np.zeros(8)}}, x)
    for clip in range(2):
        for part in (slice(0, 4), slice(4, 8)):
            of, found = x[clip, ..., part], np.asarray(y)[clip, ..., part]
            np.testing.assert_allclose(found, (of - of.mean()) / np.sqrt(of.var() + 1e-5), atol=1e-5)


def test_confidence_falls_with_the_expected_error() -> None:
    sure, unsure = confidence(np.array([0.1, 0.1])), confidence(np.array([2.0, 2.0]))
    assert sure > 0.99
    assert unsure == pytest.approx((1 - np.exp(-0.5)) ** 2)
