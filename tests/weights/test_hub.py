"""Finding checkpoints: here, in the hub's cache, and what is said when the hub cannot be asked."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.hub import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub with one repository in it, and no network."""
    repository = tmp_path / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name in ("unet/diffusion_pytorch_model.safetensors", "mm.ckpt"):
        file = repository / "snapshots" / COMMIT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("weights")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


def test_what_is_here_needs_no_hub(tmp_path):
    (tmp_path / "unet").mkdir()
    assert locate(str(tmp_path)) == tmp_path
    assert locate(str(tmp_path), "unet") == tmp_path / "unet"
    assert locate(str(tmp_path), "vae") == tmp_path


def test_a_repository_in_the_cache_is_found_offline(cache):
    assert locate("someone/model", "unet") == cache / "unet"
    assert locate("someone/model", "vae") == cache
    assert locate("someone/model@main:mm.ckpt") == cache / "mm.ckpt"
    with pytest.raises(CheckpointFileError, match=r"someone/model has no other\.ckpt"):
        locate("someone/model:other.ckpt")


def test_without_a_network_it_is_said_what_would_do(cache):
    with pytest.raises(CheckpointFileError, match=r"else/model is neither .* HF_HUB_OFFLINE is set.* `hf download"):
        locate("else/model")


def test_what_is_neither_a_path_nor_a_repository(tmp_path):
    for source in (str(tmp_path / "nothing"), "./none/here", "no such thing", "just-a-name"):
        with pytest.raises(CheckpointFileError, match="There is no file or folder"):
            locate(source)
