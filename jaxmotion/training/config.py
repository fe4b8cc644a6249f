"""The settings of a training run: a frozen dataclass of plain values, checked where it is made."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from jaxmotion.foundation.config_json import register


@register()
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of training. Steps count updates of the parameters; `batch_size` is over all devices and processes."""

    steps: int = 1000
    """Updates in all; a run that is started again may ask for more."""
    batch_size: int = 8
    """Clips per update, over all devices."""
    accumulate: int = 1
    """Micro-batches per update: each holds batch_size / accumulate clips, and their gradients are averaged."""
    learning_rate: float = 1e-4
    """Highest learning rate of AdamW."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after warm-up: constant, or falling to 0 at the last step."""
    weight_decay: float = 0.01
    """AdamW's decay of kernels, LoRA factors and tables of embeddings; biases, scales and gates have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and the second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to it; 0 leaves them."""
    ema_decay: float = 0.999
    """Decay of the running mean of the parameters (EMA), lower at the start of a run; 0 keeps none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which the networks compute. Trained parameters, their EMA and the optimiser stay float32."""
    trained: tuple[str, ...] = (".*",)
    """Regular expressions searched in parameter paths; a parameter that none of them matches is frozen."""
    nonfinite_limit: int = 10
    """Stop when this many steps in a row gave a loss or gradient that is not finite."""
    seed: int = 0
    """Seed of the parameters and of the noise of every step."""
    log_every: int = 10
    """Steps averaged in one row of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    sample_every: int = 0
    """Steps between sample videos; 0 makes none."""
    tensorboard: bool = True
    """Also write the metrics for TensorBoard, in the run's folder `tensorboard`."""
    compile_cache: str = ""
    """Folder in which compiled steps are kept for the next start; empty keeps none."""

    def __post_init__(self):
        at_least_one = ("steps", "batch_size", "accumulate", "nonfinite_limit", "log_every", "save_every", "keep")
        _check_least(self, at_least_one, 1)
        _check_least(self, ("warmup_steps", "weight_decay", "clip_norm", "sample_every", "learning_rate", "eps"), 0)
        for name, value in (("betas[0]", self.betas[0]), ("betas[1]", self.betas[1]), ("ema_decay", self.ema_decay)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 0 and less than 1.")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}.")
        for name, options in (("decay", ("constant", "cosine", "linear")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(options)}.")
        for pattern in self.trained:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"The pattern {pattern!r} in `trained` is no regular expression: {error}.") from error


MAY_CHANGE = (
    r"(^|/)train/(steps|nonfinite_limit|log_every|save_every|keep|sample_every|tensorboard|compile_cache)$",
    r"(^|/)mesh(/|$)",
    r"^(sampling|prompts|evaluations)(/|$)",
    r"^pretrained/\w+/accepts$",
)
"""Paths in a saved configuration that a run started again may change. They do not touch what was learned so far."""


def _check_least(config: TrainConfig, names: tuple[str, ...], least: int) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}.")
