"""The motion estimator of MotionStone as a system: its network is trained on labels and on pairs of clips.

Labels are known motion (drawn scenes), pseudo-labels of real clips, and people's judgements of which of two clips moves
more. The network is `models.motion_estimator`, the losses of one axis are `ranking`.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation.
Not specified in the paper; we use: lambda = 1, the losses of the further heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.entries import FPS, VIDEO
from jaxmotion.foundation.types import Batch, Params
from jaxmotion.models.motion_estimator import HALF, MotionEstimatorSizes, MotionNetwork, Prediction, upgrade_sizes
from jaxmotion.systems.motion_estimator.pretrained_backbone import BACKBONE, PretrainedBackbone
from jaxmotion.systems.motion_estimator.ranking import Hinge, Logistic, order_of, ranking_loss, regression_loss
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.system import System, Table
from jaxmotion.video import motion_scale
from jaxmotion.video.motion_scale import AXES, CAMERA_MOVES
from jaxmotion.video.pairs import STRONGER


def _upgrade(values: Json) -> Json:
    """Gathers the sizes of the network, which stood beside the training settings in an earlier version."""
    if "backbone" not in values:
        return values
    settings = {key: value for key, value in values.items() if key not in ("backbone", "view", "hidden")}
    return {"network": upgrade_sizes(values), **settings}


@register(upgrade=_upgrade)
@dataclasses.dataclass(frozen=True)
class MotionEstimator(System):
    """A motion estimator and its training settings."""

    network: MotionEstimatorSizes
    """The network to train."""
    pair_loss: Hinge | Logistic = Hinge()
    """Cost of a wrongly ordered pair."""
    pairs: float = 1.0
    """Weight of the ranking loss."""
    regression: float = 1.0
    """The paper's lambda: weight of the regression to labels."""
    least_difference: float = 0.3
    """Clips whose labels differ by less are no pair."""
    maps: float = 1.0
    """Weight of the loss on where things move by themselves, for data with such labels."""
    moves: float = 1.0
    """Weight of the loss on the camera's moves, for data with such labels."""
    frames: int = 9
    """Frames of a training clip; it can be used on any number."""
    size: tuple[int, int] = (144, 256)
    """(height, width) of a training clip; it can be used on others with about as many pixels."""

    @property
    def optional_entries(self) -> tuple[str, ...]:
        """Names of the batch entries that it learns from, where the data has them."""
        return (*AXES, *STRONGER, "moves", "own_area", "own_speed")

    @property
    def motion_network(self) -> MotionEstimatorSizes:
        """Returns the network; it is all of the parameters."""
        return self.network

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        """Returns the source of published weights of the backbone."""
        return {BACKBONE: PretrainedBackbone()}

    def build(self) -> EstimatorTask:
        """Returns the network with its losses."""
        return EstimatorTask(self, self.network.build())


@dataclasses.dataclass(frozen=True)
class EstimatorTask:
    """Trains a motion estimator."""

    config: MotionEstimator
    network: MotionNetwork

    @property
    def sharding(self) -> Table:
        """Everything on every device: the largest network has 26 M parameters."""
        return ((r".*", PartitionSpec()),)

    def init(self, key: Key[Array, ""]) -> Params:
        """Returns fresh parameters."""
        return self.network.init(key)

    def loss(self, params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        """Returns ranking and regression losses of both axes and the losses of the further heads, and metrics.

        A batch of clips is ranked by its labels, every clip against every other; a batch of pairs (`video`
        [B 2 T H W 3]) by people's judgements of them. NaN stands for a missing label.
        """
        config = self.config
        video, fps = batch[VIDEO], batch[FPS]
        if video.ndim == 6:
            video, fps = video.reshape(-1, *video.shape[2:]), jnp.repeat(fps, 2)
        seconds = jnp.broadcast_to(1 / fps[:, None], (video.shape[0], video.shape[1] - 1))
        predicted = self.network.predict(params, video, seconds)
        total, metrics = jnp.zeros(()), {}
        for index, axis in enumerate(AXES):
            loss, logged = self._axis_loss(predicted, index, batch)
            total += loss
            metrics |= {f"{axis}_{name}": value for name, value in logged.items()}
        if "moves" in batch:
            share = (motion_scale.score(batch["moves"]) - motion_scale.LOWEST) / (2 * HALF)
            total += config.moves * jnp.mean((predicted.moves - share) ** 2) * len(CAMERA_MOVES)
        if "own_area" in batch:
            total += config.maps * _maps_loss(predicted, batch["own_area"], batch["own_speed"])
        return total, metrics

    def _axis_loss(self, predicted: Prediction, index: int, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Returns the loss of one axis, and its metrics: mean absolute error, share of pairs in the right order."""
        config, axis = self.config, AXES[index]
        scores, labels = getattr(predicted, axis), batch[axis].reshape(-1)
        valid = jnp.isfinite(labels).astype(jnp.float32)
        labels = jnp.nan_to_num(labels)
        if STRONGER[index] in batch:
            first, second = scores[0::2], scores[1::2]
            order = batch[STRONGER[index]]
            weight = jnp.isfinite(order).astype(jnp.float32)
            order = jnp.nan_to_num(order)
        else:
            first, second = scores[:, None], scores[None, :]
            order, weight = order_of(labels, valid, config.least_difference)
        ranked = ranking_loss(first, second, order, weight, config.pair_loss)
        regressed = regression_loss(scores, labels, valid)
        off = jax.lax.stop_gradient(jnp.abs(scores - labels))
        doubt = (valid * jnp.abs(predicted.error[:, index] - off)).sum() / jnp.maximum(valid.sum(), 1)
        right = (jnp.sign(order) == jnp.sign(first - second)) * weight
        return config.pairs * ranked + config.regression * regressed + 0.1 * doubt, {
            "off": (valid * off).sum() / jnp.maximum(valid.sum(), 1),
            "pairs_right": right.sum() / jnp.maximum(weight.sum(), 1),
        }


def _maps_loss(predicted: Prediction, area: Float[Array, "B t H W"], speed: Float[Array, "B t H W"]) -> Array:
    """Squared error of the maps; the labels are resized to the features."""
    motion = area * (motion_scale.score(speed) - motion_scale.LOWEST) / HALF
    shape = predicted.area.shape
    targets = (jax.image.resize(label, shape, "linear", antialias=True) for label in (area, motion))
    maps = zip((predicted.area, predicted.speed), targets, strict=True)
    return sum((4 * jnp.mean((a - b) ** 2) for a, b in maps), jnp.zeros(()))
