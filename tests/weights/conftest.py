"""What tests of exports share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.exported_pipelines import Exported


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch on one thread: networks this small only wait for a second one."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Both exported pipelines by name; tests put back what they change."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.support.exported_pipelines import export_both

    return export_both(tmp_path_factory.mktemp("exports"))


@pytest.fixture(params=["livephoto", "motionstone"])
def exported(request: pytest.FixtureRequest, exports: dict[str, Exported]) -> Exported:
    """One of both."""
    return exports[request.param]


@pytest.fixture(scope="module")
def plain(exports: dict[str, Exported], one_thread: None) -> dict[str, Any]:
    """Latents of their requests as they stand."""
    return {name: each() for name, each in exports.items()}
