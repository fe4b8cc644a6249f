"""What all tests share: a CPU, the compilation cache, and the optional folder of real clips and weights."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxmotion-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "2")

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "convert"))  # public checkpoints and exports, which several tests make


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips, broken inputs and stills, which are not part of the project."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real clips in ../shared/data, which are not part of the project")
    return path


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Small public weights and tokenizers, which are not part of the project."""
    path = ROOT.parent / "shared" / "weights"
    if not path.is_dir():
        pytest.skip("needs the public weights in ../shared/weights, which are not part of the project")
    return path
