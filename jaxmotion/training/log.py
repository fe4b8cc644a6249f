"""Log of a run: a progress bar, sentences, `metrics.jsonl`, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import jax
from tqdm import tqdm

from jaxmotion.foundation.errors import SaveError, describe_os_error
from jaxmotion.foundation.files import atomic_file
from jaxmotion.foundation.text_files import whole_rows

METRICS = "metrics.jsonl"


class Log:
    """The log of one run. Only the first process writes and prints.

    A row of metrics.jsonl is the mean over the steps since the row before; rows end at multiples of `log_every` and
    wherever `flush` is called, as before a checkpoint, so that a run that continues writes the same rows.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start: int,
        steps: int,
        rows: int,
        log_every: int,
        tensorboard: bool,
        stream: TextIO | None = None,
    ):
        """Opens the log at step `start` of `steps`; `rows` is the number of clips in a step."""
        self._active = jax.process_index() == 0
        self._stream = stream or sys.stderr
        self._rows, self._log_every, self._steps, self._step = rows, log_every, steps, start
        self._window: list[Mapping[str, float]] = []
        self._seconds = 0.0  # typical seconds of a step, for the time left
        self._path = directory / METRICS
        self._events = None
        self._bar = None
        if not self._active:
            return
        cut(self._path, start)
        if tensorboard:
            from jaxmotion.training.events import Events

            self._events = Events(directory / "tensorboard", start)
        if self._stream.isatty():
            self._bar = tqdm(
                total=steps,
                initial=start,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} {postfix}",
            )

    def say(self, sentence: str) -> None:
        """Prints a sentence above the progress bar."""
        if self._active:
            tqdm.write(sentence, file=self._stream)
            self._stream.flush()

    def add(self, step: int, metrics: Mapping[str, float], seconds: float, waited: float) -> None:
        """Adds the metrics of one step, its duration, and the time it waited for data, in seconds."""
        self._step = step
        if not self._active:
            return
        self._window.append({**metrics, "step_seconds": seconds, "data_seconds": waited})
        self._seconds = seconds if not self._seconds else 0.9 * self._seconds + 0.1 * seconds
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(metrics["loss"], self._seconds), refresh=False)
            self._bar.update(1)
        if step % self._log_every == 0:
            self.flush()

    def flush(self) -> None:
        """Writes the row of the steps added since the row before."""
        if not self._window:
            return
        row = {"step": self._step, **mean(self._window)}
        seconds = row["step_seconds"] or 0.0
        row["clips_per_second"] = self._rows / max(seconds, 1e-9)
        self._window.clear()
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if self._events is not None:
                self._events.add(self._step, {name: value for name, value in row.items() if name != "step"})
        except OSError as error:
            raise SaveError(
                f"{self._path} could not be written: {error.strerror or error}. The same command continues from the "
                "newest checkpoint once the folder can be written."
            ) from error
        if self._bar is None:
            self.say(f"step {self._step}/{self._steps}: {self._text(row['loss'], seconds)}")

    def close(self) -> None:
        """Closes the files and the bar."""
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            try:
                self._events.close()
            except OSError as error:
                self.say(f"The file for TensorBoard could not be closed: {error.strerror or error}.")

    def _text(self, loss: float | None, seconds: float) -> str:
        shown = "not finite" if loss is None or not math.isfinite(loss) else f"{loss:.4f}"
        rate = self._rows / max(seconds, 1e-9)
        left = duration((self._steps - self._step) * self._seconds)
        return f"loss {shown}, {seconds:.3g} s/step, {rate:.{rate < 10:d}f} clips/s, {left} left"


COUNTERS = ("skipped", "skipped_in_row")


def mean(window: list[Mapping[str, float]]) -> dict[str, float | None]:
    """Returns means over a window of steps, leaving out non-finite values (None if all are); counters as they end."""
    row: dict[str, float | None] = {}
    for name in window[-1]:
        values = [metrics[name] for metrics in window if math.isfinite(metrics[name])]
        row[name] = int(window[-1][name]) if name in COUNTERS else (sum(values) / len(values) if values else None)
    return row


def cut(path: Path, step: int) -> None:
    """Drops the rows of `path` that a run continuing from `step` will write again, and a half-written row."""
    if not path.exists():
        return
    rows = whole_rows(path.read_text(encoding="utf-8", errors="replace"))
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows if row.get("step", step + 1) <= step))


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically. Raises SaveError if it cannot be written."""
    try:
        with atomic_file(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{path} could not be written. {describe_os_error(error)}") from error


def duration(seconds: float) -> str:
    """Returns seconds as text: 45 s, 12 min, 3 h 5 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
