"""The house stands: floors import lower floors only, rooms and systems do not know each other, nothing is circular."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = [
    {"foundation"},
    {"nn", "diffusion", "video", "parallel"},
    {"models"},
    {"weights"},
    {"systems"},
    {"data", "training", "sampling", "evaluation", "meter"},
    {"runs"},
    {"commands"},
]
PACKAGE = Path(__file__).resolve().parents[1] / "jaxmotion"
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path) -> set[str]:
    """The jaxmotion modules that a file imports, also inside functions, but not under `if TYPE_CHECKING`."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    conditional = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    for_types = {id(inner) for node in conditional for each in node.body for inner in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found |= {node.module or ""}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name == "jaxmotion" or name.startswith("jaxmotion.")}


def _room(module: str) -> str:
    """The part of the house that a module stands in. The files directly in the package are commands, on top."""
    parts = module.split(".")
    if len(parts) == 2 and (PACKAGE / f"{parts[1]}.py").is_file():
        return "commands"
    return parts[1] if len(parts) > 1 else "jaxmotion"


@pytest.fixture(scope="module")
def modules(root: Path) -> dict[str, set[str]]:
    """Every module of the package and the modules of the package that it imports."""
    found = sorted(path for path in (root / "jaxmotion").rglob("*.py") if path.parent.name != "pytorch")  # for exports
    files = {_name(path, root): path for path in found}
    assert len(files) > 40
    return {name: {found for found in _imports(path) if found in files} - {name} for name, path in files.items()}


def test_every_module_stands_on_a_floor(modules: dict[str, set[str]]) -> None:
    homeless = {name for name in modules if name != "jaxmotion" and _room(name) not in FLOOR}
    assert not homeless


def test_imports_go_down(modules: dict[str, set[str]]) -> None:
    wrong = []
    for name, imports in modules.items():
        for target in imports - {"jaxmotion"}:
            room, other = _room(name), _room(target)
            if room != other and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{name} (floor {FLOOR[room]}) imports {target} (floor {FLOOR[other]})")
    assert not wrong, "\n".join(wrong)


def test_systems_do_not_know_each_other(modules: dict[str, set[str]]) -> None:
    def system(name: str) -> str | None:
        parts = name.split(".")
        return parts[2] if len(parts) > 3 and parts[1] == "systems" else None

    wrong = [
        f"{name} imports {target}"
        for name, imports in modules.items()
        for target in imports
        if system(name) and system(target) and system(name) != system(target)
    ]
    assert not wrong


def _names_in_code(path: Path) -> set[str]:
    """Identifiers, imported names and strings of a file: no comments, no docstrings, no `DESCRIPTION` of a command.

    A command's help shows examples with shipped configs, as a docstring may.
    """
    tree = ast.parse(path.read_text())
    found, docstrings = set(), set()
    for node in ast.walk(tree):
        for each in getattr(node, "body", None) or [] if isinstance(getattr(node, "body", None), list) else []:
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                docstrings.add(id(each.value))
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["DESCRIPTION"]:
            docstrings.add(id(node.value))
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(module=module, names=names):
                found |= {module or "", *(alias.name for alias in names)}
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                found.add(text)
    return found


def test_nothing_but_a_system_has_its_name_in_code(root: Path) -> None:
    """A system whose name is a network's too (`models/motion_estimator.py`) is known by its imports only."""
    package = root / "jaxmotion"
    folders = [path for path in sorted((package / "systems").iterdir()) if (path / "__init__.py").is_file()]
    assert {"livephoto", "motionstone"} <= {folder.name for folder in folders}
    wrong = []
    for folder in folders:
        words = [rf"systems\.{folder.name}"]
        if not (package / "models" / f"{folder.name}.py").is_file():
            words.append(folder.name.replace("_", "_?"))
        pattern = re.compile("|".join(words), re.IGNORECASE)
        for path in sorted(package.rglob("*.py")):
            if folder not in path.parents:
                wrong += [
                    f"{path.relative_to(root)}: {name!r}" for name in _names_in_code(path) if pattern.search(name)
                ]
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_in_circles(modules: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        for target in modules[name] - {"jaxmotion"}:
            visit(target, (*path, name))
        done.add(name)

    for name in modules:
        visit(name, ())


def test_importing_the_package_is_quick_and_touches_no_device() -> None:
    program = (
        "import time; start = time.perf_counter(); import jaxmotion; took = time.perf_counter() - start\n"
        "import sys; assert 'jax' not in sys.modules; print(took)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.5


def test_the_package_offers_its_public_names() -> None:
    import jaxmotion
    from jaxmotion.runs.trained import open_run
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

    assert jaxmotion.open_run is open_run
    assert jaxmotion.LivePhoto is LivePhoto
    assert {"LivePhoto", "MotionStone", "MotionEstimator", "Request", "estimate_motion"} <= set(dir(jaxmotion))
    assert all(hasattr(jaxmotion, name) for name in jaxmotion.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxmotion.nothing  # noqa: B018


def test_no_module_touches_a_device_when_imported(modules: dict[str, set[str]]) -> None:
    names = sorted(name for name in modules if _room(name) != "commands")
    program = (
        f"import importlib\nfor name in {names}: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\nassert not xla_bridge.backends_are_initialized(), 'a backend was started'"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


def test_ci_runs_the_test_command_of_the_readme(root: Path) -> None:
    command = "python -m pytest"
    assert command in (root / "README.md").read_text()
    assert command in (root / ".ci" / "run").read_text()


def test_the_architecture_page_names_what_is_there(root: Path) -> None:
    """Its paths exist, and what generic rooms ask of a system is asked by these names."""
    page = (root / "docs" / "architecture.md").read_text()
    paths = [path for path in re.findall(r"`([\w/]+(?:\.py|/))`", page) if "NAME" not in path]
    places = (root, root / "jaxmotion", root / "jaxmotion" / "weights")
    assert paths
    assert [path for path in paths if not any((place / path).exists() for place in places)] == []
    table = page[page.index("| generic rooms ask") : page.index("An `Experiment` puts")]
    system = ast.parse((PACKAGE / "systems" / "system.py").read_text())
    base = next(node for node in system.body if isinstance(node, ast.ClassDef) and node.name == "System")
    methods = {node.name for node in base.body if isinstance(node, ast.FunctionDef)}
    asked = {
        name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")
    }
    assert asked <= methods, asked - methods
    assert len(asked) > 5
