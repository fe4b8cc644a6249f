"""Trains the toy task in the folder argv[1]; argv[2] says when to kill this process, as `kill -9` would, or `never`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.training import loop
from jaxmotion.training.checkpoint import Checkpoints
from tests.support import toy

HIDDEN = 30_000  # 8 MB of checkpoint, so that writing it takes a moment


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch(directory: Path, pattern: str) -> None:
    """Die as soon as there is a file of this name."""
    while not list(directory.glob(pattern)):
        time.sleep(0.001)
    die()


class Counted:
    """The toy data; dies when batch number `last` is asked for."""

    def __init__(self, last: int):
        self.inner, self.given, self.last = toy.loader(), 0, last
        self.get_state, self.set_state = self.inner.get_state, self.inner.set_state

    def __next__(self):
        self.given += 1
        if self.given == self.last:
            die()
        return next(self.inner)


def main() -> None:
    directory, when = Path(sys.argv[1]), sys.argv[2]
    batches = Counted(last=-1)
    save = Checkpoints.save

    def save_then_die(self, step, state, loader):
        save(self, step, state, loader)
        if when == "after save returned":
            die()
        if when == "after checkpoint":
            self.wait()
            die()

    Checkpoints.save = save_then_die
    if when == "before checkpoint":
        batches = Counted(last=3)
    unfinished = {"in frozen": "frozen*", "in checkpoint": "checkpoints/*tmp*"}
    if when in unfinished:
        threading.Thread(target=watch, args=(directory, unfinished[when]), daemon=True).start()
    if when == "between checkpoints":
        batches = Counted(last=3)
    config = toy.settings(steps=14, save_every=4)
    task = toy.Toy(hidden=HIDDEN)
    loop.run(task, config, make_mesh(), batches, directory, meta=toy.meta(config))


if __name__ == "__main__":
    main()
