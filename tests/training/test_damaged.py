"""A damaged checkpoint is named and set aside, and the one before is taken; nothing damaged is used in silence."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest

from jaxmotion.foundation.errors import CheckpointError
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.training import loop
from jaxmotion.training.checksums import CHECKSUMS, find_damage
from jaxmotion.training.restore import latest_step, newest_intact_step, restore_params, restore_with_step
from tests.support.toy import Toy, loader, meta, settings


def train(directory, steps=12):
    config = settings(steps=steps)
    return loop.run(Toy(), config, make_mesh(), loader(), directory, meta=meta(config))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with checkpoints of steps 4, 8 and 12."""
    directory = tmp_path_factory.mktemp("whole")
    train(directory)
    return directory


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES = {
    "metadata cut": lambda step: cut(step / "trained" / "_METADATA"),
    "manifest gone": lambda step: (step / "optimizer" / "manifest.ocdbt").unlink(),
    "position cut": lambda step: cut(step / "data" / "process_0-of-1.json"),
    "meta cut": lambda step: cut(step / "meta" / "metadata"),
    "part gone": lambda step: shutil.rmtree(step / "trained"),
    "bit flipped": lambda step: flip(largest(step / "trained" / "ocdbt.process_0" / "d")),
    "array gone": lambda step: largest(step / "ema" / "ocdbt.process_0" / "d").unlink(),
}


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_without_checksums_what_can_be_seen(copied, damage, sums):
    for path in [] if sums else copied.rglob(CHECKSUMS):  # earlier versions wrote none
        path.unlink()
    DAMAGES[damage](copied / "checkpoints" / "12")
    seen = sums or damage not in ("bit flipped", "array gone")
    assert newest_intact_step(copied) == (8 if seen else 12)


@pytest.mark.parametrize("damage", ["bit flipped", "metadata cut"])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_ends_as_it_would_have(whole, copied, damage, caplog):
    DAMAGES[damage](copied / "checkpoints" / "12")
    assert restore_with_step(copied, weights="raw")[1] == 8
    with caplog.at_level(logging.WARNING):
        result = train(copied)
    assert result.step == 12
    assert (copied / "damaged" / "12").is_dir()
    assert "12 is damaged: " in caplog.text
    assert "goes on from step 8" in caplog.text
    for weights in ("ema", "raw"):
        pair = (restore_params(whole, weights=weights), restore_params(copied, weights=weights))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *pair)
    assert newest_intact_step(copied) == 12


def test_without_checksums_an_array_that_is_gone_is_one_named_error(copied):
    for path in copied.rglob(CHECKSUMS):
        path.unlink()
    DAMAGES["array gone"](copied / "checkpoints" / "12")
    with pytest.raises(CheckpointError, match=r"checkpoints/12(/ema)? cannot be read"):
        train(copied, steps=13)
    with pytest.raises(CheckpointError, match=r"checkpoints/12/ema cannot be read"):
        restore_params(copied)


def test_reading_parameters_takes_the_one_before_and_looks_only_at_what_it_reads(copied, caplog):
    DAMAGES["bit flipped"](copied / "checkpoints" / "12")
    restore_params(copied, weights="ema")
    assert not caplog.records
    restore_params(copied, weights="raw")
    assert "checkpoints/12 is damaged: trained/" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoints/12 is damaged: trained/.*checksum differs"):
        restore_params(copied, step=12, weights="raw")
    assert latest_step(copied) == 12  # reading moves nothing


def test_when_all_are_damaged_nothing_is_moved_and_training_does_not_begin_anew(copied):
    for step in (4, 8, 12):
        DAMAGES["bit flipped"](copied / "checkpoints" / str(step))
    for use in (train, lambda directory: restore_params(directory, weights="raw")):
        with pytest.raises(CheckpointError, match=r"All 3 checkpoints in .* are damaged; in that of step 4, trained/"):
            use(copied)
    assert not (copied / "damaged").exists()


def test_damaged_frozen_parameters_are_named(copied):
    flip(largest(copied / "frozen"))
    for use in (lambda directory: train(directory, steps=13), restore_params):
        with pytest.raises(CheckpointError, match=r"frozen.* (is|are) damaged: .*checksum differs"):
            use(copied)


def test_checksums_that_are_no_longer_whole_are_a_damage(copied):
    folder = copied / "checkpoints" / "12"
    sums = json.loads((folder / CHECKSUMS).read_text())
    assert {name.split("/")[0] for name in sums} >= {"trained", "ema", "optimizer", "counters", "data", "meta"}
    for content in ("{", "[]", '{"a": 1}'):
        (folder / CHECKSUMS).write_text(content)
        assert find_damage(folder).startswith(f"{CHECKSUMS} cannot be read")
