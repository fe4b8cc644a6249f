"""Batches of clips for training: shuffled by (seed, epoch), split over processes, resumable.

The order of the clips, and every random choice inside one (where it starts, how a synthetic one moves), is a function
of (seed, epoch, index). So an iterator's state is only its position, and it is saved with the checkpoint.
"""

from __future__ import annotations

import atexit
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np
from absl import flags

from jaxmotion.data.collate import Collate, Tokenize
from jaxmotion.data.source import DataSource
from jaxmotion.foundation.processes import end_with_parent

_FOR_EVER = 2**31
"""Epochs; Grain's own endless repetition overflows in batches of one clip."""


def batches(
    source: DataSource,
    *,
    batch_size: int,
    seed: int,
    tokenize: Tokenize,
    workers: int = 0,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    also: Sequence[str] = (),
) -> Batches:
    """Returns an endless iterator of batches: the entries of the source [B ...] and its texts as int32 token ids.

    Process p of P gets rows p, p + P, ... of every batch, so that all of them together see what one alone would. A
    batch is made of one of a source's parts; each has a share of the batches like its share of the clips.

    Args:
        batch_size: clips of a batch over all processes; this one gets batch_size / process_count of them.
        workers: processes that load clips; 0 loads them in a thread of this process. The batches do not depend on it.
        prefetch: batches that each worker keeps ready.
        also: optional entries of the source, such as `camera_speed`.

    Raises:
        ValueError: the batch cannot be split over the processes, or the source has no clips.
    """
    if batch_size % process_count:
        raise ValueError(
            f"A batch of {batch_size} clips cannot be split over {process_count} processes; "
            f"use a multiple of {process_count}."
        )
    if not len(source):
        raise ValueError("There are no clips to load.")
    collate = Collate(tuple(dict.fromkeys((*source.entries, *also))), source.texts, tokenize)

    def clips_of(one: DataSource, place: int) -> grain.MapDataset:
        indices = grain.MapDataset.source(range(len(one)))
        return indices.seed(_seed_of(seed, place)).shuffle().repeat(_FOR_EVER).random_map(one.load)

    def rows_of(part: DataSource) -> grain.MapDataset:
        clips = _mix([(clips_of(one, place), weight) for place, (one, weight) in enumerate(part.mixed)])
        return clips[process_index::process_count].batch(batch_size // process_count, batch_fn=collate)

    return Batches(_mix([(rows_of(part), part.weight) for part in source.parts]), workers, prefetch)


def _mix(weighted: Sequence[tuple[grain.MapDataset, float]]) -> grain.MapDataset:
    """Returns elements of several datasets in turn, as often as their weights say."""
    if len(weighted) == 1:
        return weighted[0][0]
    return grain.MapDataset.mix([dataset for dataset, _ in weighted], [weight for _, weight in weighted])


def _seed_of(seed: int, place: int) -> int:
    """Returns the seed of one of several mixed sources; the first has that of the run."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0]) if place else seed


class Batches(grain.DatasetIterator):
    """Iterates over a dataset of batches. The state is the number of batches taken, however many workers load them."""

    def __init__(self, dataset: grain.MapDataset, workers: int, prefetch: int):
        super().__init__()
        self._dataset, self._workers, self._prefetch = dataset, workers, prefetch
        self._taken = 0
        self._running: grain.DatasetIterator | None = None
        self._cancel_close = _close_at_exit(self)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._start())
        self._taken += 1
        # Workers hand over shared memory. A copy sets it free now; held longer, it fills /dev/shm and leaks at exit.
        return {name: np.array(array) for name, array in batch.items()} if self._workers else batch

    def get_state(self) -> dict[str, int]:
        """Returns the number of batches taken."""
        return {"batches": self._taken}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues as if so many batches had been taken."""
        self._stop()
        self._taken = int(state["batches"])

    def start_prefetch(self) -> None:
        """Starts to load."""
        self._start().start_prefetch()

    def close(self) -> None:
        """Ends the workers; iterating further starts them again."""
        self._cancel_close()
        self._stop()
        super().close()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> grain.DatasetIterator:
        if self._running is None:
            rest = self._dataset[self._taken :]
            ready = rest.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch))
            if self._workers:
                if not flags.FLAGS.is_parsed():
                    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only absl's own main() parses
                options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._prefetch)
                ready = ready.mp_prefetch(options, end_with_parent)
            self._running = iter(ready)
        return self._running

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()


def _close_at_exit(iterator: Batches) -> Callable[[], None]:
    """Closes the iterator before Python unloads its modules: workers that still run then end with long errors.

    Returns a function that cancels this.
    """
    reference = weakref.ref(iterator)

    def close() -> None:
        found = reference()
        if found is not None:
            found.close()

    atexit.register(close)
    return functools.partial(atexit.unregister, close)  # `__del__` may run when the module is gone
