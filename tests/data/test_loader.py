import subprocess
import sys
import textwrap

import numpy as np
import orbax.checkpoint as ocp
import pytest
from grain.checkpoint import CheckpointRestore, CheckpointSave

from jaxmotion.data.loader import batches
from jaxmotion.data.source import DataSource
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer


class Numbers(DataSource):
    """A source whose clips are their index, with one random number of their own."""

    optional_entries = ("luck",)

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def load(self, index, rng=None):
        video = np.full((2, 4, 4, 3), index, np.uint8)
        return {"video": video, "caption": f"number {index}", "fps": np.float32(8), "luck": np.float32(rng.random())}


class Broken(Numbers):
    def load(self, index, rng=None):
        raise ValueError("clip 3 is torn")


def load(source=Numbers(10), **options):  # noqa: B008 - it never changes
    options = {"batch_size": 4, "seed": 0, "tokenize": HashTokenizer(), "also": ("luck",), **options}
    return batches(source, **options)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def ids(taken):
    return np.concatenate([batch["video"][:, 0, 0, 0, 0] for batch in taken])


def same(one, other):
    return all((a[name] == b[name]).all() for a, b in zip(one, other, strict=True) for name in a)


def test_a_batch_holds_clips_and_their_tokens():
    (batch,) = take(load(), 1)
    assert set(batch) == {"video", "text", "fps", "luck"}
    assert batch["video"].shape == (4, 2, 4, 4, 3)
    assert (batch["text"] == HashTokenizer()([f"number {n}" for n in ids([batch])])).all()
    assert (batch["fps"] == 8).all()


def test_batches_of_one_clip():
    assert len(ids(take(load(batch_size=1), 3))) == 3


def test_every_epoch_holds_every_clip_once_in_another_order():
    order = ids(take(load(), 10)).reshape(4, 10)
    assert (np.sort(order, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in order}) == 4
    assert not (ids(take(load(seed=1), 10)) == order.ravel()).all()


def test_every_epoch_draws_every_clip_anew_and_the_same_each_time():
    taken, again = take(load(), 20), take(load(), 20)
    assert same(taken, again)
    assert len(np.unique(np.concatenate([batch["luck"] for batch in taken]))) == 80


def test_processes_share_the_batch_of_one():
    alone = take(load(), 6)
    shares = [take(load(process_index=index, process_count=2), 6) for index in range(2)]
    for name in ("video", "luck", "text"):
        together = np.stack([[batch[name] for batch in share] for share in shares], 2)
        assert (together.reshape(6, 4, *together.shape[3:]) == np.stack([batch[name] for batch in alone])).all()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_going_on_from_a_saved_position(taken):
    whole = take(load(), 9)
    first = load()
    take(first, taken)
    state = first.get_state()
    take(first, 2)
    second = load()
    take(second, 3)
    second.set_state(state)
    assert same(take(second, 9 - taken), whole[taken:])


def test_the_position_is_saved_and_restored_by_orbax(tmp_path):
    iterator = load()
    take(iterator, 3)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(data=CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = take(iterator, 3)
        restored = manager.restore(3, args=ocp.args.Composite(data=CheckpointRestore(load())))["data"]
    assert same(take(restored, 3), expected)


def test_worker_processes_change_nothing_and_end_quietly(tmp_path):
    """In a process of its own, that leaves without closing anything, as a script does."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from jaxmotion.data.loader import batches
            from jaxmotion.data.synthetic_clips import SyntheticClips
            from jaxmotion.data.tokenize import HashTokenizer

            def load(workers):
                source = SyntheticClips(frames=2, size=(16, 16), clips=9).open()
                return batches(source, batch_size=4, seed=0, tokenize=HashTokenizer(), workers=workers)

            def take(iterator, count):
                return [next(iterator) for _ in range(count)]

            def same(one, other):
                return all((a[name] == b[name]).all() for a, b in zip(one, other, strict=True) for name in a)

            if __name__ == "__main__":
                alone, helped = load(0), load(2)
                whole = take(alone, 8)
                assert same(take(helped, 4), whole[:4])
                state = helped.get_state()
                take(helped, 2)
                helped.set_state(state)
                assert same(take(helped, 4), whole[4:])
                fewer = load(0)
                fewer.set_state(state)
                assert same(take(fewer, 1), whole[4:5])
                print("done")
        """)
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "done", result.stderr
    assert result.stderr.strip() == ""


def test_an_error_in_a_clip_comes_through():
    with pytest.raises(ValueError, match="clip 3 is torn"):
        next(load(Broken(5)))


def test_known_numbers_come_along():
    source = SyntheticClips(
        frames=2, size=(16, 16), object_counts=(0, 2), ground_truth=("camera_speed", "boxes")
    ).open()
    (batch,) = take(load(source, also=("camera_speed", "boxes")), 1)
    assert batch["camera_speed"].shape == (4,)
    assert batch["boxes"].shape == (4, 2, 2, 4)


def test_what_cannot_be_loaded_is_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        load(process_count=3)
    with pytest.raises(ValueError, match="no clips"):
        load(Numbers(0))
