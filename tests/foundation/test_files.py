"""Files and folders appear complete or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jaxmotion.foundation.files import PART, atomic_file, atomic_folder


def test_a_file_is_replaced_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "numbers.json"
    with atomic_file(path) as part:
        part.write_text("1")
        assert not path.exists()
        assert re.fullmatch(PART, part.name)
    with pytest.raises(FileExistsError), atomic_file(path) as part:
        _make_twice(part)
    assert path.read_text() == "1"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    with pytest.raises(FileExistsError), atomic_folder(path) as part:
        _make_twice(part / "weights")
    assert list(path.parent.iterdir()) == []
    path.mkdir()  # an empty folder is taken
    with atomic_folder(path) as part:
        assert re.fullmatch(PART, part.name)
        (part / "config.json").write_text("{}")
        assert not any(path.iterdir())
    assert (path / "config.json").read_text() == "{}"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_never_replaces_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("here first")
    with pytest.raises(FileExistsError, match="is there already"), atomic_folder(tmp_path):
        raise AssertionError
    with pytest.raises(FileExistsError, match="is there already"), atomic_folder(tmp_path / "mine.txt"):
        raise AssertionError


def _make_twice(path: Path) -> None:
    path.write_text("half")
    path.mkdir()
