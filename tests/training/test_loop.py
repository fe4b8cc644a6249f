import dataclasses
import json
import os
import re
import resource
import signal
import time

import grain
import jax
import numpy as np
import pytest

from jaxmotion.foundation.errors import ConfigChangedError, NotFiniteError, SaveError
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.training import loop
from jaxmotion.training.restore import latest_step, restore_params
from tests.support.toy import Toy, loader, meta, row, settings


def train(config, directory, *, task=None, data=None, **more):
    return loop.run(
        task or Toy(), config, make_mesh(), loader() if data is None else data, directory, meta=meta(config), **more
    )


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(first, second):
    for weights in ("ema", "raw"):
        pair = (restore_params(first, weights=weights), restore_params(second, weights=weights))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *pair)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    seen = []

    def on_sample(params, step):
        seen.append((step, params["codec"], np.array(params["head"]["kernel"])))

    config = settings(tensorboard=True, sample_every=6)
    return directory, train(config, directory, on_sample=on_sample), seen


def test_a_run_learns_and_leaves_everything_in_its_folder(whole):
    directory, result, _ = whole
    assert (result.step, result.stopped, result.skipped) == (12, False, 0)
    assert result.compile_seconds > 0
    assert [row["step"] for row in rows(directory)] == [2, 4, 6, 8, 10, 12]
    assert rows(directory)[-1]["loss"] < 0.8 * rows(directory)[0]["loss"]
    assert {"grad_norm", "learning_rate", "size", "step_seconds", "clips_per_second"} <= rows(directory)[0].keys()
    assert json.loads((directory / "config.json").read_text())["train"]["steps"] == 12
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert list((directory / "tensorboard").iterdir())


def test_samples_get_the_running_mean_and_all_parts(whole):
    directory, _, seen = whole
    assert [(step, codec) for step, codec, _ in seen] == [(6, {}), (12, {})]
    np.testing.assert_array_equal(seen[1][2], restore_params(directory, weights="ema")["head"]["kernel"])
    assert not np.array_equal(seen[1][2], restore_params(directory, weights="raw")["head"]["kernel"])


def test_a_run_in_two_parts_is_the_run_in_one(whole, tmp_path):
    first = train(settings(steps=7), tmp_path)
    assert first.step == 7
    second = train(settings(), tmp_path)
    assert second.step == 12
    assert_same_weights(tmp_path, whole[0])
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6, 7, 8, 10, 12]
    assert rows(tmp_path)[-1]["loss"] == rows(whole[0])[-1]["loss"]
    third = train(settings(), tmp_path)
    assert (third.step, third.loss, third.stopped) == (12, None, False)


def test_sigterm_saves_and_the_next_start_goes_on(whole, tmp_path, capsys):
    def on_sample(params, step):
        os.kill(os.getpid(), signal.SIGTERM)

    result = train(settings(sample_every=5, save_every=100), tmp_path, on_sample=on_sample)
    assert (result.step, result.stopped) == (6, True)
    assert latest_step(tmp_path) == 6
    assert "SIGTERM came: saved step 6 of 12" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(settings(save_every=100), tmp_path)
    assert_same_weights(tmp_path, whole[0])


def test_another_configuration_is_refused_and_harmless_changes_are_not(whole):
    with pytest.raises(ConfigChangedError) as caught:
        train(settings(learning_rate=1e-3, log_every=7), whole[0])
    assert "train/learning_rate was 0.03 and is now 0.001" in str(caught.value)
    assert "log_every" not in str(caught.value)
    assert train(settings(log_every=7, keep=1), whole[0]).step == 12


def test_steps_that_are_not_finite_are_skipped_then_stop_the_run(tmp_path):
    class Poisoned:
        """The toy data with batches of NaN from the fifth on."""

        def __init__(self, good):
            self.inner, self.good, self.given = loader(), good, 0
            self.get_state, self.set_state = self.inner.get_state, self.inner.set_state

        def __next__(self):
            self.given += 1
            batch = next(self.inner)
            return batch if self.given in self.good else {"x": np.full_like(batch["x"], np.nan)}

    config = settings(nonfinite_limit=3, save_every=100)
    with pytest.raises(NotFiniteError, match=r"3 steps in a row, up to step 8"):
        train(config, tmp_path, data=Poisoned({1, 3, 4, 5}))
    logged = rows(tmp_path)
    assert [row["skipped"] for row in logged] == [1, 1, 2, 4]
    assert logged[3]["loss"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_data_that_will_not_do_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"'x' is \(4, 16\); its first axis must be 8"):
        train(settings(), tmp_path / "rows", data=loader(rows=4))
    few = iter(grain.MapDataset.range(20).map(row).batch(8, drop_remainder=True).to_iter_dataset())
    with pytest.raises(ValueError, match="ended after 2 of 12 steps"):
        train(settings(), tmp_path / "few", data=few)
    with pytest.raises(ValueError, match="no get_state"):
        train(settings(), tmp_path / "list", data=iter([row(0)]))


@pytest.fixture
def file_limit():
    """Sets how large a file may grow, the nearest thing to a full disk that needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a failed write leaves behind
@pytest.mark.parametrize(
    ("size", "message"),
    [(1, "metrics.jsonl could not be written"), (3000, "step 8 could not be written .*step 4 is intact")],
)
def test_a_full_disk_ends_the_run_with_one_message_and_loses_nothing(tmp_path, file_limit, capfd, size, message):
    def on_sample(params, step):
        while not (tmp_path / "run" / "checkpoints" / "4" / "checksums.json").is_file():
            time.sleep(0.05)
        file_limit(size)

    directory = tmp_path / "run"
    with pytest.raises(SaveError) as caught:
        train(settings(sample_every=6, log_every=4), directory, on_sample=on_sample)
    file_limit(resource.RLIM_INFINITY)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    assert latest_step(directory) == 4
    result = train(settings(), directory)
    assert result.step == 12


def test_the_loop_needs_no_running_mean_and_no_samples(tmp_path):
    config = settings(ema_decay=0.0, steps=2, sample_every=1)
    assert train(config, tmp_path).step == 2
    live, mean = restore_params(tmp_path, weights="raw"), restore_params(tmp_path, weights="ema")
    np.testing.assert_array_equal(live["head"]["kernel"], mean["head"]["kernel"])


def test_results_are_plain_values(whole):
    assert json.loads(json.dumps(dataclasses.asdict(whole[1])))["step"] == 12
