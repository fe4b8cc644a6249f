"""Config files: the shipped ones are found by name from any folder, a user's own by path."""

from __future__ import annotations

import difflib
from pathlib import Path

import jaxmotion

_PACKAGE = Path(jaxmotion.__file__).parent
SHIPPED = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), None)
"""The folder of the shipped configs: inside the package in a wheel, beside it in a checkout."""


def find_config(name: str) -> Path:
    """Returns the config file of a path (`my/config.py`) or of a shipped name (`quickstart`).

    A file at the path comes first. `configs/quickstart.py` names the shipped file too, from any folder.

    Raises:
        FileNotFoundError: there is neither; the message lists the shipped names.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem in shipped:
        return shipped[stem]
    near = difflib.get_close_matches(stem, shipped, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise FileNotFoundError(
        f"There is no config file {name!r}; give the path of a Python file of yours, or a shipped name: "
        f"{', '.join(shipped)}.{hint}"
    )


def shipped_configs() -> dict[str, Path]:
    """Returns the shipped config files by name."""
    if SHIPPED is None:
        return {}
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in sorted(SHIPPED.rglob("*.py"))}
