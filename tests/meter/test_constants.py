"""Facts about motion have one home: names that once stood in several files are defined once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NAMES = (
    *("AXES", "STRONGER", "MOVES", "CAMERA_MOVES", "STATIC", "STEP", "LUMA"),
    *("RANSAC_THRESHOLD", "FORWARD_BACKWARD_LIMIT", "ssim_change", "quick_gelu", "tile_frames", "average_estimates"),
)
OTHER_MEANING = {"AXES": {"parallel/mesh.py"}}
"""Files that use a name for another fact."""


@pytest.fixture(scope="module")
def homes(root: Path) -> dict[str, list[str]]:
    """Files of the package that define a name at their top level."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "jaxmotion").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                found.setdefault(name, []).append(path.relative_to(root / "jaxmotion").as_posix())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_fact_is_defined_once(homes: dict[str, list[str]], name: str) -> None:
    assert len(set(homes[name]) - OTHER_MEANING.get(name, set())) == 1, homes[name]
