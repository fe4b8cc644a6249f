"""Captions of pictures are found in the forms in which clips have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxmotion.video.picture_captions import picture_captions

NAMES = ("Astronaut.JPG", "cat.png", "caf\u00e9.jpg", "plain.png")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in NAMES]
    for file in files:
        file.touch()
    return files


@pytest.mark.parametrize("key", ["file_name", "image", "Image Path", "id"])
@pytest.mark.parametrize("name", ["cat.png", "images/CAT.png", "cat"])
def test_a_list_names_pictures_by_any_key_that_is_used(pictures: list[Path], key: str, name: str) -> None:
    row = {key: name, "caption": ["a cat", "another"], "width": 3}
    (pictures[0].parent / "captions.jsonl").write_text(json.dumps(row) + "\n")
    assert picture_captions(pictures) == {pictures[1]: "a cat"}


def test_tables_texts_and_pictures_without_a_caption(pictures: list[Path]) -> None:
    folder = pictures[0].parent
    (folder / "metadata.csv").write_text("file_name,text\ncafe\u0301.jpg,a table outside\n", encoding="utf-8")
    (folder / "Astronaut.txt").write_text("a woman in a suit\n")
    (folder / "plain.json").write_text("[1, 2")  # not of a picture's caption, and no list
    with pytest.raises(ValueError, match=r"plain\.json"):
        picture_captions(pictures)
    (folder / "plain.json").unlink()
    assert picture_captions(pictures) == {pictures[2]: "a table outside", pictures[0]: "a woman in a suit"}


def test_the_shared_pictures_have_captions(shared_data: Path) -> None:
    files = sorted((shared_data / "images").glob("*.jpg"))
    found = picture_captions(files)
    assert set(found) == set(files)
    assert found[files[0]].startswith("An astronaut")
