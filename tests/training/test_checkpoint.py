import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmotion.foundation.errors import CheckpointError
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.training.checkpoint import Checkpoints
from jaxmotion.training.restore import check_fit, latest_step, restore_params, root_cause
from jaxmotion.training.step import build_program
from tests.support.toy import Toy, batch, loader, settings

LARGE = 60_000  # 15 MB of float32 in all trees together


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, copies of the states by step, program): steps 1 and 2, saved while training went on."""
    directory = tmp_path_factory.mktemp("run")
    program = build_program(Toy(hidden=LARGE), settings(), make_mesh())
    data, copies = loader(), {}
    checkpoints = Checkpoints(directory, keep=3)
    state = program.initialise()
    checkpoints.save_frozen(state)
    for step in (1, 2):
        state, _ = program.update(state, next(data))
        copies[step] = jax.tree.map(np.array, state), data.get_state()
        checkpoints.save(step, state, data)
        for seed in range(4):  # these take the memory of the state that is being written
            state, _ = program.update(state, batch(seed=seed))
    checkpoints.close()
    return directory, copies, program


def assert_same(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), first, second)


@pytest.mark.parametrize("step", [1, 2])
def test_what_is_saved_is_the_state_when_save_was_called(saved, step):
    directory, copies, program = saved
    checkpoints, data = Checkpoints(directory, keep=3), loader()
    state = checkpoints.restore(step, program.abstract, data)
    checkpoints.close()
    assert_same(state, copies[step][0])
    assert data.get_state() == copies[step][1]


def test_params_for_use_are_the_running_mean_or_the_live_ones_with_all_parts(saved):
    directory, copies, _ = saved
    state = copies[2][0]
    for weights, trained in (("ema", state.ema), ("raw", state.trained)):
        params = restore_params(directory, weights=weights)
        assert params["codec"] == {}
        assert_same({name: params[name] for name in trained}, trained)
        assert_same(params["encoder"], state.frozen["encoder"])
    assert_same(restore_params(directory, step=1, weights="raw")["head"], copies[1][0].trained["head"])


def test_params_can_be_laid_out_over_a_mesh(saved):
    mesh = make_mesh(MeshSizes(fsdp=1))
    params = restore_params(saved[0], mesh=mesh, rules=((".*kernel$", P("fsdp")), (".*", P())))
    assert params["head"]["kernel"].sharding.spec == P("fsdp")


def test_asking_for_what_is_not_there_says_what_is(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint; train first"):
        restore_params(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; it holds 1, 2"):
        restore_params(saved[0], step=7)
    with pytest.raises(ValueError, match="'ema' or 'raw'"):
        restore_params(saved[0], weights="best")
    assert latest_step(tmp_path / "nowhere") is None


def test_another_model_is_refused_by_name(saved):
    wanted = {
        "body": {
            "kernel": jax.ShapeDtypeStruct((16, 8), jnp.float32),
            "bias": jax.ShapeDtypeStruct((LARGE,), jnp.float32),
        },
        "tail": {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)},
    }
    with pytest.raises(CheckpointError) as caught:
        check_fit(saved[0] / "checkpoints" / "2" / "trained", wanted)
    text = str(caught.value)
    assert f"body/kernel is (16, {LARGE}) in the checkpoint and (16, 8) in the model" in text
    assert "tail/kernel is not in the checkpoint" in text
    assert "head/kernel is only in the checkpoint" in text
    assert "body/bias" not in text


def test_another_number_of_processes_is_refused(saved, monkeypatch):
    directory, _, program = saved
    checkpoints = Checkpoints(directory, keep=3)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(CheckpointError, match=r"saved by 1 process\(es\) and this run has 2"):
        checkpoints.restore(2, program.abstract, loader())
    monkeypatch.undo()
    checkpoints.close()


def test_reasons_are_short_and_plain():
    system = (
        'OUT_OF_RANGE: Error writing "a" in OCDBT database at "/d": Failed writing: "/d/x": '
        "Failed to write 5 bytes to file 11: File too large [os_error_code='27']"
    )
    assert root_cause(ValueError(system)) == "File too large"
    full = ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")
    assert root_cause(full) == "no space is left on the disk"
    outer = RuntimeError("could not")
    outer.__cause__ = OSError(13, "Permission denied")
    assert "Permission denied" in root_cause(outer)
