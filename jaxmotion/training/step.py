"""One update of the parameters, compiled for a mesh.

The jitted update takes the whole state with its shardings in and out and donates its memory. A single device is the
smallest mesh; there is no other step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Float, PyTree

from jaxmotion.foundation.types import Array, Batch, Params
from jaxmotion.parallel import sharding
from jaxmotion.training.config import TrainConfig
from jaxmotion.training.optimizer import learning_rate, optimizer
from jaxmotion.training.state import TrainState, cast, merge, new_state

Metrics = Mapping[str, Array]
Tree = TypeVar("Tree")


class Task(Protocol):
    """Trainable task: parameters, a loss, and the sharding of the parameters."""

    @property
    def sharding(self) -> sharding.Rules:
        """Rules on full parameter paths; see `jaxmotion.parallel.sharding`."""
        ...

    def init(self, key: Array) -> Params:
        """Returns fresh parameters as a nested dict."""
        ...

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Returns the mean loss over the rows of a batch, and further scalars to log (means over the rows too)."""
        ...


class Program(NamedTuple):
    """Initialiser and update of a task on a mesh."""

    abstract: TrainState  # shapes, types and shardings of the state
    initialise: Callable[[], TrainState]
    update: jax.stages.Wrapped  # the jitted (state, batch) -> (state, metrics); the state given is used up


def build_program(task: Task, config: TrainConfig, mesh: Mesh) -> Program:
    """Returns the initialiser and the update of `task` on `mesh`; nothing is allocated or compiled yet."""
    transform = optimizer(config)
    abstract = abstract_state(task, config, mesh)
    layout = jax.tree.map(lambda x: x.sharding, abstract)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _, step_key = keys(config.seed)
        key = jax.random.fold_in(step_key, state.step)
        loss, metrics, grads = gradients(task, config, layout.trained, state, batch, key)
        return apply(transform, config, state, loss, metrics, grads)

    return Program(
        abstract=abstract,
        initialise=jax.jit(lambda: fresh_state(task, config), out_shardings=layout),
        update=jax.jit(
            update,
            in_shardings=(layout, sharding.batch_sharding(mesh)),
            out_shardings=(layout, sharding.replicated_sharding(mesh)),
            # The new state takes the memory of the old one; otherwise everything would be held twice. A state passed
            # in is gone afterwards: read or copy what is needed before.
            donate_argnums=0,
        ),
    )


def abstract_state(task: Task, config: TrainConfig, mesh: Mesh | AbstractMesh) -> TrainState:
    """Returns shapes, types and shardings of the state on `mesh`, without allocating it."""
    check_batch_size(config, mesh)
    abstract = jax.eval_shape(lambda: fresh_state(task, config))
    layout = state_shardings(abstract, optimizer(config), task.sharding, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, layout)


def fresh_state(task: Task, config: TrainConfig) -> TrainState:
    """Returns the state before the first step."""
    init_key, _ = keys(config.seed)
    return new_state(
        task.init(init_key), optimizer(config), config.trained, jnp.dtype(config.precision), ema=config.ema_decay > 0
    )


def keys(seed: int) -> tuple[Array, Array]:
    """Returns (key of the initialisation, key from which step n takes fold_in(key, n)).

    They are split apart first: split(key)[i] equals fold_in(key, i), so a network that splits the seed's own key would
    start from the very numbers that the first steps use as noise.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def check_batch_size(config: TrainConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless each device gets the same number of rows of each micro-batch."""
    parts = sharding.batch_shards(mesh) * config.accumulate
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        raise ValueError(
            f"batch_size {config.batch_size} cannot be split over data {mesh.shape['data']} x fsdp "
            f"{mesh.shape['fsdp']} and accumulate {config.accumulate}: it must be a multiple of {parts}, "
            f"e.g. {below or parts}."
        )


def state_shardings(
    abstract: TrainState, transform: optax.GradientTransformation, rules: sharding.Rules, mesh: Mesh | AbstractMesh
) -> TrainState:
    """Returns the shardings of the state: gradient moments and moving average live where their parameters live."""
    everywhere = sharding.replicated_sharding(mesh)
    trained = sharding.shardings(abstract.trained, rules, mesh)
    return abstract.replace(
        step=everywhere,
        skipped=everywhere,
        consecutive_skipped=everywhere,
        trained=trained,
        frozen=sharding.shardings(abstract.frozen, rules, mesh),
        ema=sharding.shardings(abstract.ema, rules, mesh),
        optimizer=optax.tree_map_params(
            transform, lambda _, s: s, abstract.optimizer, trained, transform_non_params=lambda _: everywhere
        ),
    )


def gradients(
    task: Task, config: TrainConfig, layout: PyTree[NamedSharding], state: TrainState, batch: Batch, key: Array
) -> tuple[Float[Array, ""], Metrics, Params]:
    """Returns (loss, metrics, float32 gradients of the trained parameters), each the mean over the micro-batches.

    With `accumulate` > 1 the micro-batches run one after the other in a scan, each with its own key. The parameters
    change to the computing type here and nowhere else, before they are gathered from the devices. `layout` is the
    sharding of the trained parameters, and so of their gradients.
    """
    dtype = jnp.dtype(config.precision)
    frozen = cast(state.frozen, dtype)

    def loss_of(trained: Params, rows: Batch, key: Array) -> tuple[Array, Metrics]:
        computing = jax.lax.with_sharding_constraint(cast(trained, dtype), layout)
        loss, metrics = task.loss(merge(computing, frozen), rows, key)
        return loss.astype(jnp.float32), {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    def grads_of(rows: Batch, key: Array) -> tuple[Array, Metrics, Params]:
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trained, rows, key)
        return loss, metrics, jax.lax.with_sharding_constraint(grads, layout)

    if config.accumulate == 1:
        return grads_of(batch, key)

    def add(total: Tree, micro: tuple[Batch, Array]) -> tuple[Tree, None]:
        rows, index = micro
        return jax.tree.map(jnp.add, total, grads_of(rows, jax.random.fold_in(key, index))), None

    micros = (micro_batches(batch, config.accumulate), jnp.arange(config.accumulate))
    shapes = jax.eval_shape(grads_of, jax.tree.map(lambda x: x[0], micros[0]), key)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, start, micros)
    return jax.tree.map(lambda x: x / config.accumulate, total)


def micro_batches(batch: Batch, accumulate: int) -> Batch:
    """Reshapes each array [B ...] to [accumulate, B / accumulate, ...] by every accumulate-th row, so rows stay put."""
    return jax.tree.map(lambda x: sharding.interleave_rows(x, accumulate), batch)


def apply(
    transform: optax.GradientTransformation,
    config: TrainConfig,
    state: TrainState,
    loss: Float[Array, ""],
    metrics: Metrics,
    grads: Params,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and metrics. A non-finite loss or gradient changes only the counters."""
    norm = optax.tree.norm(grads)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)
    done = state.step - state.skipped
    updates, moments = transform.update(grads, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    ema = jax.tree.map(
        lambda mean, x: mean + (1 - ema_decay(config, done)) * (x - mean), state.ema, trained if state.ema else {}
    )

    def keep(new: Tree, old: Tree) -> Tree:
        return jax.tree.map(lambda x, y: jnp.where(fine, x, y), new, old)

    after = state.replace(
        step=state.step + 1,
        skipped=state.skipped + jnp.where(fine, 0, 1),
        consecutive_skipped=jnp.where(fine, 0, state.consecutive_skipped + 1),
        trained=keep(trained, state.trained),
        ema=keep(ema, state.ema),
        optimizer=keep(moments, state.optimizer),
    )
    logged = {"loss": loss, "grad_norm": norm, "learning_rate": jnp.asarray(learning_rate(config)(done), jnp.float32)}
    clash = set(metrics) & {*logged, "skipped", "skipped_in_row"}
    if clash:
        raise ValueError(
            f"The task's loss returns a metric named {sorted(clash)[0]!r}, which the training step itself logs."
        )
    return after, {**logged, **metrics, "skipped": after.skipped, "skipped_in_row": after.consecutive_skipped}


def ema_decay(config: TrainConfig, done: Array) -> Float[Array, ""]:
    """Returns the decay of the moving average after `done` updates: low at first, to forget the random start soon.

    Not specified in the papers; we use: min(ema_decay, (1 + n) / (10 + n)), as in many public training codes.
    """
    return jnp.minimum(config.ema_decay, (1.0 + done) / (10.0 + done))
