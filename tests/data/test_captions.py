"""Captions on their way into batches and precomputed sets."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from jaxmotion.data.clips import Clips
from jaxmotion.data.loader import batches
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.runs import precompute

MANY = ("one", "two", "three", "four")
TOKENIZE = HashTokenizer(4096, 4)


@pytest.fixture(scope="module")
def folder(write, tmp_path_factory):
    """A clip of four captions and two of one."""
    folder = tmp_path_factory.mktemp("clips")
    for name in "abc":
        write(folder / f"{name}.mp4", frames=24, size=(16, 16))
    table = [{"file_name": "a.mp4", "text": MANY}, *({"file_name": f"{name}.mp4", "text": name} for name in "bc")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, table)))
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return Clips(str(folder), frames=4, size=(16, 16)).open()


def test_one_of_several_captions_is_drawn_each_time(source):
    drawn = [source.load(0, np.random.default_rng(seed))["caption"] for seed in range(200)]
    counts = {caption: drawn.count(caption) for caption in MANY}
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 30
    assert drawn == [source.load(0, np.random.default_rng(seed))["caption"] for seed in range(200)]
    assert source.load(0)["caption"] == "one"


def test_one_caption_leaves_the_generator_as_it_was(source):
    """So runs on clips with one caption draw the same moments as before there could be several."""
    rng, plain = np.random.default_rng(3), np.random.default_rng(3)
    assert source.load(1, rng)["caption"] == "b"
    plain.random()
    assert rng.bit_generator.state == plain.bit_generator.state


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resumed_run_draws_the_captions_of_one_that_never_stopped(source, workers):
    def start():
        return batches(source, batch_size=2, seed=5, tokenize=TOKENIZE, workers=workers)

    whole = start()
    expected = [next(whole)["text"] for _ in range(12)]
    assert len({tuple(row) for text in expected for row in text}) == 6  # all that there are
    resumed = start()
    resumed.set_state({"batches": 7})
    for text in expected[7:]:
        np.testing.assert_array_equal(next(resumed)["text"], text)
    for each in (whole, resumed):
        each.close()


def test_windows_of_a_precomputed_set_have_the_captions_one_after_the_other(source, caplog):
    stored = [precompute.load_window(source, 0, window, seed=0)["caption"] for window in range(6)]
    assert stored == [*MANY, "one", "two"]
    assert [precompute.load_window(source, 1, window, seed=0)["caption"] for window in range(2)] == ["b", "b"]
    encoder = SimpleNamespace(settings=dict)
    writer = precompute._Writer(encoder, {}, {}, None, seed=0, windows=1)
    assert writer.job(source, None, 4, 1).settings["captions"] == precompute.CAPTION_OF_WINDOW
    source.most_captions = 1
    assert "captions" not in writer.job(source, None, 4, 1).settings


def test_a_set_knows_all_captions_of_its_files(folder, source):
    before = source.fingerprint()
    table = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(table.replace("four", "five"))
    assert Clips(str(folder), frames=4, size=(16, 16)).open().fingerprint() != before
    (folder / "metadata.jsonl").write_text(table)
    assert Clips(str(folder), frames=4, size=(16, 16)).open().fingerprint() == before


def test_what_has_no_caption_is_said(folder, write, tmp_path, caplog):
    for name in "ab":
        write(tmp_path / f"{name}.mp4", frames=24, size=(16, 16))
    (tmp_path / "a.txt").write_text("a dog")
    with caplog.at_level(logging.WARNING):
        assert len(Clips(str(tmp_path), frames=4, size=(16, 16)).open()) == 2
    assert "1 of 2 clips have no caption: 1 such as b, because no list names it" in caplog.text
    caplog.clear()
    (one,) = Clips(str(tmp_path / "a.mp4"), frames=4, size=(16, 16)).open()
    assert (one["id"], one["caption"]) == ("a", "a dog")
    assert not caplog.messages


def test_half_a_surrogate_pair_in_a_prompt_is_tokenised():
    np.testing.assert_array_equal(TOKENIZE(["a \udcff"]), TOKENIZE(["a \ufffd"]))
