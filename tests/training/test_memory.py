import dataclasses
import io
import json

import jax
import pytest
from rich.console import Console

from jaxmotion.parallel.mesh import MeshSizes, make_abstract_mesh, make_mesh
from jaxmotion.training.memory import bytes_per_device, memory_report, size_text
from jaxmotion.training.step import build_program
from tests.support.toy import HIDDEN, WIDTH, Toy, settings

KERNEL, BIAS, ENCODER = WIDTH * HIDDEN * 4, HIDDEN * 4, WIDTH * WIDTH * 4
EIGHT = make_abstract_mesh(MeshSizes(data=2, fsdp=2, tensor=2), 8)


def test_bytes_by_hand_for_devices_that_are_not_here():
    plan = memory_report(Toy(), settings(), EIGHT)
    trained = 2 * KERNEL // 4 + BIAS
    assert plan.master == plan.ema == plan.gradients == trained
    assert plan.optimizer == 2 * trained + 8
    assert plan.frozen == ENCODER + 3 * 4
    assert (plan.trained_parameters, plan.frozen_parameters) == (2 * WIDTH * HIDDEN + HIDDEN, WIDTH * WIDTH + 3)
    assert plan.compute == 0
    assert plan.total == 2 * trained + plan.optimizer + plan.frozen + trained


def test_bfloat16_halves_the_frozen_and_copies_the_trained():
    plan = memory_report(Toy(), settings(precision="bfloat16", accumulate=2, batch_size=8), EIGHT)
    assert plan.frozen == ENCODER // 2 + 3 * 4
    assert plan.compute == plan.master // 2
    assert plan.gradients == 2 * plan.master


def test_frozen_parameters_cost_no_gradient_optimiser_or_running_mean():
    plan = memory_report(Toy(), settings(trained=("head",)), EIGHT)
    assert plan.master == plan.ema == plan.gradients == KERNEL // 4
    assert plan.optimizer == 2 * KERNEL // 4 + 8


def test_the_estimate_is_what_the_state_really_takes():
    state = build_program(Toy(), settings(), make_mesh()).initialise()
    plan = memory_report(Toy(), settings(), make_mesh())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.trained, state.frozen, state.ema, state.optimizer)))
    assert plan.state == held == bytes_per_device((state.trained, state.frozen, state.ema, state.optimizer))


def test_working_memory_of_the_compiled_step_holds_at_least_the_activations():
    rows = 4096
    batch = {"x": jax.ShapeDtypeStruct((rows, WIDTH), "float32")}
    plan = memory_report(Toy(), settings(batch_size=rows), make_mesh(), batch)
    assert plan.working is not None
    assert plan.working >= rows * HIDDEN * 4  # the hidden layer is needed again going back
    assert plan.total == plan.state + plan.working
    with pytest.raises(ValueError, match="real devices"):
        memory_report(Toy(), settings(batch_size=rows), EIGHT, batch)


def test_groups_name_paths_shapes_layouts_and_what_does_not_divide():
    plan = memory_report(
        Toy(hidden=30), settings(), make_abstract_mesh(MeshSizes(data=1, fsdp=2, tensor=4), 8), depth=1
    )
    groups = {group.path: group for group in plan.groups}
    assert groups["body"].trained
    assert groups["body"].shape is None
    assert groups["body"].sharding == ("(fsdp, -)", "whole")
    assert groups["body"].dropped == ("tensor does not divide 30",)
    assert groups["head/kernel"].shape == (30, WIDTH)
    assert not groups["encoder"].trained
    assert groups["body"].bytes_per_device == WIDTH * 30 * 4 // 2 + 30 * 4


def test_tables_and_json_tell_it_all():
    plan = memory_report(Toy(hidden=30), settings(), make_abstract_mesh(MeshSizes(data=1, fsdp=2, tensor=4), 8))
    out = io.StringIO()
    console = Console(file=out, width=160)
    for table in plan.tables():
        console.print(table)
    text = out.getvalue()
    assert "body/kernel" in text
    assert "[tensor does not divide 30]" in text
    assert "data 1 x fsdp 2 x context 1 x tensor 4" in text
    assert "optimiser" in text
    assert json.loads(json.dumps(plan.as_json()))["total"] == plan.total
    assert dataclasses.asdict(plan)["working"] is None


def test_sizes_as_people_read_them():
    assert [size_text(size) for size in (12, 2048, 3 << 29)] == ["12 B", "2.0 KiB", "1.5 GiB"]
