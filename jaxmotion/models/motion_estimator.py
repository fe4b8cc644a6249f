"""MotionStone's motion estimator: how much the objects and how much the camera of a clip move, 1..10 each.

    M = TAda(x),  s_object = MLP_object(GAP(M)),  s_camera = MLP_camera(GAP(M))

GAP is the mean over time and space. The MLPs read its logarithm: the speed of objects is a ratio, motion over area, and
scores are logarithms of speeds, so that small objects count as large ones do. Further small heads on the same features
predict the kind of camera move, the error of the two scores, and, for training only, where things move by themselves.

Source: MotionStone (arXiv:2412.05848), Motion Intensity Estimation.
Not specified in the paper; we use: the variant of TAda, a view of measured motion in place of pixels, the logarithm,
the widths of the MLPs, the further heads.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.types import Params
from jaxmotion.models.tadaconv import TAda2DSizes
from jaxmotion.models.tadaconv_v2 import TAdaConvNeXtV2Sizes
from jaxmotion.nn.apply import apply
from jaxmotion.nn.linear import Linear
from jaxmotion.video import motion_scale
from jaxmotion.video.motion_fields import camera_moves, motion_fields
from jaxmotion.video.motion_scale import AXES, CAMERA_MOVES, HIGHEST, LOWEST

LOG_OFFSET = 1e-3
"""Added to the mean features before their logarithm; features that can be negative are rectified first."""
MIDDLE, HALF = (LOWEST + HIGHEST) / 2, (HIGHEST - LOWEST) / 2
"""Of the scores' range; the heads start in its middle."""
_EXAMPLE = (1, 4, 64, 64, 3)  # a clip for initialization; parameters do not depend on its shape


class View(Protocol):
    """Prepares clips for a backbone."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """Returns the backbone's input [B T' h w C]; `seconds` are those from each frame to the next."""
        ...

    def tell(self, seconds: Float[Array, "B T-1"]) -> Float[Array, "B R"]:
        """Returns what the heads are told beside the features, for what the input does not show."""
        ...

    def moves(self, seen: Array, predicted: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """Returns the speeds of `CAMERA_MOVES`, diagonals per second, measured on the input or as predicted."""
        ...


def _upgrade_pixels(values: Json) -> Json:
    """Keeps the heads of networks from before these were told the frame rate."""
    return {"rate": False, **values}


@register(upgrade=_upgrade_pixels)
@dataclasses.dataclass(frozen=True)
class Pixels:
    """Normalized frames, as TAda2D was trained on them (mean 0.45, deviation 0.225) and as the paper has it.

    Frames do not show how much time is between them, but scores are of speeds. The heads, which read logarithms, are
    told its logarithm, so that published weights stay as they are.
    """

    mean: float = 0.45
    """Of all colours, 0..1."""
    deviation: float = 0.225
    """Of all colours."""
    rate: bool = True
    """Whether the heads are told the time between frames."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """Returns [B T H W 3]; `tell` has the time between frames."""
        return (jnp.asarray(video, jnp.float32) / 255 - self.mean) / self.deviation

    def tell(self, seconds: Float[Array, "B T-1"]) -> Float[Array, "B R"]:
        """Returns the logarithm of the mean time between frames, in steps of the motion scale."""
        return jnp.log(seconds.mean(1, keepdims=True) / motion_scale.STEP)[:, : int(self.rate)]

    def moves(self, seen: Array, predicted: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """Returns the prediction."""
        return predicted


@register()
@dataclasses.dataclass(frozen=True)
class Fields:
    """Measured motion (`video.motion_fields`), so that a small network need not learn to see motion first."""

    def __call__(self, video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Array:
        """Returns [B T-1 H/8 W/8 C]."""
        return motion_fields(video, seconds)

    def tell(self, seconds: Float[Array, "B T-1"]) -> Float[Array, "B 0"]:
        """Returns nothing: the fields are of speeds already."""
        return jnp.zeros((len(seconds), 0))

    def moves(self, seen: Array, predicted: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
        """Returns the moves of the fitted camera; the view has measured them already."""
        return camera_moves(seen)


class Prediction(NamedTuple):
    """The network's output for clips.

    object, camera [B]: scores 1..10. error [B 2]: expected absolute error of the two scores. moves [B 4]: speeds of
    `CAMERA_MOVES`, diagonals per second. area, speed [B t h w]: share of a cell that moves by itself, and its motion.
    """

    object: Float[Array, " B"]
    camera: Float[Array, " B"]
    error: Float[Array, "B 2"]
    moves: Float[Array, "B 4"]
    area: Float[Array, "B t h w"]
    speed: Float[Array, "B t h w"]


class BackboneWithHeads(nn.Module):
    """A backbone, the mean of its features, and the heads."""

    backbone: nn.Module
    hidden: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T h w C"], told: Float[Array, "B R"], shares: Float[Array, "B S"] | None = None
    ) -> Prediction:
        features = self.backbone(x)
        mean = mean_over_time(nn.relu(features.astype(jnp.float32)).mean((2, 3)), shares)
        mean = jnp.concatenate([jnp.log(mean + LOG_OFFSET) + 2, told], axis=-1)
        object_score, camera_score = (MIDDLE + HALF * self._head(axis, 1, mean)[:, 0] for axis in AXES)
        where = Linear(2, name="where")(features)
        return Prediction(
            object_score,
            camera_score,
            nn.softplus(self._head("error", 2, jax.lax.stop_gradient(mean))),
            self._head("moves", len(CAMERA_MOVES), mean),
            where[..., 0],
            where[..., 1],
        )

    def _head(self, name: str, features: int, mean: Array) -> Array:
        """An MLP with one hidden layer."""
        return Linear(features, name=f"{name}_out")(nn.relu(Linear(self.hidden, name=f"{name}_in")(mean)))


def mean_over_time(x: Float[Array, "B T C"], shares: Float[Array, "B S"] | None) -> Float[Array, "B C"]:
    """Returns the mean over T, to which each of the S steps of a clip counts by its share; None: all alike."""
    if shares is None:
        return x.mean(1)
    weights = shares
    if x.shape[1] != shares.shape[1]:
        weights = jax.image.resize(shares, x.shape[:2], "linear", antialias=True)
    return jnp.einsum("BTC,BT->BC", x, weights) / weights.sum(1, keepdims=True)


@register()
@dataclasses.dataclass(frozen=True)
class MotionEstimatorSizes:
    """The sizes of a motion estimator."""

    backbone: TAda2DSizes | TAdaConvNeXtV2Sizes
    """A TAda network, such as `tadaconv.R50`."""
    view: Pixels | Fields = Fields()
    """The backbone's input."""
    hidden: int = 256
    """Width of the heads' hidden layer."""

    def build(self) -> MotionNetwork:
        """Returns the network."""
        return MotionNetwork(self.view, BackboneWithHeads(self.backbone.build(), self.hidden))


def upgrade_sizes(values: Json) -> Json:
    """Returns JSON of `MotionEstimatorSizes` from that of an earlier version, which had training settings beside them.

    Values of this version are returned as they are.
    """
    sizes = {key: values[key] for key in ("backbone", "view", "hidden") if key in values}
    return {"class": MotionEstimatorSizes.__qualname__, **sizes}


@dataclasses.dataclass(frozen=True)
class MotionNetwork:
    """Predicts the motion of clips; parameters are passed in."""

    view: View
    module: BackboneWithHeads

    def init(self, key: Key[Array, ""]) -> Params:
        """Returns fresh parameters."""
        _, frames, *_ = _EXAMPLE
        seconds = jnp.ones((1, frames - 1))
        seen = self.view(jnp.zeros(_EXAMPLE, jnp.uint8), seconds)
        return self.module.init(key, seen, self.view.tell(seconds))["params"]

    def predict(
        self,
        params: Params,
        video: UInt8[Array, "B T H W 3"],
        seconds: Float[Array, "B T-1"],
        shares: Float[Array, "B T-1"] | None = None,
    ) -> Prediction:
        """Returns the heads' raw outputs: scores may lie outside 1..10, moves are shares of the scale; see `read`."""
        return apply(self.module, params, self.view(video, seconds), self.view.tell(seconds), shares)

    def read(
        self,
        params: Params,
        video: UInt8[Array, "B T H W 3"],
        seconds: Float[Array, "B T-1"],
        shares: Float[Array, "B T-1"] | None = None,
    ) -> Prediction:
        """Returns the scores of clips, clipped to 1..10, and the camera's moves in diagonals per second.

        Args:
            seconds: from each frame to the next.
            shares: how much each step counts in the mean over time; None: all alike.
        """
        seen = self.view(video, seconds)
        raw: Prediction = apply(self.module, params, seen, self.view.tell(seconds), shares)
        scores = {axis: jnp.clip(getattr(raw, axis), LOWEST, HIGHEST) for axis in AXES}
        moves = self.view.moves(seen, motion_scale.speed(LOWEST + 2 * HALF * raw.moves))
        return raw._replace(moves=moves, **scores)


def confidence(error: Float[np.ndarray, "*B 2"]) -> Float[np.ndarray, "*B"]:
    """Returns how likely both scores are within 1 of the truth, 0..1: Laplace errors of the expected mean size."""
    return np.prod(1 - np.exp(-1 / np.maximum(error, 1e-3)), axis=-1)
