"""Batches of clips for training: shuffled by (seed, epoch), split over processes, resumable.

The order of the clips, and every random choice inside one (where it starts, how a synthetic one moves), is a function
of (seed, epoch, index). So an iterator's state is only its position, and it is saved with the checkpoint.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from jaxmotion.data.buckets import parts_of
from jaxmotion.foundation.entries import FPS, TEXT, VIDEO
from jaxmotion.video.synthetic.captions import CAPTION


class Source(Protocol):
    """Where clips come from: `Clips.open()` and `SyntheticClips.open()` give one."""

    @property
    def labels(self) -> Sequence[str]:
        """Entries of an example that can be stacked into a batch beside the clip and its caption."""
        ...

    def __len__(self) -> int:
        """How many clips make an epoch."""
        ...

    def __getitem__(self, index: int) -> Any:
        """The record of a clip: what names it."""
        ...

    def load(self, record: Any, rng: np.random.Generator) -> dict[str, Any]:
        """The clip: `video` uint8 [T H W 3], `caption`, `fps`, and what else the source knows."""
        ...


_FOR_EVER = 2**31
"""Epochs; Grain's own endless repetition overflows in batches of one clip."""


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    tokenize: Callable[[Sequence[str]], np.ndarray],
    workers: int = 0,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    entries: Sequence[str] = (VIDEO, FPS),
    also: Sequence[str] = (),
) -> Batches:
    """An endless iterator of {video uint8 [B T H W 3], text int32 [B L], fps float32 [B]} with Grain's get_state.

    Process p of P gets rows p, p + P, ... of every batch, so that all of them together see what one alone would. A
    batch is made of one of a source's buckets; each has a share of the batches like its share of the clips.

    Args:
        batch_size: clips of a batch over all processes; this one gets batch_size / process_count of them.
        tokenize: captions to ids [B L].
        workers: processes that load clips; 0 loads them in a thread of this process. Any number gives the same batches.
        prefetch: batches that each worker keeps ready.
        entries: what the source brings of every example, stacked into the batch.
        also: further entries, such as `camera_speed`.

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
    names = tuple(dict.fromkeys((*entries, *also)))

    def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        batch = {name: np.stack([np.asarray(example[name]) for example in examples]) for name in names}
        return {**batch, TEXT: tokenize([example[CAPTION] for example in examples])}

    def rows_of(part: Source) -> grain.MapDataset:
        clips = grain.MapDataset.source(part).seed(seed).shuffle().repeat(_FOR_EVER).random_map(part.load)
        return clips[process_index::process_count].batch(batch_size // process_count, batch_fn=collate)

    parts = parts_of(source)
    rows = [rows_of(part) for part in parts]
    mixed = grain.MapDataset.mix(rows, [len(part) for part in parts]) if len(rows) > 1 else rows[0]
    return Batches(mixed, workers, prefetch)


class Batches(grain.DatasetIterator):
    """Iterates over a dataset of batches. Its state is the number of batches taken, whoever loads them."""

    def __init__(self, dataset: grain.MapDataset, workers: int, prefetch: int):
        super().__init__()
        self._dataset, self._workers, self._prefetch = dataset, workers, prefetch
        self._taken = 0
        self._running: grain.DatasetIterator | None = None
        self._forget = _close_at_exit(self)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._started())
        self._taken += 1
        # Workers hand over shared memory. A copy sets it free now; held longer, it fills /dev/shm and leaks at exit.
        return {name: np.array(array) for name, array in batch.items()} if self._workers else batch

    def get_state(self) -> dict[str, int]:
        """How many batches were taken."""
        return {"batches": self._taken}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on as if so many batches had been taken."""
        self._stop()
        self._taken = int(state["batches"])

    def start_prefetch(self) -> None:
        """Starts to load."""
        self._started().start_prefetch()

    def close(self) -> None:
        """Ends the workers. Iterating further starts them again."""
        self._forget()
        self._stop()
        super().close()

    def __del__(self) -> None:
        self.close()

    def _started(self) -> grain.DatasetIterator:
        if self._running is None:
            rest = self._dataset[self._taken :]
            ready = rest.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch))
            if self._workers:
                if not flags.FLAGS.is_parsed():
                    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only absl's own main() parses
                options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._prefetch)
                ready = ready.mp_prefetch(options)
            self._running = iter(ready)
        return self._running

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()


def _close_at_exit(iterator: Batches) -> Callable[[], None]:
    """Has the iterator closed before Python takes its modules apart; workers that still run then end with long errors.

    Returns what undoes that.
    """
    alive = weakref.ref(iterator)

    def close() -> None:
        found = alive()
        if found is not None:
            found.close()

    atexit.register(close)
    return lambda: atexit.unregister(close)
