"""The mesh: the devices of a run laid out along the axes `data, fsdp, context, tensor`.

`data` and `fsdp` both split the batch; `fsdp` also splits the parameters, `context` splits frames or tokens, `tensor`
splits features. A single device is the smallest mesh, so there is one code path for one device and for a pod.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from jaxmotion.foundation.config_json import register

AXES = ("data", "fsdp", "context", "tensor")


class Device(Protocol):
    """A device of JAX's, or one to be."""

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        ...


@register()
@dataclasses.dataclass(frozen=True)
class MeshSizes:
    """Devices along each axis. One size may be -1: it takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"Mesh sizes {self.text()} will not do: each is 1 or more, and at most one is -1 (fill).")

    def text(self) -> str:
        """Returns the sizes as text, e.g. `data 2 x fsdp 4 x context 1 x tensor 1`."""
        return " x ".join(f"{axis} {size}" for axis, size in dataclasses.asdict(self).items())

    def fill(self, device_count: int) -> tuple[int, ...]:
        """Returns the sizes in the order of `AXES`, with -1 replaced so that their product is `device_count`."""
        sizes = dataclasses.astuple(self)
        fixed = math.prod(size for size in sizes if size != -1)
        filled = tuple(device_count // fixed if size == -1 else size for size in sizes)
        if math.prod(filled) != device_count:
            raise ValueError(
                f"The mesh {self.text()} does not fit {device_count} devices: the product of the sizes must be "
                f"{device_count}, or one size -1 and the product of the others a divisor of {device_count}."
            )
        return filled


def make_mesh(sizes: MeshSizes | None = None, devices: Sequence[Device] | None = None) -> Mesh:
    """Returns the mesh of `devices` (default: all devices of all processes), with compiler-propagated (Auto) axes."""
    devices = jax.devices() if devices is None else devices
    shape = (sizes or MeshSizes()).fill(len(devices))
    return Mesh(arrange(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_abstract_mesh(sizes: MeshSizes, device_count: int) -> AbstractMesh:
    """Returns a mesh of devices that are not here: enough to lay out shardings and count bytes, not to run."""
    return AbstractMesh(sizes.fill(device_count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices: Sequence[Device], shape: tuple[int, ...]) -> np.ndarray:
    """Arranges `devices` as an array of `shape`, neighbours in the mesh being neighbours in the network.

    Slices (groups of devices joined only by the slower data-centre network) are laid along `data`, whose traffic is
    one reduction of the gradients a step; the other axes stay inside a slice.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices == 0:
        inside = (shape[0] // slices, *shape[1:])
        across = (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    if devices[0].platform == "tpu":
        raise ValueError(
            f"{slices} slices need a `data` size that is a multiple of {slices}; it is {shape[0]}. "
            "Slices are joined by the data-centre network, which only the data axis should cross."
        )
    return np.asarray(devices, dtype=object).reshape(shape)
