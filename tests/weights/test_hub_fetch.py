"""What is fetched from a hub, by a server here that answers as the hub does and counts what it was asked for."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.hub import locate, locate_all
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """A hub with repositories in the folders ORG/NAME of a folder. `fetched` has the files whose content it gave."""

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root, self.fetched = root, []

    def weights(self) -> list[str]:
        """The fetched files but small settings."""
        return sorted(name for name in self.fetched if not name.endswith(".json") or ".index." in name)


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            org, name, *rest = path.removeprefix("api/models/").split("/")
            folder = self.server.root / org / name
            if not folder.is_dir():
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            files = sorted(each for each in folder.rglob("*") if each.is_file())
            names = [each.relative_to(folder).as_posix() for each in files]
            if rest and rest[0] == "tree":
                tree = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)}
                    for name, file in zip(names, files, strict=True)
                ]
                self.send(200, json.dumps(tree).encode(), {})
            else:
                siblings = [{"rfilename": each} for each in names]
                told = {"_id": "1", "id": f"{org}/{name}", "modelId": f"{org}/{name}", "sha": COMMIT}
                self.send(200, json.dumps({**told, "siblings": siblings, "tags": [], "downloads": 0}).encode(), {})
            return
        org, name, *rest = path.split("/")
        rest = rest[2:]
        file = self.server.root / org / name / "/".join(rest)
        if not file.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        if body:
            self.server.fetched.append("/".join(rest))
        self.send(200, file.read_bytes(), {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}, body=body)

    def send(self, code: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def digest(file: Path) -> str:
    """An identity that no two files share, for the cache fetches equal ones once."""
    return hashlib.sha1(str(file).encode() + file.read_bytes()).hexdigest()


def weights(path: Path, value: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full(8, value, np.float32)}, path)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pipeline(hub) -> Path:
    """A pipeline as the public ones are: every form of every component, in shards, and single files at its top."""
    folder = hub.root / "someone" / "pipeline"
    for name in ("unet", "vae", "text_encoder", "safety_checker"):
        stem = "model" if name in ("text_encoder", "safety_checker") else "diffusion_pytorch_model"
        write_tensors(folder / name, stem, {key: np.zeros(8) for key in "abc"}, shard_bytes=128)
        weights(folder / name / f"{stem}.fp16.safetensors")
        (folder / name / f"{stem}.bin").write_bytes(b"not fetched")
        (folder / name / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    for name in ("v1-5-pruned", "v1-5-pruned-emaonly"):
        weights(folder / f"{name}.safetensors")
    return folder


SHARDS = [
    "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model-00002-of-00002.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
]


def test_of_a_pipeline_only_the_component_that_is_asked_for_is_fetched(hub, pipeline):
    found = locate("someone/pipeline", "unet", "transformer")
    assert hub.weights() == [f"unet/{name}" for name in SHARDS]
    assert sorted(open_tensors(found)) == ["a", "b", "c"]
    assert {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} <= set(hub.fetched)
    hub.fetched.clear()
    assert locate("someone/pipeline", "unet") == found
    assert locate("someone/pipeline:unet") == found
    assert hub.fetched == []  # it is kept
    assert locate("someone/pipeline:v1-5-pruned.safetensors").is_file()
    assert hub.weights() == ["v1-5-pruned.safetensors"]


def test_of_a_whole_pipeline_one_form_of_each_network_is_fetched(hub, pipeline):
    folder = locate_all("someone/pipeline")
    assert hub.weights() == sorted(
        [
            *(f"{part}/{name}" for part in ("unet", "vae") for name in SHARDS),
            *(f"text_encoder/{name.replace('diffusion_pytorch_model', 'model')}" for name in SHARDS),
        ]
    )
    assert all(sorted(open_tensors(folder / part)) == ["a", "b", "c"] for part in ("unet", "vae", "text_encoder"))


def test_without_a_network_the_cached_component_is_found_and_no_other(hub, pipeline, monkeypatch):
    found = locate("someone/pipeline", "unet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("someone/pipeline", "unet") == found
    assert locate_all("someone/pipeline") == found.parent
    with pytest.raises(CheckpointFileError, match=r"has no vae in the cache \(.*\); it has someone/pipeline:unet\."):
        locate("someone/pipeline", "vae")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert locate("someone/pipeline", "unet", fetch=False) == found
    with pytest.raises(CheckpointFileError, match="has no vae in the cache"):
        locate("someone/pipeline", "vae", fetch=False)


def test_a_hub_that_does_not_answer_is_as_none(hub, pipeline, monkeypatch):
    found = locate("someone/pipeline", "unet")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert locate("someone/pipeline", "unet") == found
    with pytest.raises(
        CheckpointFileError, match=r"else/model is neither .* could not be reached.*hf download else/model"
    ):
        locate("else/model")


def test_a_checkpoint_that_was_fetched_in_part_is_not_whole(hub, pipeline, monkeypatch):
    folder = locate("someone/pipeline", "unet")
    (folder / SHARDS[1]).resolve().unlink()
    (folder / SHARDS[1]).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointFileError, match=r"is not whole in the cache .* lacks unet/.*00002-of-00002"):
        locate("someone/pipeline", "unet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fetched.clear()
    assert (locate("someone/pipeline", "unet") / SHARDS[1]).is_file()
    assert hub.weights() == [f"unet/{SHARDS[1]}"]


@pytest.mark.parametrize("fetched_by_its_commit", [False, True])
def test_a_cache_that_others_filled_is_found(fetched_by_its_commit, hub, pipeline, monkeypatch):
    from huggingface_hub import snapshot_download

    revision = COMMIT if fetched_by_its_commit else None
    snapshot_download("someone/pipeline", revision=revision, allow_patterns="vae/*.fp16.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(open_tensors(locate("someone/pipeline", "vae"))) == ["w"]


def test_a_repository_with_only_a_variant(hub):
    folder = hub.root / "someone" / "half"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin"):
        weights(folder / name)
    found = locate("someone/half", "motion_adapter")
    assert hub.weights() == ["diffusion_pytorch_model.fp16.safetensors"]
    assert list(open_tensors(found)) == ["w"]


def test_a_repository_of_one_file_of_any_name(hub):
    weights(hub.root / "someone" / "tuned" / "my_motion_v3.safetensors")
    weights(hub.root / "someone" / "tuned" / "samples" / "other.safetensors")
    assert list(open_tensors(locate("someone/tuned", "motion_adapter"))) == ["w"]
    assert hub.weights() == ["my_motion_v3.safetensors"]


def test_a_repository_of_several_files_names_them(hub):
    for name in ("mm_v14.ckpt", "mm_v15.ckpt"):
        weights(hub.root / "someone" / "many" / name)
    with pytest.raises(
        CheckpointFileError, match=r"several checkpoints \(mm_v14\.ckpt, mm_v15\.ckpt\).*someone/many:F"
    ):
        locate("someone/many")
    assert hub.fetched == []


def test_what_a_repository_has_instead_is_said(hub, pipeline):
    with pytest.raises(CheckpointFileError, match=r"has no motion_adapter; it has someone/pipeline:text_encoder, "):
        locate("someone/pipeline:motion_adapter")
    (hub.root / "someone" / "flax").mkdir()
    (hub.root / "someone" / "flax" / "flax_model.msgpack").write_bytes(b"")
    with pytest.raises(CheckpointFileError, match=r"no checkpoint; it has weights of other frameworks \(flax_model"):
        locate("someone/flax")
    with pytest.raises(CheckpointFileError, match=r"The hub has no nobody/nothing, and there is no such file"):
        locate("nobody/nothing")
    assert hub.weights() == []


ADDRESSES = {
    "https://huggingface.co/someone/model": "give someone/model.",
    "https://huggingface.co/someone/model/": "give someone/model.",
    "huggingface.co/someone/model/tree/main": "give someone/model.",
    "https://huggingface.co/someone/model/tree/fp16/unet": "give someone/model@fp16:unet.",
    "https://huggingface.co/someone/model/blob/main/mm.ckpt": "give someone/model:mm.ckpt.",
    "https://hf.co/someone/model/resolve/v1/a/mm.ckpt?download=true": "give someone/model@v1:a/mm.ckpt.",
    "hf://someone/model/a/mm.ckpt": "give someone/model:a/mm.ckpt.",
    "https://civitai.com/models/108836": "download it, and give the file.",
    "https://example.org/mm.ckpt": "download it, and give the file.",
    "huggingface.co/someone": "download it, and give the file.",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_web_address_gets_a_hint(address):
    with pytest.raises(CheckpointFileError) as caught:
        locate(address)
    assert str(caught.value).endswith(ADDRESSES[address])


def test_a_missing_file_is_not_looked_for_on_the_hub(hub):
    with pytest.raises(CheckpointFileError, match=r"There is no file or folder weights/model\.safetensors"):
        locate("weights/model.safetensors")


def test_inspect_of_a_repository_shows_its_networks(hub, capsys, monkeypatch):
    pytest.importorskip("torch")
    from jaxmotion.convert import body
    from tests.support.public import PUBLIC

    folder = hub.root / "someone" / "whole"
    for part, kind in (("unet", "diffusers-motion"), ("vae", "diffusers-vae-tiny")):
        (folder / part).mkdir(parents=True)
        PUBLIC[kind](folder / part)
    (folder / "model_index.json").write_text("{}")
    body(["inspect", "someone/whole"])
    said = capsys.readouterr().out
    assert "MotionAdapter" in said
    assert "AutoencoderTiny" in said
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>not the file</html>")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.root.parent / "empty"))
    with pytest.raises(SystemExit):  # the damaged part is told, after the whole one is shown
        body(["inspect", "someone/whole"])
    said = capsys.readouterr().out
    assert "MotionAdapter" in said
    assert "diffusion_pytorch_model.safetensors is a web page" in said
