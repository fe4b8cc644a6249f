"""Config files: shipped ones by name from anywhere, a user's own by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxmotion.runs.config_files import find_config, shipped_configs
from jaxmotion.runs.experiment import load


def test_shipped_configs_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"livephoto", "motionstone", "motion_estimator", "quickstart", "ablations/motionstone"} <= set(
        shipped_configs()
    )
    assert load("livephoto:tiny") == load("configs/livephoto.py:tiny")
    assert load("quickstart") == load("quickstart:full")


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "configs" / "livephoto.py"
    mine.parent.mkdir()
    mine.write_text("from jaxmotion.runs.experiment import load\nfull = load('quickstart:smoke')\n")
    assert load("configs/livephoto.py") == load("quickstart:smoke")


def test_an_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(FileNotFoundError, match=r"ablations/motionstone, livephoto, .*Did you mean livephoto\?"):
        find_config("livefoto")
