"""What tests of exports share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch on one thread: networks this small only wait for a second one."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
