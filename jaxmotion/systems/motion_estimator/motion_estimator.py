"""The motion estimator of MotionStone as a system: its network is trained on labels and on pairs of clips.

Labels are known motion (drawn scenes), pseudo-labels of real clips, and people's judgements of which of two clips moves
more. The network is `models.motion_estimator`, the losses of one axis are `ranking`.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation.
Not specified in the paper; we use: lambda = 1, the losses of the further heads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Key

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
from jaxmotion.video.pairs import SECOND_VIDEO, STEP_SECONDS, STEP_SHARES, STRONGER


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
        return (*AXES, *STRONGER, STEP_SECONDS, STEP_SHARES, "moves", "own_area", "own_speed")

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

        A batch of clips is ranked by its labels, every clip against every other; a batch of pairs (with `second_video`)
        by people's judgements of them. NaN stands for a missing label, so pairs, labelled clips and drawn ones can be
        in one batch: the loss is the paper's L_o + L_c + lambda L_r.
        """
        config = self.config
        predicted = self._predict(params, batch)
        total, metrics = jnp.zeros(()), {}
        for index, axis in enumerate(AXES):
            loss, logged = self._axis_loss(predicted, index, batch)
            total += loss
            metrics |= {f"{axis}_{name}": value for name, value in logged.items()}
        if "moves" in batch:
            total += config.moves * _moves_loss(predicted, _rows(batch["moves"], 2))
        if "own_area" in batch and predicted.area.size:
            total += config.maps * _maps_loss(predicted, *(_rows(batch[name], 4) for name in ("own_area", "own_speed")))
        return total, metrics

    def _predict(self, params: Params, batch: Batch) -> Prediction:
        """Returns what the network says of all clips of a batch; of pairs, of both clips of one after the other.

        Maps are left out where the two clips of pairs have different shapes.
        """
        videos = [batch[name] for name in (VIDEO, SECOND_VIDEO) if name in batch]
        clips, steps = len(videos), videos[0].shape[1] - 1
        seconds = jnp.broadcast_to(1 / jnp.repeat(batch[FPS], clips)[:, None], (clips * len(videos[0]), steps))
        if STEP_SECONDS in batch:
            told = _rows(batch[STEP_SECONDS], 2)
            seconds = jnp.where(jnp.isfinite(told), told, seconds)
        shares = None
        if STEP_SHARES in batch:
            told = _rows(batch[STEP_SHARES], 2)
            shares = jnp.where(jnp.isfinite(told), told, 1.0) * seconds
        if len({video.shape for video in videos}) == 1:
            return self.network.predict(params, _rows(jnp.stack(videos, 1), 5), seconds, shares)
        nothing, each = jnp.zeros((len(videos[0]), 0)), []
        for place, video in enumerate(videos):
            own = None if shares is None else shares[place::clips]
            found = self.network.predict(params, video, seconds[place::clips], own)
            each.append(found._replace(area=nothing, speed=nothing))
        return jax.tree.map(lambda *parts: _rows(jnp.stack(parts, 1), parts[0].ndim), *each)

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


def _rows(values: Array, rank: int) -> Array:
    """Returns values of single clips [B ...], of that rank, from those of clips or of pairs [B 2 ...]."""
    inner = values.shape[values.ndim - rank + 1 :]
    return values.reshape(math.prod(values.shape[: values.ndim - rank + 1]), *inner)


def _mean_of_known(errors: Array, known: Bool[Array, " B"]) -> Array:
    """Returns the mean of errors [B ...] over the clips whose label is known; 0 without any."""
    by_clip = errors.reshape(len(errors), -1).mean(1)
    return jnp.where(known, by_clip, 0.0).sum() / jnp.maximum(known.sum(), 1)


def _moves_loss(predicted: Prediction, moves: Float[Array, "B 4"]) -> Array:
    """Squared error of the camera's moves, summed over the kinds."""
    share = (motion_scale.score(jnp.nan_to_num(moves)) - motion_scale.LOWEST) / (2 * HALF)
    return _mean_of_known((predicted.moves - share) ** 2, jnp.isfinite(moves).all(1)) * len(CAMERA_MOVES)


def _maps_loss(predicted: Prediction, area: Float[Array, "B t H W"], speed: Float[Array, "B t H W"]) -> Array:
    """Squared error of the maps; the labels are resized to the features."""
    known = jnp.isfinite(area).all((1, 2, 3))
    area, speed = jnp.nan_to_num(area), jnp.nan_to_num(speed)
    motion = area * (motion_scale.score(speed) - motion_scale.LOWEST) / HALF
    shape = predicted.area.shape
    targets = (jax.image.resize(label, shape, "linear", antialias=True) for label in (area, motion))
    maps = zip((predicted.area, predicted.speed), targets, strict=True)
    return sum((4 * _mean_of_known((a - b) ** 2, known) for a, b in maps), jnp.zeros(()))
