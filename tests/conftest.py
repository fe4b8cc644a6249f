"""What all tests share: a CPU, the compilation cache, and the optional folder of real clips and weights."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxmotion-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only wait for a second thread of PyTorch
# Tests run a program a few times, so compiling it costs more than running it: a third of that is left.
FEWER_PASSES = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)
os.environ["XLA_FLAGS"] = f"{FEWER_PASSES} {os.environ.get('XLA_FLAGS', '')}".strip()

import numpy as np
import pytest
from PIL import Image

MOST_MEMORY = 2 * 2**30
"""Bytes of a process after which its compiled programs are dropped."""
ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
"""Processes that tests start import `tests.support` as the tests do."""


LONGEST = """
weights/test_export weights/test_export_motionstone runs/test_run data/test_precomputed weights/test_formats
systems/test_livephoto weights/test_export_arguments models/test_unet training/test_loop systems/test_lora
systems/test_motionstone weights/test_lora runs/test_start_from systems/test_contract parity/test_stable_diffusion
weights/test_bijections systems/test_sharded training/test_kill runs/test_run_motionstone training/test_two_processes
"""
"""Files that take longest. They come first, so that the workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first. Slow tests may take as long as they like."""
    places = {ROOT / "tests" / f"{name}.py": place for place, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(autouse=True)
def keep_signals() -> Iterator[None]:
    """Puts back what SIGTERM did before; commands that run in the process of the tests leave their own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if signal.getsignal(signal.SIGTERM) is not before:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Drops what was compiled before it fills the memory; the whole suite's programs take many gigabytes."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    if "jax" in sys.modules and pages * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file of stripes, 40 x 60."""
    path = tmp_path_factory.mktemp("photo") / "stripes.png"
    rows = np.arange(40, dtype=np.uint8)[:, None, None] * 6
    Image.fromarray(np.broadcast_to(rows, (40, 60, 3)).copy()).save(path)
    return path


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


@pytest.fixture(scope="session")
def write():
    """Writes a clip: `write(path, codec, frames, rate, size, pixels, aspect, **options)`."""
    from tests.support.written_clips import write_clip  # most tests need no codecs

    return write_clip
