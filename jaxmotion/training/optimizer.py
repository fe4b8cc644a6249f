"""AdamW with its learning-rate schedule and gradient clipping, from optax."""

from __future__ import annotations

import jax
import optax
from jaxtyping import PyTree

from jaxmotion.foundation.types import Params
from jaxmotion.nn.low_rank import is_stacked
from jaxmotion.training.config import TrainConfig

VECTORS = ("bias", "scale", "gate", "mean", "variance", "cls", "mask_token")
"""Names of parameters that are never decayed, in whatever shape they are kept; names that begin with `scale_` too."""


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate by the number of updates done: a linear rise, then constant, cosine or linear."""
    rest = max(config.steps - config.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(config.learning_rate),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
    }[config.decay]
    if not config.warmup_steps:
        return after
    # The first update uses 1/warmup of the rate, not 0, so that no step is idle.
    first = config.learning_rate / config.warmup_steps
    rise = optax.linear_schedule(first, config.learning_rate, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [config.warmup_steps])


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns gradient clipping by the global norm, then AdamW (arXiv:1711.05101).

    Not specified in the papers, which name no optimiser settings; we use: weight decay on kernels, LoRA factors and
    tables of embeddings, and none on biases, norm and layer scales, and gates; as CogVideoX's own training (SAT).
    """
    adamw = optax.adamw(
        learning_rate(config),
        b1=config.betas[0],
        b2=config.betas[1],
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def decay_mask(params: Params) -> PyTree[bool]:
    """Returns True for each array that weight decay applies to, by what it is: by its name, else its axes in one layer.

    Its rank alone says little: a stack of layers keeps a bias as [layers, C], a modulating or gated one as [parts, C].
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: _decays(jax.tree_util.keystr(path, simple=True, separator="/"), x.ndim), params
    )


def _decays(path: str, rank: int) -> bool:
    name = path.rpartition("/")[2]
    if name in VECTORS or name.startswith("scale_"):
        return False
    return name == "kernel" or rank - is_stacked(path) >= 2
