import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxmotion.foundation.errors import InUseError
from jaxmotion.foundation.lock import sole_writer
from tests.support.child_process import environment


def test_the_second_writer_is_refused_by_the_name_of_the_first(tmp_path):
    path = tmp_path / "run" / ".lock"
    with sole_writer(path, "The run"):
        named = rf"The run is being written by process {os.getpid()} on {socket.gethostname()} \(since 20.*\)\. Wait"
        with pytest.raises(InUseError, match=named), sole_writer(path, "The run"):
            pass
        assert path.is_file()  # the second has not taken it away
    assert not path.exists()
    with sole_writer(path, "The run"):
        pass


def test_a_lock_left_by_a_killed_process_stands_in_nobodys_way(tmp_path):
    path = tmp_path / ".lock"
    code = (
        "import os, pathlib, signal\nfrom jaxmotion.foundation.lock import sole_writer\n"
        f"with sole_writer(pathlib.Path({str(path)!r}), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.is_file()
    with sole_writer(path, "The run"):
        pass
    assert not path.exists()


def test_a_lock_that_was_removed_while_it_was_opened_is_made_again(tmp_path, monkeypatch):
    path, flock, calls = tmp_path / ".lock", fcntl.flock, []

    def remove_first(descriptor, operation):
        flock(descriptor, operation)
        if not calls:
            path.unlink()
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with sole_writer(path, "The run"):
        assert path.is_file()
    assert len(calls) == 2


def test_where_nothing_can_be_locked_it_is_said_and_the_work_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_writer(tmp_path / ".lock", "The run"):
        pass
    assert "cannot be locked" in caplog.text
