"""LoRA in bfloat16: a change far below a step of the kernel counts, in training, in sampling and in exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, TEXT, VIDEO
from jaxmotion.nn.chain import Stack
from jaxmotion.nn.convolution import Conv
from jaxmotion.nn.linear import Linear
from jaxmotion.nn.low_rank import LORA, AdaptedKernel, attach, choose_kernels, fresh, merge, pairs, product
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.runs import experiment
from jaxmotion.systems.export import Export, ExportJob
from jaxmotion.systems.lora import LoRA, LoRADiffusion, LoRATask, _MergedExport
from jaxmotion.training.config import TrainConfig
from jaxmotion.training.optimizer import optimizer
from jaxmotion.training.state import cast, new_state
from jaxmotion.training.step import build_program


def bfloat16(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)


@pytest.fixture(scope="module")
def silent() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs under which a kernel whose rows are all alike gives exactly 0, and factors whose product is about 1e-4."""
    rng = np.random.default_rng(0)
    half = rng.integers(-4, 5, (40, 32))
    x = np.concatenate([half, -half], axis=1).astype(np.float32)
    return x, rng.uniform(-0.125, 0.125, (64, 4)).astype(np.float32), 4e-4 * rng.normal(size=(4, 48)).astype(np.float32)


@pytest.mark.parametrize("kind", ["plain", "gated", "convolution"])
def test_a_change_of_1e_4_beside_a_bfloat16_kernel_counts(kind: str, silent) -> None:
    """The kernel is between 1 and 2, where bfloat16 is 1/128 apart: in the sum, next to nothing would be left of it."""
    x, down, up = silent
    layer = {"plain": Linear(48), "gated": Linear((2, 24)), "convolution": Conv(48)}[kind]
    alike = np.linspace(1.0, 1.9, 48, dtype=np.float32)
    if kind == "convolution":  # one pixel, so only the middle of the window sees it
        x, alike, down = x[:, None, None, None], np.broadcast_to(alike, (3, 3, 64, 48)), np.tile(down, (3, 3, 1, 1))
    elif kind == "gated":
        alike, up = np.broadcast_to(alike.reshape(2, 24), (64, 2, 24)), up.reshape(4, 2, 24)
    else:
        alike = np.broadcast_to(alike, (64, 48))
    base, lora = {"a": {"kernel": bfloat16(alike)}}, {"a": {"kernel": bfloat16({"down": down, "up": up})}}
    bias = jnp.zeros(alike.shape[1:] if kind != "convolution" else 48, jnp.bfloat16)

    def run(params: dict) -> np.ndarray:
        return np.asarray(layer.apply({"params": {**params["a"], "bias": bias}}, bfloat16(x)), np.float32)

    exact = 1.5 * np.tensordot(x @ (down[1, 1] if kind == "convolution" else down), up, 1)
    assert np.abs(run(base)).max() == 0
    assert np.abs(run(attach(base, lora, 1.5)) - exact).max() < 0.01 * np.abs(exact).max()
    assert np.abs(run(merge(base, lora, 1.5)) - exact).max() > 0.5 * np.abs(exact).max()


def test_a_change_of_1e_4_is_that_of_peft(silent) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    x, down, up = silent
    alike = np.broadcast_to(np.linspace(1.0, 1.9, 48, dtype=np.float32), (64, 48))
    linear = torch.nn.Sequential(torch.nn.Linear(64, 48, bias=False))
    linear[0].weight.data = torch.tensor(alike.T)
    theirs = peft.get_peft_model(linear, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"])).base_model.model[0]
    theirs.lora_A.default.weight.data, theirs.lora_B.default.weight.data = torch.tensor(down.T), torch.tensor(up.T)
    with torch.no_grad():
        expected = theirs.to(torch.bfloat16)(torch.tensor(x).bfloat16()).float().numpy()
    base, lora = {"a": {"kernel": bfloat16(alike)}}, {"a": {"kernel": bfloat16({"down": down, "up": up})}}
    found = Linear(48, bias=False).apply({"params": attach(base, lora, 1.5)["a"]}, bfloat16(x))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.01 * np.abs(expected).max())


class Regression:
    """A gated layer and a linear one, which are to give numbers."""

    sharding = ((r".*", P()),)
    network = nn.Sequential([Linear((2, 32)), lambda x: nn.silu(x).reshape(len(x), -1), Linear(16)])

    def init(self, key):
        return {"net": self.network.init(key, jnp.zeros((1, 16)))["params"]}

    def run(self, params, x):
        return self.network.apply({"params": params["net"]}, x.astype(jax.tree.leaves(params)[0].dtype))

    def loss(self, params, batch, key):
        return jnp.mean(jnp.square(self.run(params, batch["x"]).astype(jnp.float32) - batch["y"])), {}


def test_fifty_steps_in_bfloat16_are_those_in_float32() -> None:
    """The factors are alike, and so is what they change: on the average of 4,096 inputs, for each is rounded to 1/256.

    The change is 3e-4 of the results. In kernels rounded to bfloat16, 0.44 of it was left; of two rounded results that
    are added, 0.53.
    """
    task, rng = LoRATask(Regression(), 4, 4.0, ("kernel$",)), np.random.default_rng(0)
    batch = {"x": rng.normal(size=(64, 16)).astype(np.float32), "y": rng.normal(size=(64, 16)).astype(np.float32)}
    held_out = jax.random.normal(jax.random.key(9), (4096, 16))
    start = cast(cast(task.init(jax.random.key(0)), jnp.bfloat16), jnp.float32)
    factors, changes = [], []
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(learning_rate=1e-5, precision=precision, batch_size=64, trained=(r"^lora/",))
        with jax.set_mesh(make_mesh()):
            update = build_program(task, config, make_mesh()).update
            state = new_state(start, optimizer(config), config.trained, jnp.dtype(precision), ema=True)
            state = jax.tree.map(jnp.array, state)
            for _ in range(50):
                state, _ = update(state, batch)
        params = cast({**state.frozen, **state.trained}, precision)
        after, before = task.base.run(task.attach(params), held_out), task.base.run(params, held_out)
        changes.append(np.asarray(after, np.float32) - np.asarray(before, np.float32))
        factors.append(np.concatenate([np.ravel(product(*pair)) for pair in pairs(state.trained[LORA])]))
    assert np.linalg.norm(factors[1] - factors[0]) < 0.05 * np.linalg.norm(factors[0])  # Adam's first steps are signs
    exact, found = changes
    assert (exact * found).sum() / (exact * exact).sum() == pytest.approx(1.0, abs=0.05)


class Witness:
    """A model that returns the parameters that it is given."""

    def loss(self, params, batch, key):
        return params

    def sample_latents(self, params, batch, keys, sampling, on_step):
        return params

    def decode(self, params, z0):
        return params


def test_training_and_sampling_see_the_same_kernels_and_exports_their_sum() -> None:
    """In bfloat16, where the sum of these kernels would be the base's."""
    pair = bfloat16({"down": np.full((2, 1), 0.25), "up": np.full((1, 3), 4e-4)})
    base = {part: {"kernel": jnp.ones((2, 3), jnp.bfloat16)} for part in ("denoiser", "codec")}
    params = {**base, LORA: {part: {"kernel": pair} for part in base}}
    task = LoRADiffusion(Witness(), 1, 2.0, ("kernel$",))
    seen = (task.loss(params, {}, None), task.sample_latents(params, {}, None, None), task.decode(params, None))
    for part, found in ((part, found) for found in seen for part in base):
        kernel = found[part]["kernel"]
        assert isinstance(kernel, AdaptedKernel)
        np.testing.assert_array_equal(kernel.kernel, base[part]["kernel"])
        np.testing.assert_allclose(jnp.asarray(kernel), 1 + 2 * 0.25 * 4e-4, rtol=1e-6)
    shipped, exported = experiment.load("livephoto:tiny_lora"), []
    system = dataclasses.replace(shipped.system, rank=1, alpha=2.0)
    exporter = _MergedExport(Export("", lambda job: exported.append(job) or []))
    job = ExportJob(system, {}, shipped.sampling, shipped.tokenizer, 8.0, {}, Path())
    exporter(dataclasses.replace(job, params=params))
    assert exported[0].system == shipped.system.base
    for part in base:
        assert exported[0].params[part]["kernel"].dtype == jnp.float32
        np.testing.assert_allclose(exported[0].params[part]["kernel"], 1 + 2 * 0.25 * 4e-4, rtol=1e-6)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, *_):
        first, second = jnp.moveaxis(Linear((2, 6), name="pair")(x), -2, 0)
        return x + nn.Dense(6, name="foreign")(first * nn.silu(second))


def test_layers_of_a_stack_and_layers_of_others_take_factors_as_well() -> None:
    """In float32, results and gradients are those of merged kernels; a layer of Flax gets the sum."""
    stack, x = Stack(Block, depth=3), jax.random.normal(jax.random.key(0), (5, 6))
    base = {"net": stack.init(jax.random.key(1), x)["params"]}
    lora = fresh(choose_kernels(base, ("kernel$",)), 2, jax.random.key(2))
    lora = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), lora)

    def loss(lora: dict, use) -> jax.Array:
        return jnp.sum(stack.apply({"params": use(base, lora, 0.5)["net"]}, x) ** 2)

    found, expected = (jax.value_and_grad(loss)(lora, use) for use in (attach, merge))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param("livephoto:tiny", marks=pytest.mark.slow), "motionstone:tiny", "motion_estimator:tiny"]
)
def test_every_kernel_of_a_system_can_have_factors(name: str) -> None:
    """In bfloat16, by shapes alone."""
    base = experiment.load(name)
    system = base.system
    if name == "livephoto:tiny":
        system = system.with_calibration({"level_edges": np.linspace(0.1, 0.8, 9).tolist()})
    lora = LoRA(system, rank=1, alpha=1.0, paths=(r"/kernel$",)).build()
    params = jax.eval_shape(lambda: cast(lora.init(jax.random.key(0)), jnp.bfloat16))
    rows = {entry: jax.ShapeDtypeStruct((2,), np.float32) for entry in (FPS, OBJECT, CAMERA)}
    rows[VIDEO] = jax.ShapeDtypeStruct((2, system.frames, *system.size, 3), np.uint8)
    rows[TEXT] = jax.ShapeDtypeStruct((2, base.tokenizer.length), np.int32)
    loss, _ = jax.eval_shape(lora.loss, params, rows, jax.random.key(0))
    assert loss.shape == ()
