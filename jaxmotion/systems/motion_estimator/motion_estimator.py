"""MotionStone's motion estimator: how much the objects and how much the camera of a clip move, 1..10 each.

    M = TAda(x),  s_object = MLP_object(GAP(M)),  s_camera = MLP_camera(GAP(M))

GAP is the mean over time and space. The MLPs read its logarithm: the speed of objects is a ratio, motion over area, and
scores are logarithms of speeds, so that small objects count as large ones do. Further small heads on the same features
tell what kind of move the camera makes, how far off the two scores may be, and, in training only, where things move by
themselves: known motion says it, and a network that must tell where learns what.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation.
Unsaid there, chosen here: the variant of TAda, what it looks at, the logarithm, the widths of the MLPs, the further
heads, lambda = 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key, UInt8

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, VIDEO
from jaxmotion.foundation.types import Batch, Params
from jaxmotion.nn.apply import apply
from jaxmotion.nn.linear import Linear
from jaxmotion.systems.motion_estimator.ranking import Hinge, Logistic, order_of, ranking_loss, regression_loss
from jaxmotion.systems.system import System, Table
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.motion_fields import camera_moves, motion_fields

AXES = (OBJECT, CAMERA)
STRONGER = tuple(f"stronger_{axis}" for axis in AXES)
MOVES: tuple[Literal["pan", "tilt", "zoom", "roll"], ...] = ("pan", "tilt", "zoom", "roll")
LEAST = 1e-3
"""Added to the mean features before their logarithm; those that can be negative are rectified first."""
MIDDLE, HALF = 5.5, 4.5
"""Of the scores' range; the heads start in its middle."""


class View(Protocol):
    """What a backbone looks at."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """Its input [B T' h w C], of clips and the seconds from each frame to the next."""
        ...

    def moves(self, seen: Array, said: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """The speeds of `MOVES` in diagonals per second, from what was seen or from what the network said of it."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class Pixels:
    """The frames themselves, as TAda2D was trained on them (mean 0.45, deviation 0.225), as the paper has it."""

    mean: float = 0.45
    """Of all colours, 0..1."""
    deviation: float = 0.225
    """Of all colours."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """[B T H W 3]; the network is not told the time between frames."""
        return (jnp.asarray(video, jnp.float32) / 255 - self.mean) / self.deviation

    def moves(self, seen: Array, said: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """What the network said."""
        return said


@register()
@dataclasses.dataclass(frozen=True)
class Fields:
    """Measured motion instead of pixels; see `fields`. A small network then need not learn to see motion first."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """[B T-1 H/8 W/8 C]."""
        return motion_fields(video, seconds)

    def moves(self, seen: Array, said: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """Those of the fitted camera; they were measured already."""
        return camera_moves(seen)


class Scores(NamedTuple):
    """What the network says about clips.

    object, camera [B]: 1..10. error [B 2]: how far off it expects the two to be, in scores. moves [B 4]: speeds of
    `MOVES`, diagonals per second. area, speed [B t h w]: share of a place that moves by itself, and its motion.
    """

    object: Float[Array, " B"]
    camera: Float[Array, " B"]
    error: Float[Array, "B 2"]
    moves: Float[Array, "B 4"]
    area: Float[Array, "B t h w"]
    speed: Float[Array, "B t h w"]


class Network(nn.Module):
    """A backbone, the mean of its features, and the heads."""

    backbone: nn.Module
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T h w C"]) -> Scores:
        features = self.backbone(x)
        mean = jnp.log(nn.relu(features.astype(jnp.float32)).mean((1, 2, 3)) + LEAST) + 2
        scores = {axis: MIDDLE + HALF * self._head(axis, 1, mean)[:, 0] for axis in AXES}
        where = Linear(2, name="where")(features)
        return Scores(
            scores[OBJECT],
            scores[CAMERA],
            nn.softplus(self._head("error", 2, jax.lax.stop_gradient(mean))),
            self._head("moves", len(MOVES), mean),
            where[..., 0],
            where[..., 1],
        )

    def _head(self, name: str, features: int, mean: Array) -> Array:
        """An MLP with one hidden layer."""
        return Linear(features, name=f"{name}_out")(nn.relu(Linear(self.hidden, name=f"{name}_in")(mean)))


@register()
@dataclasses.dataclass(frozen=True)
class MotionEstimator(System):
    """A motion estimator and how it is trained."""

    backbone: Any
    """Sizes of a TAda network, such as `tadaconv.R50`; its `build()` gives the network."""
    view: Pixels | Fields = Fields()
    """What the backbone looks at."""
    hidden: int = 256
    """Width of the heads' hidden layer."""
    pair_loss: Hinge | Logistic = Hinge()
    """What a wrongly ordered pair costs."""
    pairs: float = 1.0
    """Weight of the ranking loss."""
    regression: float = 1.0
    """The paper's lambda: weight of the regression to labels."""
    least_difference: float = 0.3
    """Clips whose labels differ by less are no pair."""
    maps: float = 1.0
    """Weight of telling where things move by themselves, for data that knows it."""
    moves: float = 1.0
    """Weight of telling what the camera does, for data that knows it."""
    frames: int = 9
    """Frames of a training clip; it can be used on any number."""
    size: tuple[int, int] = (144, 256)
    """(height, width) of a training clip; it can be used on others with about as many pixels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The entries of a batch that it learns from; beside the scores, those that the data knows."""
        return (*AXES, *STRONGER, "moves", "own_area", "own_speed")

    def build(self) -> EstimatorTask:
        """The network and its losses."""
        return EstimatorTask(self, Network(self.backbone.build(), self.hidden))


@dataclasses.dataclass(frozen=True)
class EstimatorTask:
    """What trains an estimator, and what reads clips with it."""

    config: MotionEstimator
    network: Network

    @property
    def sharding(self) -> Table:
        """Everything on every device: the largest has 26 M parameters."""
        return ((r".*", PartitionSpec()),)

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        height, width = self.config.size
        video = jnp.zeros((1, self.config.frames, height, width, 3), jnp.uint8)
        seen = self.config.view(video, jnp.ones((1, self.config.frames - 1)))
        return self.network.init(key, seen)["params"]

    def read(self, params: Params, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Scores:
        """The scores of clips, clipped to 1..10, and the camera's moves in diagonals per second.

        Args:
            seconds: from each frame to the next.
        """
        seen = self.config.view(video, seconds)
        said: Scores = apply(self.network, params, seen)
        scores = {axis: jnp.clip(getattr(said, axis), unit.LOWEST, unit.HIGHEST) for axis in AXES}
        moves = self.config.view.moves(seen, unit.speed(unit.LOWEST + 2 * HALF * said.moves))
        return said._replace(moves=moves, **scores)

    def loss(self, params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        """Ranking and regression of both axes, and the further heads where labels know.

        A batch of clips is ranked by its labels, every clip against every other; a batch of pairs (`video`
        [B 2 T H W 3]) by what people said about them. A label that is not a number is one that is not there.
        """
        config = self.config
        video, fps = batch[VIDEO], batch[FPS]
        if video.ndim == 6:
            video, fps = video.reshape(-1, *video.shape[2:]), jnp.repeat(fps, 2)
        seconds = jnp.broadcast_to(1 / fps[:, None], (video.shape[0], video.shape[1] - 1))
        said: Scores = apply(self.network, params, config.view(video, seconds))
        total, metrics = jnp.zeros(()), {}
        for index, axis in enumerate(AXES):
            scores, labels = getattr(said, axis), batch[axis].reshape(-1)
            known = jnp.isfinite(labels).astype(jnp.float32)
            labels = jnp.nan_to_num(labels)
            if f"stronger_{axis}" in batch:
                first, second = scores[0::2], scores[1::2]
                order = batch[f"stronger_{axis}"]
                weight = jnp.isfinite(order).astype(jnp.float32)
                order = jnp.nan_to_num(order)
            else:
                first, second = scores[:, None], scores[None, :]
                order, weight = order_of(labels, known, config.least_difference)
            ranked = ranking_loss(first, second, order, weight, config.pair_loss)
            regressed = regression_loss(scores, labels, known)
            off = jax.lax.stop_gradient(jnp.abs(scores - labels))
            doubt = (known * jnp.abs(said.error[:, index] - off)).sum() / jnp.maximum(known.sum(), 1)
            total += config.pairs * ranked + config.regression * regressed + 0.1 * doubt
            right = (jnp.sign(order) == jnp.sign(first - second)) * weight
            metrics |= {
                f"{axis}_off": (known * off).sum() / jnp.maximum(known.sum(), 1),
                f"{axis}_pairs_right": right.sum() / jnp.maximum(weight.sum(), 1),
            }
        if "moves" in batch:
            share = (unit.score(batch["moves"]) - unit.LOWEST) / (2 * HALF)
            total += config.moves * jnp.mean((said.moves - share) ** 2) * len(MOVES)
        if "own_area" in batch:
            total += config.maps * _maps_loss(said, batch["own_area"], batch["own_speed"])
        return total, metrics


def _maps_loss(said: Scores, area: Float[Array, "B t H W"], speed: Float[Array, "B t H W"]) -> Array:
    """Squared error of the maps; the labels are brought to the size of the features."""
    motion = area * (unit.score(speed) - unit.LOWEST) / HALF
    shape = said.area.shape
    wanted = (jax.image.resize(label, shape, "linear", antialias=True) for label in (area, motion))
    return sum(
        (4 * jnp.mean((a - b) ** 2) for a, b in zip((said.area, said.speed), wanted, strict=True)), jnp.zeros(())
    )


def confidence(error: Float[np.ndarray, "*B 2"]) -> Float[np.ndarray, "*B"]:
    """0..1: how likely both scores are within 1 of the truth, if errors are Laplace's with the expected mean size."""
    return np.prod(1 - np.exp(-1 / np.maximum(error, 1e-3)), axis=-1)
