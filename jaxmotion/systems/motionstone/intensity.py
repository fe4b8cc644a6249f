"""Sources of the scores of a training clip: the paper's estimator, or one of what its Table 2 compares it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxmotion.foundation import config_json
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.entries import CAMERA, FPS, OBJECT, VIDEO
from jaxmotion.foundation.types import Batch, Condition, Params
from jaxmotion.models.motion_estimator import MotionEstimatorSizes, upgrade_sizes
from jaxmotion.parallel import sharding
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.latent_shape import LatentShape
from jaxmotion.systems.motionstone.pretrained_meter import METER, PretrainedMeter
from jaxmotion.systems.precompute import Precompute
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.canvas import lying_canvas
from jaxmotion.video.frames import WINDOW, fill_window, motion_windows
from jaxmotion.video.gradients import feature_difference
from jaxmotion.video.ssim import ssim

INTENSITY = "intensity"
"""Entry, float32 [B], 1..10: a motion score that does not tell objects from camera."""
CLIPS_TO_CALIBRATE = 1000
"""At most so many training clips are measured before the first step."""

Measures = Mapping[str, Callable[[Params, Batch], Array]]


@register()
@dataclasses.dataclass(frozen=True)
class Intensity(Conditioner):
    """Base of the sources of scores. A source may own parameters; it brings no condition by itself."""

    only_measures: ClassVar[bool] = True

    @property
    def scores(self) -> tuple[str, ...]:
        """The batch entries that it knows."""
        return (OBJECT, CAMERA)

    @property
    def optional_entries(self) -> tuple[str, ...]:
        """The batch entries that the data must bring."""
        return ()

    def measured_entries(self) -> Measures:
        """Returns the functions that measure the entries on a training clip, by entry."""
        return {}

    def calibrate(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Self:
        """Returns this source with what must be known about the training clips."""
        return self

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        """Returns the sources of its own weights, by name."""
        return {}

    def condition(self, params: Params, batch: Batch, latent_shape: LatentShape, kept: Bool[Array, " B"]) -> Condition:
        return Condition()


@register("Known")
@dataclasses.dataclass(frozen=True)
class ProvidedScores(Intensity):
    """The data brings the scores: a list that the motion meter wrote, or clips whose motion is known."""

    @property
    def optional_entries(self) -> tuple[str, ...]:
        return (OBJECT, CAMERA)


def _upgrade_estimator(values: Json) -> Json:
    """Keeps the network of an estimator that an earlier version saved with its training settings."""
    return {**values, "estimator": upgrade_sizes(values["estimator"])}


@register("Estimated", upgrade=_upgrade_estimator)
@dataclasses.dataclass(frozen=True)
class EstimatedScores(Intensity):
    """A frozen motion estimator reads every training clip as the motion meter does: in the same windows and shapes.

    Source: MotionStone, Overall Pipeline: the estimator is frozen and its prediction is the condition.
    """

    estimator: MotionEstimatorSizes
    size: tuple[int, int] = (144, 256)
    """(height, width) with as many pixels as those at which it looks at clips; their shape is that of the clip."""
    frames: int = WINDOW
    """Frames of a window; a shorter clip is one window."""

    def init(self, key: Array, latent_shape: LatentShape) -> Params:
        return {METER: self.estimator.build().init(key)}

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        return {METER: PretrainedMeter()}

    def sharding(self) -> Mapping[str, tuple]:
        return {METER: ((r".*", P()),)}

    def measured_entries(self) -> Measures:
        return {axis: lambda params, batch, axis=axis: self.read(params, batch)[axis] for axis in (OBJECT, CAMERA)}

    def precomputable(self) -> Mapping[str, Precompute]:
        settings = {"intensity": config_json.to_json(self)}
        return {
            name: Precompute(each, (METER,), settings, label=True) for name, each in self.measured_entries().items()
        }

    def read(self, params: Params, batch: Batch) -> dict[str, Float[Array, " B"]]:
        """Returns both scores: those of the mean speed over the windows that the motion meter measures, too."""
        shown = _lay_on_canvas(batch[VIDEO], self.size)
        network, fps = self.estimator.build(), batch[FPS]

        def measure(window: tuple[Array, Array]) -> Float[Array, "2 B"]:
            order, counted = window
            pictures = jax.vmap(lambda clip, frames: clip[frames])(shown, order)
            gaps = jnp.abs(jnp.diff(order, axis=1)) / fps[:, None]
            read = network.read(params[METER], pictures, gaps, jnp.maximum(gaps * counted, 1e-6))
            return jnp.stack([unit.speed(read.object), unit.speed(read.camera)]) * (gaps * counted).sum(1)

        windows = _windows_at(fps, shown.shape[1], self.frames)
        seconds = (jnp.abs(jnp.diff(windows[0], axis=2)) * windows[1]).sum((0, 2)) / fps
        objects, cameras = jax.lax.stop_gradient(jax.lax.map(measure, windows).sum(0) / seconds)
        return {OBJECT: unit.score(objects), CAMERA: unit.score(cameras)}


def _lay_on_canvas(video: UInt8[Array, "B T H W 3"], like: tuple[int, int]) -> UInt8[Array, "B T h w 3"]:
    """Returns clips at the size in which motion is measured, lying on their side if they are taller than wide."""
    B, T, height, width, _ = video.shape
    video = video.swapaxes(2, 3) if height > width else video
    shape = (B, T, *lying_canvas(height, width, like), 3)
    shown = jax.image.resize(video.astype(jnp.float32), shape, "linear", antialias=True)
    return jnp.round(shown).astype(jnp.uint8)


def _windows_at(fps: Float[Array, " B"], T: int, frames: int) -> tuple[Int[Array, "W B F"], Float[Array, "W B F-1"]]:
    """Returns the frames of the windows of clips at these rates, and how much each step counts: 0 where none is left.

    The rate is not known when this is compiled; the number k is, of which every k-th frame is measured.
    """
    strides = range(1, T)
    tables = [_windows_of(stride, T, frames) for stride in strides]
    most = max(len(orders) for orders, _ in tables)
    padded = [
        (np.pad(orders, ((0, most - len(orders)), (0, 0)), "edge"), np.pad(counted, ((0, most - len(counted)), (0, 0))))
        for orders, counted in tables
    ]
    borders = np.sqrt([stride * (stride + 1) for stride in strides[:-1]]) / unit.STEP
    place = jnp.searchsorted(jnp.asarray(borders, jnp.float32), fps)
    orders, counted = (jnp.asarray(np.stack(parts))[place] for parts in zip(*padded, strict=True))
    return orders.swapaxes(0, 1), counted.swapaxes(0, 1)


def _windows_of(stride: int, T: int, frames: int) -> tuple[Int[np.ndarray, "W F"], Float[np.ndarray, "W F-1"]]:
    """Returns the windows of T frames of which every `stride`-th is measured."""
    found = []
    for window in motion_windows(np.arange(T) * unit.STEP / stride, frames):
        order, counted = fill_window(len(window), frames)
        found.append((window[order], counted))
    orders, counted = zip(*found, strict=True)
    return np.stack(orders), np.stack(counted).astype(np.float32)


@register("Fixed")
@dataclasses.dataclass(frozen=True)
class ConstantScores(Intensity):
    """Constant scores, the same for every clip. Source: Table 2, "w/o M", both at 5."""

    object: float = 5.0
    camera: float = 5.0

    def augment(self, batch: Batch, key: Array) -> Batch:
        rows = batch[FPS].shape
        return {**batch, OBJECT: jnp.full(rows, self.object), CAMERA: jnp.full(rows, self.camera)}


@register("OneNumber")
@dataclasses.dataclass(frozen=True)
class ScalarScore(Intensity):
    """A single intensity that cannot tell objects from camera. Source: Table 2, "SSIM" and "S".

    Not specified in the paper; we use: the number is brought to 1..10 by its rank among the training clips; `S` is the
    change of histograms of gradients, for no pretrained network is at hand everywhere.
    """

    kind: Literal["ssim", "feature_difference"]
    """1 - SSIM of neighbouring frames, or the change of their features."""
    edges: tuple[float, ...] = ()
    """The number at scores 1, 2, ..., 10; empty: not measured yet."""

    @property
    def scores(self) -> tuple[str, ...]:
        return (INTENSITY,)

    def measured_entries(self) -> Measures:
        def measure(params: Params, batch: Batch) -> Array:
            if not self.edges:
                raise ValueError(
                    "The intensities of the training clips are not measured yet; call measure_calibration."
                )
            found = sharding.map_rows(jax.vmap(self._number), batch[VIDEO], at_once=1)
            return jnp.interp(found, jnp.asarray(self.edges), jnp.linspace(unit.LOWEST, unit.HIGHEST, len(self.edges)))

        return {INTENSITY: measure}

    def calibrate(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Self:
        if self.edges:
            return self
        number, found = jax.jit(self._number), []
        for batch in clips:
            found += [float(number(clip)) for clip in batch]
            if len(found) >= CLIPS_TO_CALIBRATE:
                break
        edges = np.quantile(found, np.linspace(0, 1, 10))
        rising = np.maximum.accumulate(edges + 1e-6 * np.arange(10))  # clips that are all alike make no steps
        return dataclasses.replace(self, edges=tuple(float(edge) for edge in rising))

    def _number(self, video: UInt8[Array, "T H W 3"]) -> Float[Array, ""]:
        if self.kind == "feature_difference":
            return feature_difference(video)
        frames = jnp.asarray(video, jnp.float32) / 255
        return 1 - ssim(frames[:-1], frames[1:]).mean()
