"""LoRA: a fresh one changes nothing, a merged one is the two factors side by side, and only the factors are trained."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax.sharding import PartitionSpec as P

from jaxmotion.foundation.entries import TEXT, VIDEO
from jaxmotion.nn.convolution import Conv
from jaxmotion.nn.linear import Linear
from jaxmotion.nn.low_rank import LORA, choose_kernels, fresh, merge, product, sides
from jaxmotion.parallel.mesh import MeshSizes, make_abstract_mesh, make_mesh
from jaxmotion.parallel.sharding import paths, place, placements
from jaxmotion.runs import experiment, initial
from jaxmotion.runs.train import train
from jaxmotion.systems.lora import ATTENTION, LoRA, LoRADiffusion, LoRATask, PretrainedLoRA
from jaxmotion.training.optimizer import optimizer
from jaxmotion.training.state import new_state
from jaxmotion.training.step import build_program
from jaxmotion.weights.lora_write import export_lora

EDGES = tuple(np.linspace(0.1, 0.8, 9).tolist())


@pytest.fixture(scope="module")
def small(root: Path) -> experiment.Experiment:
    """The tiny LivePhoto with one narrow stage and plain text, and a LoRA on kernels of all kinds, which is trained."""
    tiny = experiment.load(f"{root}/configs/livephoto.py:tiny_without_reweighting")
    unet = dataclasses.replace(tiny.system.unet, features=(16,), attention_stages=(True,), heads=4, groups=2)
    parts = {name: part for name, part in tiny.system.conditioners.items() if name != "content"}
    system = dataclasses.replace(tiny.system, unet=unet, conditioners=parts, frames=4)
    lora = LoRA(
        system.with_calibration({"level_edges": EDGES}),
        rank=4,
        alpha=6.0,
        paths=(*ATTENTION, r"/mlp/linear_in/kernel$", r"resnet/conv_in/kernel$"),
    )
    train = dataclasses.replace(tiny.train, trained=(r"^lora/",), learning_rate=1e-2, warmup_steps=0, decay="constant")
    return dataclasses.replace(tiny, system=lora, data=dataclasses.replace(tiny.data, frames=4), train=train)


@pytest.fixture(scope="module")
def task(small: experiment.Experiment) -> LoRATask:
    return small.system.build()


@pytest.fixture(scope="module")
def params(task: LoRATask) -> dict:
    """A base in which nothing is hidden behind zeros, as a trained one, and a fresh LoRA."""
    rng = np.random.default_rng(0)

    def random(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("/kernel"):
            return values / np.prod(leaf.shape[:-1]) ** 0.5
        return float(path.endswith("/scale")) + 0.1 * values

    shapes = paths(jax.eval_shape(task.base.init, jax.random.key(0)))
    base = unflatten_dict({path: jnp.asarray(random(path, leaf)) for path, leaf in shapes.items()}, sep="/")
    return {**base, LORA: fresh(choose_kernels(base, task.paths), task.rank, jax.random.key(0))}


def base_of(params: dict) -> dict:
    return {part: tree for part, tree in params.items() if part != LORA}


def noisy(params: dict) -> dict:
    """The same with factors that are zero nowhere."""
    lora = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(5), x.shape), params[LORA])
    return {**params, LORA: lora}


def assert_same(first: dict, second: dict) -> None:
    one, other = paths(first), paths(second)
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], path)


def test_a_fresh_lora_changes_nothing(task: LoRATask, params: dict) -> None:
    """The weights that the loss and the sampler get are the base's own, to the bit."""
    assert_same(task.merge(params), base_of(params))
    for path, leaf in paths(params[LORA]).items():
        assert bool(jnp.any(leaf)) == path.endswith("/down")


def test_only_the_chosen_kernels_change_and_none_at_scale_zero(task: LoRATask, params: dict) -> None:
    adapted = noisy(params)
    assert_same(task.merge(adapted, scale=0.0), base_of(params))
    before, after = paths(params), paths(task.merge(adapted))
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    assert changed == {path.rpartition("/")[0] for path in paths(params[LORA])}
    wanted = re.compile("|".join(task.paths))
    assert changed == {path for path in after if wanted.search(path)}


@pytest.mark.parametrize("features", [7, (2, 5)], ids=["plain", "gated"])
def test_a_merged_linear_layer_is_the_layer_beside_its_factors(features: int | tuple) -> None:
    """y = x W + (alpha / rank) (x down) up. Sums in another order agree to about 1e-6 of the largest."""
    layer, x = Linear(features, bias=False), jax.random.normal(jax.random.key(0), (3, 6))
    params = {"a": layer.init(jax.random.key(1), x)["params"]}
    down, up = (
        jax.random.normal(jax.random.key(2), (6, 2)),
        jax.random.normal(jax.random.key(3), (2, *_tuple(features))),
    )
    merged = merge(params, {"a": {"kernel": {"down": down, "up": up}}}, 1.5)
    beside = layer.apply({"params": params["a"]}, x) + 1.5 * jnp.tensordot(x @ down, up, 1)
    np.testing.assert_allclose(layer.apply({"params": merged["a"]}, x), beside, atol=1e-5)


def test_a_merged_convolution_is_a_narrow_one_and_a_pointwise_one_beside_it() -> None:
    layer, x = Conv(5, stride=2, bias=False), jax.random.normal(jax.random.key(0), (1, 2, 8, 6, 3))
    params = {"a": layer.init(jax.random.key(1), x)["params"]}
    down, up = jax.random.normal(jax.random.key(2), (3, 3, 3, 2)), jax.random.normal(jax.random.key(3), (2, 5))
    merged = merge(params, {"a": {"kernel": {"down": down, "up": up}}}, 0.5)
    narrow = Conv(2, stride=2, bias=False).apply({"params": {"kernel": down}}, x)
    beside = layer.apply({"params": params["a"]}, x) + 0.5 * narrow @ up
    np.testing.assert_allclose(layer.apply({"params": merged["a"]}, x), beside, atol=1e-5)


def test_each_layer_of_a_stack_has_its_own_pair() -> None:
    down, up = jax.random.normal(jax.random.key(0), (3, 4, 2)), jax.random.normal(jax.random.key(1), (3, 2, 5))
    together = product("encoder/stack/layers/mlp/linear_in/kernel", down, up)
    for layer in range(3):
        np.testing.assert_allclose(together[layer], down[layer] @ up[layer], atol=1e-6)


def test_sums_are_made_in_float32_and_rounded_once() -> None:
    """In bfloat16 the product alone, 1 + 2^-8, would be rounded to 1, and the sum to 2."""
    kernel, down = jnp.ones((1, 1), jnp.bfloat16), jnp.asarray([[1.0, 2.0**-8]], jnp.bfloat16)
    lora = {"a": {"kernel": {"down": down, "up": jnp.asarray([[1.0], [2.0]], jnp.bfloat16)}}}
    merged = merge({"a": {"kernel": kernel}}, lora, 1.0 + 2.0**-7)
    assert merged["a"]["kernel"].dtype == jnp.bfloat16
    exact = 1 + (1 + 2.0**-7) * (1 + 2.0**-7)
    assert float(merged["a"]["kernel"][0, 0]) == float(jnp.bfloat16(exact)) != 2.0


def _tuple(features: int | tuple) -> tuple:
    return (features,) if isinstance(features, int) else features


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        VIDEO: rng.integers(0, 256, (4, 4, 32, 32, 3), np.uint8),
        TEXT: rng.integers(0, 1000, (4, 16), np.int32),
    }


def test_training_moves_the_factors_alone_and_the_loss_falls(
    small: experiment.Experiment, task: LoRATask, params: dict, batch: dict
) -> None:
    """The base has no gradient, no optimiser state and no running mean, and keeps its bits."""
    with jax.set_mesh(make_mesh()):
        update = build_program(task, small.train, make_mesh()).update
        state = new_state(params, optimizer(small.train), small.train.trained, jnp.float32, ema=True)
        before = jax.tree.map(np.array, state.trained)
        assert set(state.trained) == set(state.ema) == {LORA}
        held = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim)
        assert held == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.trained))  # AdamW's two moments
        state, losses = jax.tree.map(jnp.copy, state), []
        for _ in range(30):
            state, metrics = update(state, batch)
            losses.append(float(metrics["loss"]))
    assert_same(state.frozen, base_of(params))
    for path, leaf in paths(state.trained).items():
        assert not np.array_equal(leaf, paths(before)[path]), path
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3]), losses  # each step has noise of its own


def test_the_table_lays_factors_as_their_kernels(task: LoRATask, params: dict) -> None:
    """The rank is whole, the other axes are split as the kernel's; the base lies as it would alone."""
    mesh = make_abstract_mesh(MeshSizes(data=1, fsdp=2, tensor=2), 4)
    shapes = jax.eval_shape(lambda: params)
    found = placements(shapes, task.sharding, mesh)
    split = 0
    for path, leaf in paths({part: tree for part, tree in shapes.items() if part != LORA}).items():
        alone = place(path, leaf.shape, task.base.sharding, mesh)
        assert alone is not None
        assert found[path] == alone
        if f"{LORA}/{path}/down" in found:
            whole = (*alone.spec, *(None,) * (leaf.ndim - len(alone.spec)))
            layers, inputs, outputs = sides(path, whole)
            assert found[f"{LORA}/{path}/down"].spec == P(*layers, *inputs)
            assert found[f"{LORA}/{path}/up"].spec == P(*layers, None, *outputs)
            split += any(whole)
    assert split > 10


def test_a_lora_is_a_system_like_the_one_it_is_of(small: experiment.Experiment) -> None:
    lora, base = small.system, small.system.base
    assert (lora.frames, lora.size, lora.token_spec) == (base.frames, base.size, base.token_spec)
    bare = dataclasses.replace(lora, base=dataclasses.replace(base, conditioners=_without_edges(base.conditioners)))
    clips = [np.random.default_rng(i).integers(0, 1 + 25 * i, (1, 4, 32, 32, 3)).astype(np.uint8) for i in range(1, 11)]
    measured = bare.measure_calibration(iter(clips * 2))
    assert bare.with_calibration(measured).base.level.edges == tuple(measured["level_edges"])
    assert isinstance(lora.build(), LoRADiffusion)


def _without_edges(conditioners: dict) -> dict:
    level = dataclasses.replace(conditioners["level"], edges=())
    return {**conditioners, "level": level}


def test_an_experiment_with_a_lora_comes_back_from_json_and_takes_overrides(small: experiment.Experiment) -> None:
    assert experiment.from_json(json.loads(json.dumps(experiment.to_json(small)))) == small
    asked = ["--system.rank", "2", "--system.base.unet.expansion", "3", "--system.paths", "query/kernel$"]
    changed = experiment.override(small, asked, "test", "")
    assert (changed.system.rank, changed.system.base.unet.expansion) == (2, 3)
    assert changed.system.paths == ("query/kernel$",)


@dataclasses.dataclass(frozen=True)
class Plain:
    """A task that is no diffusion model."""

    sharding = ((r".*", P()),)

    def init(self, key):
        return {"net": nn.Dense(3).init(key, jnp.zeros((1, 2)))["params"], "codec": {}}

    def loss(self, params, batch, key):
        return jnp.sum(nn.Dense(3).apply({"params": params["net"]}, batch["x"])), {}


def test_any_task_can_be_adapted() -> None:
    task = LoRATask(Plain(), 1, 2.0, ("^net/kernel$",))
    params = task.init(jax.random.key(0))
    assert_same(base_of(params), Plain().init(jax.random.key(0)))  # it starts as it would alone
    params = noisy(params)
    assert not hasattr(task, "sample")
    assert task.merge(params)["codec"] == {}
    x = jnp.ones((1, 2))
    pair = params[LORA]["net"]["kernel"]
    want = Plain().loss(params, {"x": x}, None)[0] + 2.0 * jnp.sum(x @ pair["down"] @ pair["up"])
    assert float(task.loss(params, {"x": x}, None)[0]) == pytest.approx(float(want), rel=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    for settings, said in (
        ((0, 1.0, ATTENTION), "rank is at least 1; got 0"),
        ((4, 0.0, ATTENTION), "alpha is above 0"),
        ((4, 1.0, ()), "give at least one regular expression"),
        ((4, 1.0, ("(",)), "no regular expression"),
    ):
        with pytest.raises(ValueError, match=said):
            LoRA(None, *settings)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"'\^nothing' matches no kernel. Kernels look like: net/kernel"):
        LoRATask(Plain(), 1, 1.0, ("^nothing",)).init(key)
    with pytest.raises(ValueError, match="rank 4 is larger than both sides of 'net/kernel', 2 and 3"):
        LoRATask(Plain(), 4, 1.0, ("kernel",)).init(key)
    twice = LoRATask(LoRATask(Plain(), 1, 1.0, ("kernel",)), 1, 1.0, ("kernel",))
    with pytest.raises(ValueError, match="has LoRA factors already"):
        twice.init(key)
    pair = {"down": jnp.zeros((2, 1)), "up": jnp.zeros((1, 3))}
    with pytest.raises(ValueError, match=re.escape("factors for 'other/kernel', but no such kernel")):
        merge(Plain().init(key), {"other": {"kernel": pair}}, 1.0)
    with pytest.raises(ValueError, match=re.escape("make (2, 3); the kernel is (2, 4)")):
        merge({"net": {"kernel": jnp.zeros((2, 4))}}, {"net": {"kernel": pair}}, 1.0)
    with pytest.raises(ValueError, match="come in pairs"):
        merge({"net": {"kernel": jnp.zeros((2, 3))}}, {"net": {"kernel": {"down": pair["down"]}}}, 1.0)


FULL = [pytest.param(f"{paper}:lora", marks=pytest.mark.slow) for paper in ("livephoto", "motionstone")]


@pytest.mark.parametrize("name", ["livephoto:tiny_lora", "motionstone:tiny_lora", *FULL])
def test_shipped_loras_can_be_written_after_training(name: str) -> None:
    system = experiment.load(name).system
    system.check_start()
    assert {"lora-peft", "lora-kohya"} <= system.exports().keys()


@pytest.mark.parametrize(
    ("name", "paths", "said"),
    [
        ("motionstone:tiny", (r"^denoiser/.*kernel$",), r"match 1 of \d+ kernels.* such as denoiser/patches/kernel"),
        ("motionstone:tiny", (r"^object_score/",), "such as object_score/"),
        ("livephoto:tiny", ATTENTION, "such as denoiser/.*/content/attention/"),
    ],
)
def test_a_lora_that_could_not_be_written_is_refused_before_training(name: str, paths, said: str, tmp_path) -> None:
    base = experiment.load(name)
    lora = dataclasses.replace(base, system=LoRA(base.system, rank=1, paths=paths))
    with pytest.raises(ValueError, match=said):
        train(lora, tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints"))
    with pytest.raises(ValueError, match=r"--system\.no-exportable"):
        initial.describe(lora)
    merged_only = dataclasses.replace(lora.system, exportable=False)
    merged_only.check_start()
    assert not merged_only.exports().keys() & {"lora-peft", "lora-kohya"}


def test_a_lora_of_motionstone_comes_back_from_its_file(tmp_path) -> None:
    """Trained on by a LoRA of the same paths, and merged by the system itself; the rank of the file may be smaller."""
    system = experiment.load("motionstone:tiny_lora").system
    shapes = paths(jax.eval_shape(system.build().init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    whole = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    factors = {path: array for path, array in whole.items() if path.startswith(f"{LORA}/")}
    export_lora(unflatten_dict(factors, sep="/")[LORA], system.rank, system.alpha, "peft", tmp_path / "lora")
    source = PretrainedLoRA(str(tmp_path / "lora"))
    assert source.describe(system, shapes).endswith("a LoRA of rank 4, each product times 1, trained on")
    found = source.load(system, shapes, {})
    assert found.keys() == factors.keys()
    for path, array in factors.items():
        np.testing.assert_array_equal(found[path], array)
    base = {path: array for path, array in whole.items() if path not in factors}
    changed = source.load(system.base, base, base)
    wanted = paths(system.build().merge(unflatten_dict(whole, sep="/")))
    assert len(changed) == 4  # the kernels of all layers are one
    for path, array in changed.items():
        np.testing.assert_allclose(array, wanted[path], rtol=1e-5, atol=1e-5)  # sums of four products, in another order
