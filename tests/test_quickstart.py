"""The README's first command shows what it promises. Takes as long as it takes a newcomer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_quickstart_moves_photos_as_much_as_asked(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jaxmotion.quickstart", "--run", str(tmp_path)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert done.returncode == 0
    numbers = json.loads((tmp_path / "evaluate" / "control.json").read_text())
    assert numbers["spearman_ssim"] >= 0.9
    assert numbers["spearman_flow"] >= 0.9
    assert numbers["level1_over_level10"] < 1 / 3
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video") == 18
    assert "https://" not in page
