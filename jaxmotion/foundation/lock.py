"""A lock that keeps two processes from writing into one place; it ends with the process that holds it."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxmotion.foundation.errors import InUseError

_LOG = logging.getLogger(__name__)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def sole_writer(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` while entered, which says who holds it; the file is gone afterwards.

    The lock is the system's (flock), so that a file left by a killed process stands in nobody's way.

    Args:
        what: names what is written, for the message.

    Raises:
        InUseError: another process holds it; the message names the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, what)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder()).encode() + b"\n", 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked: whoever waits for it then sees that it is another file
        os.close(descriptor)


def _acquire(path: Path, what: str) -> int:
    """Returns a descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise InUseError(
                f"{what} is being written by {_describe(holder)}. Wait until it ends, stop it, or give another folder."
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
            _LOG.warning("%s cannot be locked (%s); see to it that nothing else writes there.", path, error.strerror)
            return descriptor
        os.close(descriptor)  # the holder before removed the file between our opening and our locking it


def _holder() -> dict[str, str | int]:
    now = datetime.datetime.now(datetime.UTC)
    return {"host": socket.gethostname(), "process": os.getpid(), "since": now.isoformat(timespec="seconds")}


def _describe(holder: bytes) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['process']} on {found['host']} (since {found['since']})"
    except (ValueError, KeyError, TypeError):  # the holder has not said yet who it is
        return "another process"
