import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxmotion.parallel.mesh import AXES, MeshSizes, arrange, make_abstract_mesh, make_mesh


@pytest.mark.parametrize(
    ("sizes", "count", "shape"),
    [
        (MeshSizes(), 8, (8, 1, 1, 1)),
        (MeshSizes(fsdp=4), 8, (2, 4, 1, 1)),
        (MeshSizes(data=2, fsdp=-1, tensor=2), 16, (2, 4, 1, 2)),
        (MeshSizes(data=1), 1, (1, 1, 1, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(sizes, count, shape):
    assert sizes.fill(count) == shape


def test_sizes_that_do_not_fit_say_what_would():
    with pytest.raises(ValueError, match=r"data 3 x fsdp 1 x context 1 x tensor 1 does not fit 8 devices.*must be 8"):
        MeshSizes(data=3).fill(8)
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        MeshSizes(fsdp=3).fill(8)
    with pytest.raises(ValueError, match="at most one is -1"):
        MeshSizes(fsdp=-1)
    with pytest.raises(ValueError, match="each is 1 or more"):
        MeshSizes(data=0)


def test_one_device_is_a_mesh_with_all_axes_left_to_the_compiler():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert mesh.axis_names == AXES
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert set(make_abstract_mesh(MeshSizes(fsdp=64), 256).axis_types) == {AxisType.Auto}


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as its place in a mesh depends on."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "fake"
    process_index: int = 0


def test_slices_lie_along_the_data_axis():
    devices = [Device(index, slice_index=index // 4) for index in range(8)]
    mesh = arrange(devices, (4, 2, 1, 1))
    slices = np.vectorize(lambda device: device.slice_index)(mesh)
    assert {tuple(row) for row in slices.reshape(4, 2)} == {(0, 0), (1, 1)}
    assert len({device.id for device in mesh.flat}) == 8


def test_slices_that_the_data_axis_cannot_hold_are_refused_on_tpu_only():
    devices = [Device(index, slice_index=index // 4, platform="tpu") for index in range(8)]
    with pytest.raises(ValueError, match="2 slices need a `data` size that is a multiple of 2; it is 1"):
        arrange(devices, (1, 8, 1, 1))
    devices = [Device(index, slice_index=index // 4, platform="gpu") for index in range(8)]
    assert arrange(devices, (1, 8, 1, 1)).shape == (1, 8, 1, 1)
