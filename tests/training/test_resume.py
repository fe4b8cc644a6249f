import json

import pytest

from jaxmotion.foundation.errors import ConfigChangedError
from jaxmotion.runs.experiment import load, to_json
from jaxmotion.training.resume import check_continues, differences

BEFORE = {
    "train": {"steps": 10, "batch_size": 8, "betas": [0.9, 0.999]},
    "mesh": {"data": -1},
    "codec": {"factor": 8},
    "sampling": {"sampler": {"steps": 50}, "guidance": 6.0},
    "prompts": ["a cat"],
}


@pytest.fixture
def run_folder(tmp_path):
    """A folder with a configuration and something that looks like a complete checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(BEFORE))
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    return tmp_path


def changed(**paths):
    now = {name: dict(part) if isinstance(part, dict) else part for name, part in BEFORE.items()}
    for path, value in paths.items():
        part, name = path.split("__")
        now.setdefault(part, {})[name] = value
    return now


def test_more_steps_and_another_mesh_go_on(run_folder):
    check_continues(run_folder, changed(train__steps=20, mesh__data=4, train__log_every=3))


def test_how_clips_are_sampled_may_change(run_folder):
    now = {**BEFORE, "sampling": {"sampler": {"steps": 4, "eta": 1.0}, "guidance": 1.0}, "prompts": ["a dog", "a cat"]}
    check_continues(run_folder, now)


def test_a_field_that_is_new_since_then_counts_as_at_its_default(tmp_path, root):
    config = to_json(load(f"{root}/configs/motionstone.py:smoke"))
    older = json.loads(json.dumps(config))
    del older["data"]["speed_law"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    check_continues(tmp_path, config)
    config["data"]["speed_law"] = "uniform"
    with pytest.raises(ConfigChangedError, match='data/speed_law was "log" and is now "uniform"'):
        check_continues(tmp_path, config)


def test_tuples_and_lists_are_the_same_value(run_folder):
    check_continues(run_folder, changed(train__betas=(0.9, 0.999)))


def test_each_change_is_named_with_both_values(run_folder):
    with pytest.raises(ConfigChangedError) as caught:
        check_continues(run_folder, changed(train__batch_size=16, codec__name="kl"))
    text = str(caught.value)
    assert "train/batch_size was 8 and is now 16" in text
    assert 'codec/name was nothing and is now "kl"' in text
    assert "steps" not in text


def test_what_may_change_can_be_widened(run_folder):
    check_continues(run_folder, changed(codec__spatial_compression=4), may_change=(r"^codec/",))


def test_before_the_first_checkpoint_anything_goes(run_folder):
    (run_folder / "checkpoints" / "4").rmdir()
    check_continues(run_folder, changed(train__batch_size=16))


def test_differences_go_down_to_the_leaf():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}) == [("a/c", "2", "nothing")]
    assert differences({"a": {"b": 1}}, {"a": [1]}) == [("a", '{"b": 1}', "[1]")]
