"""LoRA: another system of which only thin factors beside chosen kernels are trained.

A chosen kernel W becomes W + (alpha / rank) down up wherever the system uses it; everything else stays what it is. The
factors are one more part of the parameter tree, `lora`, under the paths of their kernels:

    lora/denoiser/.../query/kernel/down  [C, rank]          of a linear layer [C, D]; of a gated one, up is [rank, 2, D]
    lora/denoiser/.../query/kernel/up    [rank, D]
    lora/denoiser/.../conv_in/kernel/down [k, k, C, rank]   of a convolution [k, k, C, D]; up is [rank, D]

Kernels that `nn.chain.Stack` keeps on one first axis have a pair for each layer, stacked alike. With
`train.trained = (r"^lora/",)` nothing else has gradients, optimiser state or a running mean.

A layer computes x W + (alpha / rank) (x down) up: its result and the change are made apart, then added.
In a sum of kernels, rounded to bfloat16, most of a LoRA would be lost; and apart, the backward pass makes no gradient
of a whole kernel. Training, previews and sampling do the same; exports of the whole system hold the sum in float32.

Source: "LoRA" (arXiv:2106.09685), section 4.1; convolutions as in PEFT and Kohya's scripts: the first factor has the
window, the second is pointwise.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Float, Key, UInt8

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json, register
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import Array, Batch, Params
from jaxmotion.nn.low_rank import DOWN, LORA, UP, attach, choose_kernels, fresh, merge, pairs, sides
from jaxmotion.systems.control import Controls
from jaxmotion.systems.export import Export, Exporter, ExportJob
from jaxmotion.systems.precompute import Precompute
from jaxmotion.systems.pretrained import Arrays, PretrainedSource
from jaxmotion.systems.system import System, Table, Task
from jaxmotion.systems.video_diffusion import VideoDiffusion
from jaxmotion.weights import lora, lora_write
from jaxmotion.weights.config_fields import Difference, find_differences
from jaxmotion.weights.hub import is_here, locate
from jaxmotion.weights.lora_files import open_lora
from jaxmotion.weights.tables.process import HEADER_CONFIG

ATTENTION = (r"^denoiser/.*/(query|key|value|out)/kernel$",)
"""The projections of all attention layers of the denoiser."""


@register(fields={"of": "base"})
@dataclasses.dataclass(frozen=True)
class LoRA(System):
    """Another system, adapted by LoRA."""

    base: System
    """The system whose kernels are adapted."""
    rank: int = 8
    """Width between the two factors."""
    alpha: float = 8.0
    """The product of the factors counts alpha / rank."""
    paths: tuple[str, ...] = ATTENTION
    """Regular expressions searched in the paths of kernels, which end in `/kernel`; each must match at least one."""
    exportable: bool = True
    """Train nothing that LoRA files of others have no name for, so that the factors can be written alone. False: any
    kernels, and the factors can only be merged."""

    def __post_init__(self) -> None:
        _check(self.rank, self.alpha, self.paths)

    @property
    def frames(self) -> int:
        return self.base.frames

    @property
    def size(self) -> tuple[int, int]:
        return self.base.size

    @property
    def token_spec(self) -> tuple[int, int] | None:
        return self.base.token_spec

    @property
    def optional_entries(self) -> tuple[str, ...]:
        return self.base.optional_entries

    @property
    def required_entries(self) -> tuple[str, ...]:
        return self.base.required_entries

    @property
    def controls(self) -> Controls:
        return self.base.controls

    @property
    def guidable(self) -> Mapping[str, bool]:
        return self.base.guidable

    def exports(self) -> Mapping[str, Exporter]:
        """The factors alone, or what the adapted system can be written as, with the factors merged."""
        merged = {kind: _MergedExport(exporter) for kind, exporter in self.base.exports().items()}
        return {**merged, **(FACTOR_EXPORTS if self.exportable else {})}

    def check_start(self) -> None:
        """Raises ValueError if the factors could not be written after training, as `exportable` promises."""
        self.base.check_start()
        kernels = choose_kernels(jax.eval_shape(self.base.build().init, jax.random.key(0)), self.paths)
        nameless = lora_write.nameless_kernels(kernels) if self.exportable else []
        if nameless:
            raise ValueError(
                f"system.paths match {len(nameless)} of {len(kernels)} kernels for which LoRA files of others have no "
                f"name, such as {nameless[0]}: after training, lora-peft and lora-kohya could not be written. Narrow "
                "the paths, or give --system.no-exportable to merge this LoRA only."
            )

    def pretrained(self) -> Mapping[str, PretrainedSource]:
        return self.base.pretrained()

    def _resized(self, frames: int, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, base=self.base._resized(frames, size))

    def precomputable(self) -> Mapping[str, Precompute]:
        return self.base.precomputable()

    def idle_parts(self, entries: Collection[str]) -> frozenset[str]:
        """Those of the system, but for what the LoRA adapts."""
        idle = self.base.idle_parts(entries)
        if not idle:
            return idle
        shapes = jax.eval_shape(self.base.build().init, jax.random.key(0))
        return idle - {path.partition("/")[0] for path in choose_kernels(shapes, self.paths)}

    def build(self) -> LoRATask:
        """The adapted task; it can sample if the system's own can."""
        task = self.base.build()
        if isinstance(task, VideoDiffusion):
            return LoRADiffusion(task, self.rank, self.alpha, self.paths)
        return LoRATask(task, self.rank, self.alpha, self.paths)

    def measure_calibration(self, clips: Iterable[UInt8[Array, "B T H W 3"]]) -> Json:
        return self.base.measure_calibration(clips)

    def with_calibration(self, measured: Json) -> Self:
        return dataclasses.replace(self, base=self.base.with_calibration(measured))


@dataclasses.dataclass(frozen=True)
class _MergedExport:
    """An exporter of the adapted system, given the parameters with the factors merged."""

    base: Exporter

    @property
    def description(self) -> str:
        return self.base.description

    @property
    def fixes_controls(self) -> bool:
        return self.base.fixes_controls

    def __call__(self, job: ExportJob[LoRA]) -> list[Path]:
        # In float32: in the precision of a bfloat16 run, the sum would lose most of what was learned.
        params = job.system.build().merge(job.params, dtype=jnp.float32)
        return self.base(dataclasses.replace(job, system=job.system.base, params=params))


def _write_peft(job: ExportJob[LoRA]) -> list[Path]:
    return lora_write.export_lora(job.params[LORA], job.system.rank, job.system.alpha, "peft", job.destination)


def _write_kohya(job: ExportJob[LoRA]) -> list[Path]:
    return lora_write.export_lora(job.params[LORA], job.system.rank, job.system.alpha, "kohya", job.destination)


FACTOR_EXPORTS: Mapping[str, Exporter] = {
    "lora-peft": Export("the LoRA as diffusers and PEFT name it", _write_peft),
    "lora-kohya": Export("the LoRA as Kohya's scripts and ComfyUI name it", _write_kohya),
}
"""Exports of the factors alone."""


@register()
@dataclasses.dataclass(frozen=True)
class PretrainedLoRA(PretrainedSource):
    """A LoRA file in any layout. A system of LoRA trains it on; any other has it merged into its weights."""

    source: str = ""
    """A file, a folder of PEFT, or a repository of the Hugging Face hub as ORG/NAME:FILE; empty: none."""

    def load(self, system: System, shapes: Arrays, loaded: Arrays) -> Arrays:
        if not self.source:
            return {}
        path = locate(self.source)
        factors = _read_factors(path, shapes)
        if isinstance(system, LoRA):
            return _own_factors(system, factors, shapes, path)
        lacking = [kernel for kernel, _, _ in pairs(factors.params) if kernel not in loaded]
        if lacking:
            raise CheckpointFileError(
                f"{path} changes {len(lacking)} kernels, such as {lacking[0]}, that no other source gives "
                "weights for; give --pretrained.backbone.source, or what they belong to."
            )
        return lora.add(loaded, factors)

    def describe(self, system: System, shapes: Arrays) -> str:
        if not self.source:
            return ""
        what = "trained on" if isinstance(system, LoRA) else "merged"
        if not is_here(self.source):
            return f"{self.source}, fetched from the Hugging Face hub when training starts and {what}"
        path = locate(self.source)
        factors = _read_factors(path, shapes)
        if isinstance(system, LoRA):
            _own_factors(system, factors, shapes, path)
        scale = factors.alpha / factors.rank
        return f"{self.source}: a LoRA of rank {factors.rank}, each product times {scale:g}, {what}"

    def differences(self, values: Mapping[str, object], *, fetch: bool = True) -> list[Difference]:
        if not self.source or not (fetch or is_here(self.source)):
            return []
        return find_differences(open_lora(locate(self.source)), (HEADER_CONFIG,), values)


def _read_factors(path: Path, shapes: Arrays) -> lora.Factors:
    """Returns the factors in a file or folder for a system's kernels."""
    checkpoint = open_lora(path)
    base = {each: shape for each, shape in shapes.items() if not each.startswith(f"{LORA}/")}
    return lora.from_file(checkpoint, unflatten_dict(base, sep="/"), metadata=checkpoint.metadata, source=str(path))


def _own_factors(system: LoRA, factors: lora.Factors, shapes: Arrays, path: Path) -> Arrays:
    """Returns the factors of a file at the rank and alpha of a system of LoRA."""
    fitted = lora.refit(factors, system.rank, system.alpha, jax.random.key(0))
    found = {f"{LORA}/{path}": array for path, array in flatten_dict(fitted, sep="/").items()}
    others = [path for path in found if path not in shapes]
    if others:
        raise CheckpointFileError(
            f"{path} has factors for {len(others)} kernels that this LoRA leaves alone, such as "
            f"{others[0]}; widen system.paths."
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class LoRATask:
    """A task whose parameters are those of another one and the factors, `lora`."""

    base: Task
    rank: int
    alpha: float
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self.rank, self.alpha, self.paths)

    def init(self, key: Array) -> Params:
        """The task's own fresh parameters under this key, and factors whose products are zero."""
        params = self.base.init(key)
        if LORA in params:
            raise ValueError("The task has LoRA factors already. Merge those first, or train them on.")
        # Far from the numbers that the task's own init folds in or splits off.
        return {**params, LORA: fresh(choose_kernels(params, self.paths), self.rank, jax.random.fold_in(key, _SALT))}

    @functools.cached_property
    def sharding(self) -> Table:
        """The task's own table, after rules for the factors.

        A factor lies as its kernel does along the axes that they share and is whole along the rank, so each device
        makes its own part of the product from what it holds.
        """
        rules = [(re.compile(pattern), spec) for pattern, spec in self.base.sharding]
        alike: dict[tuple[str, P], list[str]] = {}
        shapes = jax.eval_shape(self.base.init, jax.random.key(0))
        for path, kernel in choose_kernels(shapes, self.paths).items():
            spec = next((spec for pattern, spec in rules if pattern.search(path)), P())
            layers, inputs, outputs = sides(path, (*spec, *(None,) * (len(kernel.shape) - len(spec))))
            alike.setdefault((DOWN, P(*layers, *inputs)), []).append(path)
            alike.setdefault((UP, P(*layers, None, *outputs)), []).append(path)
        factors = ((rf"^{LORA}/(?:{'|'.join(map(re.escape, p))})/{role}$", spec) for (role, spec), p in alike.items())
        return (*factors, *self.base.sharding)

    def attach(self, params: Params) -> dict[str, Any]:
        """Returns parameters of the task itself, each adapted kernel with its factors beside it."""
        base = {part: tree for part, tree in params.items() if part != LORA}
        return attach(base, params[LORA], self.alpha / self.rank)

    def merge(self, params: Params, scale: float | Array = 1.0, dtype: DTypeLike | None = None) -> dict[str, Any]:
        """Returns parameters of the task itself that do what the adapted ones do.

        Args:
            scale: weakens or strengthens the LoRA.
            dtype: of the adapted kernels; by default that of the kernels before.
        """
        base = {part: tree for part, tree in params.items() if part != LORA}
        return merge(base, params[LORA], scale * self.alpha / self.rank, dtype)

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Returns the task's own loss with adapted kernels."""
        return self.base.loss(self.attach(params), batch, key)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, as the model that it adapts
class LoRADiffusion(LoRATask):
    """An adapted video diffusion model."""

    base: VideoDiffusion

    def sample_latents(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Array, "B T h w C"]:
        """Returns the model's own latents with adapted kernels, as in training."""
        return self.base.sample_latents(self.attach(params), batch, keys, sampling, on_step)

    def decode(self, params: Params, z0: Float[Array, "B T h w C"]) -> Iterator[UInt8[Array, "B T H W 3"]]:
        """Pixels of latents, a few frames at a time where the codec can do so."""
        return self.base.decode(self.attach(params) if "codec" in params[LORA] else params, z0)


def _check(rank: int, alpha: float, paths: tuple[str, ...]) -> None:
    if rank < 1:
        raise ValueError(f"A LoRA's rank is at least 1; got {rank}.")
    if not alpha > 0:
        raise ValueError(f"A LoRA's alpha is above 0; got {alpha}.")
    if not paths:
        raise ValueError("A LoRA without paths adapts nothing; give at least one regular expression.")
    for pattern in paths:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"The LoRA path {pattern!r} is no regular expression: {error}.") from error


_SALT = zlib.crc32(LORA.encode())
