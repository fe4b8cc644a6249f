"""Parity of an exported pipeline with ours: both are run on the same inputs, part by part.

PyTorch, diffusers and transformers are imported only when something is verified.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Params

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Tensor

RELATIVE = 1e-4
"""The largest difference of a part's result, over the largest value of ours."""

Outputs = tuple[npt.ArrayLike, npt.ArrayLike]
"""(ours, reference): the output of our part and of its PyTorch counterpart, of the same shape."""


class VerificationError(ValueError):
    """An exported part differs from ours by more than it may; the message names it."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of an exported part from ours, or the reason why it was not measured.

    absolute, relative: the largest difference, and that over the largest value of ours.
    limit:    (which of the two, how large it may be).
    reason:   why the part was not verified; empty when it was.
    """

    absolute: float = 0.0
    relative: float = 0.0
    limit: tuple[str, float] = ("relative", RELATIVE)
    reason: str = ""

    def __str__(self) -> str:
        kind, most = self.limit
        return f"{getattr(self, kind):.1e} ({kind}; at most {most:.0e})"

    @property
    def status(self) -> str:
        """verified, not verified, or too large."""
        if self.reason:
            return "not verified"
        kind, most = self.limit
        return "verified" if getattr(self, kind) <= most else "too large"  # NaN is too large

    def to_json(self) -> Json:
        """Returns JSON values."""
        if self.reason:
            return {"status": self.status, "reason": self.reason}
        kind, most = self.limit
        return {
            "status": self.status,
            "largest_absolute_difference": self.absolute,
            "largest_relative_difference": self.relative,
            "limit": {kind: most},
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """The differences by part, and the versions that were compared."""

    parts: Mapping[str, Difference]
    versions: Mapping[str, str]

    def to_json(self) -> Json:
        """Returns JSON values."""
        return {
            "versions": dict(self.versions),
            "inputs": "random, float32; relative to the largest value of jaxmotion's result",
            "parts": {name: part.to_json() for name, part in self.parts.items()},
        }

    def check(self, path: Path) -> None:
        """Raises VerificationError if a part differs by more than it may; `path` is where the report is."""
        worst = {name: part for name, part in self.parts.items() if part.status == "too large"}
        if worst:
            said = "; ".join(f"{name} by {part}" for name, part in worst.items())
            raise VerificationError(f"The export differs from the trained system: {said}. See {path}.")


def unverified_report(parts: Iterable[str], reason: str) -> Report:
    """Returns the report when nothing was run."""
    return Report({name: Difference(reason=reason) for name in parts}, versions())


class ParityCheck:
    """A system and the pipeline it was exported to.

    A subclass has one method per part, of the part's name, that runs it in both and returns `Outputs`.
    """

    def __init__(self, params: Params, pipe: Any):
        self._params, self.pipe = params, pipe
        self.rng = np.random.default_rng(0)

    def reason(self, part: str) -> str:
        """Returns why a part cannot be compared; empty if it can."""
        del part
        return ""

    def limit(self, part: str) -> tuple[str, float]:
        """Returns the largest difference of a part that is allowed: ("relative" or "absolute", the number)."""
        del part
        return "relative", RELATIVE

    def params(self, *parts: str) -> Params:
        """Returns these parts of the parameters, or all parts, in float32."""
        return {
            part: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
            for part, tree in self._params.items()
            if part in parts or not parts
        }

    def normal(self, *shape: int) -> jax.Array:
        """Returns random inputs."""
        return jnp.asarray(self.rng.normal(size=shape), jnp.float32)

    @staticmethod
    def torch(array: npt.ArrayLike) -> Tensor:
        """Returns the same values as a PyTorch tensor."""
        import torch

        return torch.from_numpy(np.array(array))


def verify(
    folder: Path,
    parts: Iterable[str],
    check_of: Callable[[DiffusionPipeline], ParityCheck],
    **loading: str | bool | None,
) -> Report:
    """Runs an exported folder beside the system it came from.

    Every part is "not verified" without PyTorch, and so are those for which there is not enough memory.

    Args:
        parts: the parts to run, by their methods of the check.
        check_of: makes the check from the loaded pipeline.
        loading: arguments of `from_pretrained`.
    """
    parts = list(parts)
    try:
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    except ImportError as error:
        return unverified_report(parts, f"{error.name} is not installed")
    pipe = DiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32, **loading)
    pipe.set_progress_bar_config(disable=True)
    check, found = check_of(pipe), {}
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        for name in tqdm(parts, desc="verifying", unit="part", leave=False, disable=None):
            if reason := check.reason(name):
                found[name] = Difference(reason=reason)
                continue
            try:
                ours, reference = getattr(check, name)()
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                found[name] = Difference(reason="there is not enough memory to run it in float32")
                continue
            found[name] = difference(ours, reference, check.limit(name))
    return Report(found, versions())


def difference(
    ours: npt.ArrayLike, reference: npt.ArrayLike, limit: tuple[str, float] = ("relative", RELATIVE)
) -> Difference:
    """Returns how far two outputs are apart."""
    mine, other = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if mine.shape != other.shape:
        raise VerificationError(f"Our result is {list(mine.shape)}, that of PyTorch is {list(other.shape)}.")
    largest = float(np.abs(mine - other).max())
    return Difference(largest, largest / (float(np.abs(mine).max()) or 1.0), limit)


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that parity depends on."""
    found = {}
    for name in ("jaxmotion", "jax", "flax", "torch", "diffusers", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
