"""Photographs that the motion meter was not trained on."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

Photograph = UInt8[np.ndarray, "h w 3"]

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "images"
"""Test pictures beside the repository, which are not part of the project."""
TRAINED_ON = ("astronaut",)
"""Pictures of such a folder that are also among the scikit-image photographs of the meter's training."""
IN_WHEELS = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
"""Photographs in wheels that are installed anyway: those of scikit-image that training holds out, and one more."""
SUFFIXES = (".jpg", ".jpeg", ".png")


def photographs(source: str) -> dict[str, Photograph]:
    """Reads photographs by name.

    Args:
        source: `wheels`, a folder, or `auto`: the folder `../shared/data/images` where it is there, otherwise `wheels`.

    Raises:
        ValueError: there are none.
    """
    return _read(source)


def name_source(source: str) -> str:
    """Returns `wheels` or the folder that `auto` stands for; anything else as it is."""
    if source != "auto":
        return source
    return str(SHARED) if SHARED.is_dir() else "wheels"


@functools.lru_cache(maxsize=2)
def _read(source: str) -> dict[str, Photograph]:
    chosen = name_source(source)
    files = _wheel_files() if chosen == "wheels" else _folder_files(Path(chosen))
    read = {file.stem: cv2.imread(str(file), cv2.IMREAD_COLOR) for file in files}
    unread = sorted(name for name, picture in read.items() if picture is None)
    if unread or not read:
        raise ValueError(f"No photographs in {chosen}." if not read else f"{chosen}: {unread} cannot be read.")
    return {name: np.ascontiguousarray(picture[..., ::-1]) for name, picture in sorted(read.items())}


def _wheel_files() -> list[Path]:
    files = []
    for package, place in IN_WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(f"The photograph {place} of {package} is needed, and {package} is not installed.")
        files.append(Path(spec.origin).parent / place)
    return files


def _folder_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"Photographs are looked for in {folder}, and there is no such folder.")
    return [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.stem not in TRAINED_ON]
