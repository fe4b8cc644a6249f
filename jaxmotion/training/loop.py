"""The training loop: data in, updates, checkpoints, samples; to be killed and started again at any moment.

The host works one step ahead of the device: it reads the numbers of step n - 1 after it has started step n.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import jax
from jax.sharding import Mesh

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.foundation.errors import NotFiniteError
from jaxmotion.foundation.types import ArrayLike, Params
from jaxmotion.parallel import sharding
from jaxmotion.training.checkpoint import Checkpoints, Loader
from jaxmotion.training.config import MAY_CHANGE, TrainConfig
from jaxmotion.training.log import Log, duration, write_whole
from jaxmotion.training.restore import set_damaged_aside
from jaxmotion.training.resume import CONFIG, check_continues
from jaxmotion.training.state import TrainState, with_pretrained
from jaxmotion.training.step import Metrics, Program, Task, build_program

OnSample = Callable[[Params, int], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a run."""

    step: int  # steps done, over all starts of this run
    loss: float | None  # of the last step; None if this start made none, or it was not finite
    skipped: int  # steps whose loss or gradient was not finite, over all starts
    compile_seconds: float
    train_seconds: float  # of this start, compilation left out
    stopped: bool  # True: told to stop by a signal before the last step


def run(
    task: Task,
    config: TrainConfig,
    mesh: Mesh,
    loader: Loader,
    directory: str | Path,
    *,
    meta: Mapping[str, JsonValue],
    on_sample: OnSample | None = None,
    start: Mapping[str, ArrayLike] | None = None,
    may_change: Sequence[str] = MAY_CHANGE,
) -> Result:
    """Trains `task` in the run folder `directory`, from its newest checkpoint or from the start.

    Args:
      task: parameters, loss and sharding rules.
      config: settings.
      mesh: the devices; one device is a mesh too.
      loader: batches of this process's rows (`parallel.sharding.process_slice`), repeating for ever, with Grain's
        get_state and set_state so that the position is saved and restored.
      directory: the run folder; see `checkpoint` for what is in it, besides config.json and metrics.jsonl.
      meta: the whole configuration as JSON values. Saved as config.json, and compared when a run continues.
      on_sample: called as on_sample(params, step) every `sample_every` steps, with all parameters (the running mean of
        the trained ones). Their memory is reused when it returns.
      start: array-likes by path for the parameters that do not start from random values; read on a run's first start
        only.
      may_change: regular expressions on '/'-joined paths of `meta` that may differ from the run's first start.

    Raises:
      ConfigChangedError: the run folder belongs to a run with another configuration.
      NotFiniteError: `nonfinite_limit` steps in a row were not finite.
      SaveError: the run folder cannot be written.
      CheckpointError: all checkpoints of the run are damaged. If only the newest are, they are set aside.
    """
    directory = Path(directory).absolute()
    for name in ("get_state", "set_state"):
        if not hasattr(loader, name):
            raise ValueError(
                f"The loader has no {name}, so its position cannot be saved; give an iterator of a Grain dataset."
            )
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    with jax.set_mesh(mesh), stop_requests() as stop:
        set_damaged_aside(directory)
        program = build_program(task, config, mesh)
        checkpoints = Checkpoints(directory, config.keep)
        try:
            state = _begin(program, checkpoints, loader, directory, meta, start or {}, may_change)
            return _Run(config, mesh, loader, directory, program, checkpoints, on_sample, stop).run(state)
        finally:
            _close(checkpoints)


class StopRequest:
    """Request of a signal to stop the run: its name, or None."""

    signal_name: str | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns SIGTERM and the first Ctrl-C, while entered, into requests to stop after the step in progress.

    Runs of several processes listen through JAX's coordination service instead, which stops all at the same step.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield stop
        return

    def ask(number: int, _: FrameType | None) -> None:
        stop.signal_name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])  # a second Ctrl-C stops at once

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin(
    program: Program,
    checkpoints: Checkpoints,
    loader: Loader,
    directory: Path,
    meta: Mapping[str, JsonValue],
    start: Mapping[str, ArrayLike],
    may_change: Sequence[str],
) -> TrainState:
    """Returns the state to start from. Raises ConfigChangedError if the run has another configuration."""
    step = checkpoints.latest()
    check_continues(directory, meta, may_change)
    if jax.process_index() == 0:
        write_whole(directory / CONFIG, json.dumps(meta, indent=2) + "\n")
    if step is not None:
        return checkpoints.restore(step, program.abstract, loader)
    state = program.initialise()
    state = with_pretrained(state, start) if start else state
    checkpoints.save_frozen(state)
    return state


def _close(checkpoints: Checkpoints) -> None:
    """Closes the checkpoints, without hiding an error that is being raised behind another."""
    pending = sys.exc_info()[1]
    try:
        checkpoints.close()
    except RuntimeError:
        if pending is None:
            raise


@dataclasses.dataclass
class _Run:
    """Mutable state of a run in progress."""

    config: TrainConfig
    mesh: Mesh
    loader: Loader
    directory: Path
    program: Program
    checkpoints: Checkpoints
    on_sample: OnSample | None
    stop: StopRequest
    pending: tuple[int, Metrics, float] | None = None  # step, its numbers still on the device, seconds waited for data
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of the last step that was read
    clock: float = 0.0  # when the last step was read
    saved: int | None = None  # the newest step that is on disk or on its way
    rows: int = 0  # of a batch, in this process
    updates: dict[tuple, jax.stages.Compiled] = dataclasses.field(default_factory=dict)  # by a batch's shapes
    compile_seconds: float = 0.0
    log: Log = dataclasses.field(init=False)

    def run(self, state: TrainState) -> Result:
        """Trains from `state` to the last step, or until asked to stop."""
        config, start = self.config, int(state.step)
        self.rows = config.batch_size // sharding.process_slice(self.mesh)[1]
        self.saved = start if self.checkpoints.latest() == start else None
        self.log = Log(
            self.directory,
            start=start,
            steps=config.steps,
            rows=config.batch_size,
            log_every=config.log_every,
            tensorboard=config.tensorboard,
        )
        try:
            if start >= config.steps:
                self.log.say(f"This run is at step {start} of {config.steps}; nothing is left to train.")
                return Result(start, None, int(state.skipped), 0.0, 0.0, stopped=False)
            if start:
                self.log.say(f"Continuing from the checkpoint of step {start}.")
            return self._train(state, start)
        finally:
            self.log.close()

    def _train(self, state: TrainState, start: int) -> Result:
        batch = self._next(start)
        if batch is None:
            return Result(start, None, int(state.skipped), 0.0, 0.0, stopped=True)
        update = self._program_for(state, batch)
        began = self.clock = time.perf_counter()
        first, waited, step = self.compile_seconds, 0.0, start
        for step in range(start + 1, self.config.steps + 1):
            # `update` donates `state`: its arrays are gone, so the name is bound anew at once and nothing else may hold
            # them. `_read` then waits for the step *before*, while this one runs on the device.
            state, numbers = update(state, batch)
            self._read()
            self.pending = (step, numbers, waited)
            stopping = self._should_stop(step)
            if step == self.config.steps or stopping or step % self.config.save_every == 0:
                self._save(step, state)
            if self.config.sample_every and step % self.config.sample_every == 0 and not stopping:
                self._sample(step, state)
            if stopping or step == self.config.steps:
                break
            before = time.perf_counter()
            batch = self._next(step)
            if batch is None:
                self._save(step, state)
                break
            waited = time.perf_counter() - before
            update = self._program_for(state, batch)
            self.checkpoints.check()
        self._read()
        seconds = time.perf_counter() - began - (self.compile_seconds - first)
        self.checkpoints.wait()
        stopped = step < self.config.steps
        if stopped:
            cause = self.stop.signal_name or "The signal to stop"
            self.log.say(
                f"{cause} came: saved step {step} of {self.config.steps}. The same command continues from there."
            )
        else:
            self.log.say(f"Trained {step - start} steps in {duration(seconds)}; saved in {self.directory}.")
        return Result(
            step=step,
            loss=self.metrics["loss"] if math.isfinite(self.metrics["loss"]) else None,
            skipped=int(self.metrics["skipped"]),
            compile_seconds=self.compile_seconds,
            train_seconds=seconds,
            stopped=stopped,
        )

    def _next(self, step: int) -> Mapping[str, jax.Array] | None:
        """Returns the next batch, on the devices; None if a signal to stop reached the loader's processes as well."""
        try:
            batch = next(self.loader)
        except StopIteration:
            raise ValueError(
                f"The data ended after {step} of {self.config.steps} steps; it must repeat, or steps be {step}."
            ) from None
        except Exception:
            if self.stop.signal_name is None:
                raise
            return None
        for name, array in batch.items():
            if array.shape[:1] != (self.rows,):
                raise ValueError(
                    f"The loader's {name!r} is {array.shape}; its first axis must be {self.rows}, this process's rows."
                )
        return sharding.distribute(batch, self.mesh)

    def _program_for(self, state: TrainState, batch: Mapping[str, jax.Array]) -> jax.stages.Compiled:
        """Returns the training step for batches of this shape, compiled when the first one comes."""
        shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if shapes not in self.updates:
            what = ", ".join("x".join(map(str, array.shape)) for array in batch.values() if array.ndim == 5)
            self._read()
            self.log.say(f"Compiling the training step{f' for {what}' if what else ''}; the step waits for it.")
            before = time.perf_counter()
            self.updates[shapes] = self.program.update.lower(state, batch).compile()
            self.clock = time.perf_counter()
            self.compile_seconds += self.clock - before
            self.log.say(f"Compiled in {self.clock - before:.1f} s.")
        return self.updates[shapes]

    def _read(self) -> None:
        """Waits for the step that is running on the device and logs its metrics.

        Raises:
            NotFiniteError: too many steps in a row were not finite.
        """
        if self.pending is None:
            return
        step, numbers, waited = self.pending
        self.pending = None
        read = {name: float(value) for name, value in jax.device_get(numbers).items()}
        self.metrics = {"loss": read.pop("loss"), **read}
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.log.add(step, self.metrics, seconds, waited)
        if self.metrics["skipped_in_row"] >= self.config.nonfinite_limit:
            raise NotFiniteError(
                f"The loss or its gradient was not finite in {self.config.nonfinite_limit} steps in a row, up to step "
                f"{step}. The parameters are those from before. A lower learning_rate, precision float32 or a look at "
                f"the data may help; the last checkpoint is intact."
            )

    def _save(self, step: int, state: TrainState) -> None:
        self._read()
        self.log.flush()  # rows up to a checkpoint are on disk before it
        if self.saved != step:
            self.checkpoints.save(step, state, self.loader)  # copies the arrays first: the next update donates them
            self.saved = step
        self.clock = time.perf_counter()

    def _sample(self, step: int, state: TrainState) -> None:
        if self.on_sample is None:
            return
        self._read()
        self.on_sample(state.params(), step)  # these arrays too are donated to the next update
        self.clock = time.perf_counter()

    def _should_stop(self, step: int) -> bool:
        if jax.process_count() > 1:
            return self.checkpoints.preempted(step)
        return self.stop.signal_name is not None
