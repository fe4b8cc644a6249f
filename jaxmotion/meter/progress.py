"""Progress of a run: a bar in a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from typing import TextIO

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts the clips that are done, from 0 to `total`."""

    def __init__(self, total: int, stream: TextIO):
        self._stream = stream
        self._total, self._done = total, 0
        self._begun = self._said = time.monotonic()
        self._bar = tqdm(total=total, unit="clip", file=stream, dynamic_ncols=True, disable=not stream.isatty())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def done(self) -> None:
        """Counts one clip more."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._said > EVERY:
            self._said = now
            rate = self._done / (now - self._begun)
            self.say(f"{self._done} of {self._total} clips, {rate:.3g} a second")

    def say(self, sentence: str) -> None:
        """Prints a sentence above the bar."""
        tqdm.write(sentence, file=self._stream)
        self._stream.flush()
