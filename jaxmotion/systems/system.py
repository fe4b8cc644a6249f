"""A system: a codec, conditioners, a denoiser and a diffusion process, trained with one loss and sampled in one scan.

`System` is what a config names; `build` makes the `VideoDiffusion` that trains and samples. The trainer itself needs
only `init`, `loss` and `sharding`, so a task that is no diffusion model can be trained by it as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, Self

import jax
from jaxtyping import UInt8

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Array, Batch, Params
from jaxmotion.models.motion_estimator import MotionEstimatorSizes
from jaxmotion.parallel.sharding import paths
from jaxmotion.systems.control import Controls
from jaxmotion.systems.export import SAFETENSORS, Exporter
from jaxmotion.systems.precompute import Precompute
from jaxmotion.systems.pretrained import PretrainedSource

Table = tuple[tuple[str, Any], ...]
"""(regular expression on a '/'-joined parameter path, PartitionSpec); the first match wins."""


class Task(Protocol):
    """All the trainer needs to know."""

    @property
    def sharding(self) -> Table:
        """Sharding rules of the whole tree."""
        ...

    def init(self, key: Array) -> Params:
        """Fresh parameters."""
        ...

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """The scalar to minimise and what to log beside it."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskWithout:
    """A task without some parts of its parameters, which its loss does not read."""

    base: Task
    parts: frozenset[str]

    @property
    def sharding(self) -> Table:
        """The task's own."""
        return self.base.sharding

    def init(self, key: Array) -> Params:
        """The task's own fresh parameters, but those of the parts."""
        return {part: tree for part, tree in self.base.init(key).items() if part not in self.parts}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """The task's own."""
        return self.base.loss(params, batch, key)


class System:
    """Base of the configs that name a system. All have `frames` and `size` (height, width in pixels) of their clips."""

    frames: int
    size: tuple[int, int]

    @property
    def token_spec(self) -> tuple[int, int] | None:
        """(vocabulary, length) of the token ids that it reads; None when it reads no captions."""
        return None

    @property
    def optional_entries(self) -> tuple[str, ...]:
        """Entries of a batch that it learns from beside clips and captions, where the data knows them."""
        return ()

    @property
    def required_entries(self) -> tuple[str, ...]:
        """Optional entries without which it learns nothing."""
        return ()

    @property
    def controls(self) -> Controls:
        """Batch entries that a person sets beside a picture and a text."""
        return {}

    @property
    def motion_network(self) -> MotionEstimatorSizes | None:
        """Returns the network that its runs train to measure motion, so that they can be opened as motion meters."""
        return None

    def exports(self) -> Mapping[str, Exporter]:
        """Returns what it can be written as when it is trained, by kind."""
        return {"safetensors": SAFETENSORS}

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        """Returns the sources of weights that it can start from, by name, in the order in which they are read.

        A source without a `source` gives nothing until a config or the command line names one.
        """
        return {}

    def resized(self, frames: int, size: tuple[int, int]) -> Self:
        """Returns this system for clips of another length and size, which needs the same parameters.

        Raises:
            ValueError: the size does not fit, or the parameters would be others.
        """
        if (frames, size) == (self.frames, self.size):
            return self
        other = self._resized(frames, size)
        ours, theirs = (
            {path: leaf.shape for path, leaf in paths(jax.eval_shape(each.build().init, jax.random.key(0))).items()}
            for each in (self, other)
        )
        changed = [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]
        if changed:
            raise ValueError(
                f"This system cannot make clips of {frames} frames of {size[0]} x {size[1]} px: it was made for "
                f"{self.frames} of {self.size[0]} x {self.size[1]}, and {changed[0]} would be "
                f"{theirs.get(changed[0])} instead of {ours.get(changed[0])}."
            )
        return other

    def _resized(self, frames: int, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, frames=frames, size=size)  # pyright: ignore

    @property
    def guidable(self) -> Mapping[str, bool]:
        """Returns for each condition, by its name, whether it can be guided."""
        return {}

    def check_guidance(self, sampling: Sampling) -> None:
        """Raises ValueError for guidance on a condition that cannot be guided."""
        sampling.scales(self.guidable)

    def precomputable(self) -> Mapping[str, Precompute]:
        """Returns how batch entries are computed from clips once, before training, by entry; nothing by default."""
        return {}

    def check_start(self) -> None:
        """Raises ValueError, before the first step of a run, if it could not keep what it promises after the last."""

    def idle_parts(self, entries: Collection[str]) -> frozenset[str]:
        """Returns the top-level keys of parameters that no training step reads on data with these entries.

        Such a part is neither loaded nor kept by a run if one of its pretrained sources gives it; it is read from there
        when the run is opened to make clips.
        """
        return frozenset()

    def build(self) -> Task:
        """The task that this config describes."""
        raise NotImplementedError(f"{type(self).__name__} must say what it builds.")

    def measure_calibration(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Json:
        """Returns what must be measured on training clips before the first step, as JSON values; nothing by default.

        `clips` is read only if there is something to measure.
        """
        return {}

    def with_calibration(self, measured: Json) -> Self:
        """Returns this config with the measured values in their places."""
        return self
