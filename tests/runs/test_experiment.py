"""Experiments as files, overrides and JSON; and what happens when any of these is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from jaxmotion.runs import experiment, train
from jaxmotion.runs import trained as run
from jaxmotion.systems.livephoto.livephoto import LivePhoto

CONFIGS = ["livephoto.py", "quickstart.py"]


def everything(path: Path) -> dict[str, experiment.Experiment]:
    """All experiments of a config file."""
    names: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, experiment.Experiment)}


@pytest.mark.parametrize("file", CONFIGS)
def test_every_experiment_comes_back_from_its_json(root: Path, file: str) -> None:
    found = everything(root / "configs" / file)
    assert "full" in found
    for value in found.values():
        assert experiment.from_json(json.loads(json.dumps(experiment.to_json(value)))) == value


def test_overrides_reach_every_part(root: Path) -> None:
    asked = [
        "--train.steps",
        "7",
        "--system.conditioners.level.scale",
        "2",
        "--data.path",
        "x",
        "--sampling.initial_noise.first",
        "0.5",
    ]
    changed = experiment.override(experiment.load(f"{root}/configs/livephoto.py:tiny"), asked, "test", "")
    assert isinstance(changed.system, LivePhoto)
    assert changed.system.level is not None
    assert (changed.train.steps, changed.system.level.scale, changed.data.path) == (7, 2.0, "x")
    assert changed.sampling.initial_noise.first == 0.5


def test_a_misspelt_override_names_what_was_meant(root: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        experiment.override(experiment.load(f"{root}/configs/livephoto.py:tiny"), ["--train.stepz", "7"], "test", "")
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "--train.steps" in said.out + said.err


def test_unknown_names_and_files_say_what_there_is(root: Path) -> None:
    with pytest.raises(ValueError, match=r"Did you mean .*livephoto\.py:tiny\?"):
        experiment.load(f"{root}/configs/livephoto.py:tinny")
    with pytest.raises(FileNotFoundError, match="There is no config file"):
        experiment.load("configs/nothing.py")


def test_parts_that_do_not_fit_are_refused(root: Path) -> None:
    tiny = experiment.load(f"{root}/configs/livephoto.py:tiny")
    with pytest.raises(ValueError, match="must agree on clips"):
        dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, frames=5))
    with pytest.raises(ValueError, match="They must be the same"):
        dataclasses.replace(tiny, tokenizer=dataclasses.replace(tiny.tokenizer, length=9))


def test_json_of_something_else_is_refused(root: Path) -> None:
    values = experiment.to_json(experiment.load(f"{root}/configs/livephoto.py:tiny"))
    with pytest.raises(ValueError, match="no part of jaxmotion"):
        experiment.from_json({**values, "data": {"class": "os:system"}})
    with pytest.raises(ValueError, match="does not describe an experiment of this version"):
        experiment.from_json({**values, "unheard_of": 1})


def test_guidance_that_did_nothing_is_left_out_of_what_was_saved(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Earlier versions accepted it on conditions without a null; a run that has it opens."""
    tiny = experiment.load("livephoto:tiny")
    saved = experiment.to_json(tiny)
    saved["sampling"]["others"] = [["level", 2.0]]
    del saved["sampling"]["guidance_scales"]
    assert experiment.from_json(saved) == tiny
    assert "guidance of 2 on 'level' is left out" in caplog.text
    saved["sampling"]["others"] = [["levle", 2.0]]
    with pytest.raises(ValueError, match="no condition 'levle'"):
        experiment.from_json(saved)


def test_a_preview_that_fails_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, root: Path
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("boxes")

    monkeypatch.setattr(train, "_write_preview", fail)
    asked = experiment.load(f"{root}/configs/livephoto.py:tiny")
    train._try_preview(asked, None, None, Path(), {}, 7)  # pyright: ignore[reportArgumentType]
    assert "previews of step 7" in caplog.text
    assert "boxes" in caplog.text


CHANGES = {
    "new_field": (("train", "new_thing"), 3, "train: this version has no field new_thing; a newer one wrote it"),
    "new_class": (("system", "codec", "class"), "NewCodec", "system.codec: 'NewCodec' is no part of jaxmotion"),
    "text_for_number": (("train", "steps"), "12", 'train.steps: "12" is not a whole number'),
    "text_for_list": (
        ("system", "unet", "features"),
        "64",
        "system.unet: features is the text '64' and must be a list",
    ),
    "half_a_step": (("train", "steps"), 1.5, "train.steps: 1.5 is not a whole number"),
    "number_for_choice": (("train", "tensorboard"), 1, "train.tensorboard: 1 is not true or false"),
    "no_such_choice": (("train", "decay"), "linearr", 'train.decay: "linearr" is none of "constant", "cosine"'),
    "no_number": (("system", "dropout", "text"), "a", """system.dropout['text']: "a" is not a number"""),
    "no_class": (("system",), {}, "system: a part of type System must be a JSON object with the key 'class'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_edited_or_newer_config_names_its_file_and_field(tmp_path: Path, name: str) -> None:
    (*above, last), value, message = CHANGES[name]
    values = experiment.to_json(experiment.load("quickstart"))
    part = values
    for each in above:
        part = part[each]
    part[last] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{re.escape(message)}"):
        experiment.read(path)


@pytest.mark.parametrize("content", [b"", b'{"class": "Exp', b"\x00", b"\xff{}"])
@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_a_half_written_file_of_a_run_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    whole = json.dumps(experiment.to_json(experiment.load("quickstart:smoke")))
    (tmp_path / "config.json").write_text(whole)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))} is damaged"):
        run.open_run(tmp_path)


@pytest.mark.parametrize("content", ['{"level_edges": [1, 2]}', '{"level_edges": 3}', "[1]"])
def test_a_calibration_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(experiment.to_json(experiment.load("quickstart:smoke"))))
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / 'calibration.json'))} "):
        run.open_run(tmp_path)
