import errno
import os

import pytest

from jaxmotion.foundation.errors import describe_os_error
from jaxmotion.foundation.files import atomic_file


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "give a place that can be written"),
        (errno.EACCES, "Change its rights"),
        (errno.ENOSPC, "Make room"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_what_would_do(number, remedy):
    text = describe_os_error(OSError(number, os.strerror(number), "runs/mine/config.json"))
    assert text.startswith(f"runs/mine/config.json: {os.strerror(number)}.")
    assert remedy in text


def test_other_errors_say_what_they_said(tmp_path):
    assert describe_os_error(OSError("no such port")) == "no such port"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"Not a directory|File exists") as caught,
        atomic_file(tmp_path / "file" / "below"),
    ):
        pass
    assert str(tmp_path / "file") in describe_os_error(caught.value)
