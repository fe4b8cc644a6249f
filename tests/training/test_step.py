import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.parallel.mesh import MeshSizes, make_abstract_mesh, make_mesh
from jaxmotion.parallel.sharding import paths
from jaxmotion.training.step import abstract_state, build_program, keys
from tests.support.toy import Toy, batch, settings


@functools.cache
def program_of(config, task):
    return build_program(task, config, make_mesh())


def start(config, task=None):
    program = program_of(config, task or Toy())
    return program, program.initialise()


def copied(tree):
    return jax.tree.map(np.array, tree)


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, copied(first), copied(second))


def test_micro_batches_add_up_to_the_full_batch():
    task = Toy(noise=0.0)  # with noise, each micro-batch has its own
    losses, updated = [], []
    for config in (settings(), settings(accumulate=4)):
        program, state = start(config, task)
        state, metrics = program.update(state, batch())
        losses.append((float(metrics["loss"]), float(metrics["size"]), float(metrics["grad_norm"])))
        updated.append(copied(state.trained))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *updated)


def test_each_step_and_each_micro_batch_has_its_own_key():
    class Draws(Toy):
        def loss(self, params, batch, key):
            return jax.random.uniform(key) + 0.0 * params["body"]["bias"].sum(), {}

    config = settings(accumulate=4)
    program, state = start(config, Draws())
    _, step_key = keys(config.seed)
    for step in range(2):
        state, metrics = program.update(state, batch())
        of_step = jax.random.fold_in(step_key, step)
        drawn = [float(jax.random.uniform(jax.random.fold_in(of_step, micro))) for micro in range(4)]
        assert float(metrics["loss"]) == pytest.approx(np.mean(drawn), rel=1e-6)


def test_first_update_is_adamw_computed_by_hand():
    config = settings(clip_norm=0.0, weight_decay=0.1, learning_rate=1e-2)
    program, state = start(config)
    _, step_key = keys(config.seed)

    def loss(params):
        return Toy().loss({**state.frozen, **params}, batch(), jax.random.fold_in(step_key, 0))[0]

    grads, before = copied(jax.jit(jax.grad(loss))(state.trained)), copied(state.trained)
    after, metrics = program.update(state, batch())
    # After one step the moments' bias corrections cancel: the update is lr (g / (|g| + eps) + decay w).
    for path, grad in paths(grads).items():
        weight = paths(before)[path]
        decay = 0.1 * weight if weight.ndim > 1 else 0.0
        want = weight - 1e-2 * (grad / (np.abs(grad) + 1e-8) + decay)
        np.testing.assert_allclose(np.asarray(paths(after.trained)[path]), want, atol=2e-6)
    norm = np.sqrt(sum(float(np.sum(grad**2)) for grad in jax.tree.leaves(grads)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)


def test_clipping_bounds_what_the_optimiser_sees():
    program, state = start(settings(clip_norm=1e-3, ema_decay=0.15))
    after, metrics = program.update(state, batch())
    moments = [leaf for path, leaf in paths(after.optimizer).items() if "/mu/" in f"/{path}/"]
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in moments)) / 0.1
    assert float(metrics["grad_norm"]) > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-4)


def test_a_step_that_is_not_finite_changes_only_the_counters():
    program, state = start(settings())
    state, _ = program.update(state, batch())
    before = copied(state)
    state, metrics = program.update(state, {"x": np.full((8, 16), np.nan, np.float32)})
    after = copied(state)
    for name in ("trained", "frozen", "ema", "optimizer"):
        assert_same(getattr(before, name), getattr(after, name))
    assert (after.step, after.skipped, after.consecutive_skipped) == (2, 1, 1)
    assert not np.isfinite(metrics["loss"])
    state, _ = program.update(state, batch())
    assert (int(state.step), int(state.skipped), int(state.consecutive_skipped)) == (3, 1, 0)
    mean, new = before.ema["body"]["kernel"], np.asarray(state.trained["body"]["kernel"])
    expected = mean + (1 - 2 / 11) * (new - mean)  # the second update, for a skipped one does not count
    np.testing.assert_allclose(state.ema["body"]["kernel"], expected, atol=1e-6)
    assert not np.array_equal(before.trained["body"]["kernel"], state.trained["body"]["kernel"])


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is_fine():
    """The root of 0 is 0, and its slope is infinite."""

    class Steep(Toy):
        def loss(self, params, batch, key):
            x = jnp.sum(jnp.abs(batch["x"])) * params["body"]["bias"][0]
            return jnp.sqrt(x) + jnp.sum(params["head"]["kernel"] ** 2), {}

    program, state = start(settings(), Steep())
    before = copied(state)
    state, metrics = program.update(state, batch())
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    after = copied(state)
    for name in ("trained", "ema", "optimizer"):
        assert_same(getattr(before, name), getattr(after, name))
    assert (after.step, after.skipped, after.consecutive_skipped) == (1, 1, 1)


def test_frozen_parameters_stay_and_cost_no_gradient_or_optimiser_memory():
    program, state = start(settings(trained=("head",)))
    before = copied(state.frozen)
    for seed in range(3):
        state, _ = program.update(state, batch(seed=seed))
    assert_same(before, state.frozen)
    sizes = {leaf.size for leaf in jax.tree.leaves(state.optimizer)}
    assert sizes == {1, 32 * 16}  # two counters, two moments of the head
    assert set(paths(state.ema)) == {"head/kernel"}


def test_running_mean_by_hand():
    program, state = start(settings(clip_norm=1e-3, ema_decay=0.15))
    mean = copied(state.trained)["head"]["kernel"]
    for done in range(3):
        state, _ = program.update(state, batch(seed=done))
        decay = min(0.15, (1 + done) / (10 + done))  # 0.1, 0.15, 0.15
        mean = decay * mean + (1 - decay) * np.asarray(state.trained["head"]["kernel"])
    np.testing.assert_allclose(np.asarray(state.ema["head"]["kernel"]), mean, atol=1e-6)


def test_no_running_mean_when_its_decay_is_zero():
    _, state = start(settings(ema_decay=0.0))
    assert jax.tree.leaves(state.ema) == []
    assert_same(state.params("ema")["head"], state.trained["head"])


def test_bfloat16_computes_in_bfloat16_and_keeps_masters_in_float32():
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Watched(Toy):
        def loss(self, params, batch, key):
            seen.update({path: leaf.dtype for path, leaf in paths(params).items()})
            return super().loss(params, batch, key)

    program, state = start(settings(precision="bfloat16"), Watched())
    state, metrics = program.update(state, batch())
    assert {path: str(dtype) for path, dtype in seen.items()} == {
        "body/bias": "bfloat16",
        "body/kernel": "bfloat16",
        "encoder/kernel": "bfloat16",
        "encoder/table": "int32",
        "head/kernel": "bfloat16",
    }
    kept = {leaf.dtype for leaf in jax.tree.leaves((state.trained, state.ema)) if leaf.size > 1}
    assert kept == {jnp.dtype("float32")}
    assert state.frozen["encoder"]["kernel"].dtype == jnp.bfloat16
    assert metrics["loss"].dtype == jnp.float32


def test_the_state_given_is_used_up():
    program, state = start(settings())
    program.update(state, batch())
    assert state.trained["body"]["kernel"].is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.trained["body"]["kernel"])


def test_initialisation_and_steps_draw_from_different_streams():
    init_key, step_key = keys(3)
    drawn = [jax.random.split(init_key, 4)[i] for i in range(4)]
    drawn += [jax.random.fold_in(step_key, i) for i in range(4)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in drawn}) == 8


def test_a_batch_that_cannot_be_split_is_refused():
    mesh = make_abstract_mesh(MeshSizes(data=2, fsdp=2), 4)
    with pytest.raises(ValueError, match=r"batch_size 20 .*data 2 x fsdp 2 and accumulate 2.*multiple of 8, e\.g\. 16"):
        abstract_state(Toy(), settings(batch_size=20, accumulate=2), mesh)


def test_a_metric_may_not_take_a_name_of_the_step():
    class Clashing(Toy):
        def loss(self, params, batch, key):
            return super().loss(params, batch, key)[0], {"grad_norm": jnp.zeros(())}

    program, state = start(settings(), Clashing())
    with pytest.raises(ValueError, match="grad_norm"):
        program.update(state, batch())
