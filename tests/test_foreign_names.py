"""Names in files of somebody else lead to no other folder: not what is written, and not what is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxmotion.data.precomputed import INFO, SETTINGS, PrecomputedLatents
from jaxmotion.data.tokenize import ClipTokenizer
from jaxmotion.evaluation.evaluation import numbers_path
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.files import is_file_name
from jaxmotion.systems.control import Scalar, filename_suffix
from jaxmotion.training.checksums import CHECKSUMS, find_damage, write_checksums
from jaxmotion.weights import native_files
from jaxmotion.weights.native_files import DESCRIPTION
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.tokenizers import clip_component
from jaxmotion.weights.write import write_tensors

ELSEWHERE = ["../there", "/tmp/there", "a/b", "a\\b", "..", ".", "", "a\0b", 3, None, ["a"]]
TENSORS = {"weight": np.ones(3, np.float32)}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_of_files_are_told_from_ways() -> None:
    assert not any(map(is_file_name, ELSEWHERE))
    assert all(map(is_file_name, ["model", "diffusion_pytorch_model.fp16", "..a", "v1-5 pruned", "ünïcode", "a:b"]))


@pytest.mark.parametrize("stem", ELSEWHERE)
def test_an_import_of_somebody_else_is_exported_below_its_destination_or_not_at_all(tmp_path: Path, stem) -> None:
    """The stem in its description names what is written."""
    imported = tmp_path / "imported"
    native_files.write(imported, TENSORS, {"format": "animatediff", "latents": 0, "stem": stem})
    before = files_below(tmp_path)
    with pytest.raises(CheckpointFileError, match=rf"{re.escape(DESCRIPTION)}: the stem .* is no name of a file"):
        native_files.restore(imported, tmp_path / "deep" / "out")
    assert files_below(tmp_path) == before
    with pytest.raises(ValueError, match="would lead out of"):
        write_tensors(tmp_path / "deep" / "out", stem, TENSORS)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_names_shards_beside_it(tmp_path: Path, name) -> None:
    write_tensors(tmp_path, "there", TENSORS)
    folder = tmp_path / "model"
    folder.mkdir()
    name = "../there.safetensors" if name == "../there" else name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(CheckpointFileError, match=r"names shards that are not beside it|is text, not a checkpoint"):
        open_tensors(folder)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".."])
def test_an_evaluation_of_a_runs_config_writes_into_the_run(tmp_path: Path, name: str) -> None:
    assert numbers_path(tmp_path, "control_curve").is_relative_to(tmp_path)
    with pytest.raises(ValueError, match=r"The evaluation .* cannot name a file"):
        numbers_path(tmp_path, name)


def test_controls_of_a_runs_config_name_no_folder() -> None:
    controls = {"../../camera": Scalar(low=1.0, high=10.0, default=5.0), "object": Scalar(low=1.0, high=10.0)}
    assert filename_suffix(controls, {"../../camera": 2.5, "object": 3.0}) == "-.._.._camera2.5-object03"


def test_checksums_are_of_files_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    (folder / "trained").mkdir(parents=True)
    (folder / "trained" / "d").write_text("numbers")
    (tmp_path / "secret").write_text("secret")
    write_checksums(folder)
    assert find_damage(folder) is None
    sums = json.loads((folder / CHECKSUMS).read_text())
    for name in ("../secret", str(tmp_path / "secret"), "trained/../../secret"):
        (folder / CHECKSUMS).write_text(json.dumps({**sums, name: {"bytes": 6, "blake2b": "?"}}))
        assert find_damage(folder) == f"{CHECKSUMS} names {name!r}, which is no file in it"


def test_a_prepared_set_holds_its_own_records(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text("{}")
    (tmp_path / INFO).write_text(json.dumps({"splits": [{"name": "train", "filepathTemplate": "../{DATASET}"}]}))
    with pytest.raises(ValueError, match=r"dataset_info.json: filepathTemplate '\.\./\{DATASET\}' leads out"):
        PrecomputedLatents(str(tmp_path)).open()


def test_a_tokenizer_reads_its_own_words(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).touch()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "/elsewhere/vocab.json"}))
    for read in (lambda: ClipTokenizer(str(tmp_path))(["a dog"]), lambda: clip_component(tmp_path, 77)):
        with pytest.raises(ValueError, match=r"tokenizer_config.json: vocab_file '/elsewhere/vocab.json' leads to"):
            read()
