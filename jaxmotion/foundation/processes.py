"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that was told to end, as shells report it."""


def end_with_parent(*_: int) -> None:
    """Ends this worker process as soon as its parent is gone, even if that one was killed.

    Shared memory that the worker has made is then removed by Python's resource tracker, which outlives both.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for_end, args=(parent.sentinel,), daemon=True).start()


def _wait_for_end(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(TERMINATED)  # `sys.exit` would end this thread only


def exit_on_sigterm() -> None:
    """Turns SIGTERM into an ordinary exit, which closes files and ends worker processes."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)
