from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmotion.parallel.mesh import AXES, MeshSizes, make_abstract_mesh, make_mesh
from jaxmotion.parallel.sharding import (
    BATCH_AXES,
    batch_sharding,
    batch_shards,
    constrain,
    distribute,
    place,
    placements,
    process_slice,
    shardings,
)

MESH = make_abstract_mesh(MeshSizes(data=2, fsdp=4, tensor=2), 16)
RULES = ((r"attention/.*kernel$", P("fsdp", "tensor")), (r"kernel$", P(None, "fsdp")), (r".*", P()))


def test_the_first_rule_that_matches_gives_the_layout():
    assert place("unet/attention/query/kernel", (8, 8), RULES, MESH).spec == P("fsdp", "tensor")
    assert place("unet/conv/kernel", (8, 8), RULES, MESH).spec == P(None, "fsdp")
    assert place("unet/conv/bias", (8,), RULES, MESH).spec == P()


def test_an_axis_that_does_not_divide_is_left_out_and_reported():
    placed = place("attention/kernel", (8, 7), RULES, MESH)
    assert placed.spec == P("fsdp", None)
    assert placed.dropped == ("tensor does not divide 7",)
    both = place("kernel", (12,), ((r".*", P(("fsdp", "tensor"))),), MESH)
    assert both.spec == P(None)
    assert both.dropped == ("fsdp+tensor does not divide 12",)


def test_a_path_that_no_rule_matches_is_named():
    tree = {"unet": {"conv": {"kernel": np.zeros((4, 4))}, "gate": np.zeros(())}}
    with pytest.raises(ValueError, match=r"No sharding rule matches unet/gate\. .*'\.\*', P\(\)"):
        placements(tree, RULES[:2], MESH)


def test_rules_that_cannot_fit_an_array_are_refused():
    with pytest.raises(ValueError, match="'kernel' names 2 dimensions; the array has 1"):
        place("kernel", (4,), RULES, MESH)
    with pytest.raises(ValueError, match="names the mesh axis 'model'"):
        place("kernel", (4,), ((".*", P("model")),), MESH)


def test_a_tree_of_shapes_gets_a_tree_of_layouts():
    tree = {"attention": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}, "codec": {}, "scale": np.zeros(3)}
    laid = shardings(tree, RULES, MESH)
    assert laid["codec"] == {}
    assert laid["attention"]["kernel"].shard_shape((8, 8)) == (2, 4)
    assert laid["scale"].shard_shape((3,)) == (3,)


def test_rows_of_a_batch_are_split_over_data_and_fsdp():
    assert batch_shards(MESH) == 8
    assert batch_sharding(MESH).shard_shape((16, 3)) == (2, 3)


def test_constrain_is_inert_only_without_a_mesh():
    def double(x):
        return constrain(x * 2, BATCH_AXES, "tensor")

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    assert "sharding_constraint" not in jax.jit(double).lower(x).as_text()
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert jax.jit(double).lower(x).as_text().count("sharding_constraint") == 1


def mesh_of(processes):
    """A mesh [data fsdp context tensor] whose devices belong to the processes given."""
    devices = np.vectorize(lambda process: SimpleNamespace(process_index=process))(np.asarray(processes))
    return SimpleNamespace(devices=devices, shape=dict(zip(AXES, devices.shape, strict=True)))


def shares(mesh, count, monkeypatch):
    found = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(process_slice(mesh))
    return found


def test_each_process_loads_its_own_rows(monkeypatch):
    mesh = mesh_of(np.arange(4).repeat(2).reshape(4, 2, 1, 1))
    assert shares(mesh, 4, monkeypatch) == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_processes_that_share_rows_load_the_same(monkeypatch):
    mesh = mesh_of(np.arange(4).reshape(2, 1, 1, 2))  # the tensor axis crosses processes
    assert shares(mesh, 4, monkeypatch) == [(0, 2), (0, 2), (1, 2), (1, 2)]


def test_processes_with_overlapping_rows_are_refused():
    mesh = mesh_of(np.asarray([0, 0, 1, 0, 1, 1]).reshape(3, 1, 1, 2))
    with pytest.raises(ValueError, match="overlapping or unequal"):
        process_slice(mesh)


def test_a_distributed_batch_is_the_batch():
    batch = {"video": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "fps": np.ones(2, np.float32)}
    spread = distribute(batch, make_mesh(devices=jax.devices()[:1]))
    for name, array in batch.items():
        np.testing.assert_array_equal(np.asarray(spread[name]), array)
        assert spread[name].dtype == array.dtype
