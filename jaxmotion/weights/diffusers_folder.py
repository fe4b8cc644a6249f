"""The folder that `DiffusionPipeline.from_pretrained` opens: components, each in a folder of its own, and an index.

Source: `model_index.json` of diffusers. A class that diffusers and transformers do not have is a small PyTorch file
that ships in its component's folder (`trust_remote_code=True`); these files are in the
folders `pytorch/`, here and beside the systems that need them.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from jaxmotion.foundation.config_json import JsonValue
from jaxmotion.weights.diffusers_configs import DIFFUSERS
from jaxmotion.weights.rules import Tensors
from jaxmotion.weights.write import write_tensors

CODE = Path(__file__).parent / "pytorch"
"""Folder of PyTorch files that ship inside exported folders of any system; this package does not import them."""
_PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("diffusers", "transformers")


@dataclasses.dataclass(frozen=True)
class Component:
    """One part of a pipeline.

    library:     "diffusers", "transformers", or the name of a file in `code` that ships with it.
    config:      the content of its JSON file; empty when the files are all there is to it.
    config_name: the name of that JSON file.
    tensors:     its `state_dict`.
    files:       files to copy as they are.
    code:        the folder of the PyTorch file that ships with it.
    """

    library: str
    class_name: str
    config: Mapping[str, JsonValue] = dataclasses.field(default_factory=dict)
    config_name: str = "config.json"
    tensors: Tensors = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    code: Path = CODE

    def write_into(self, folder: Path) -> None:
        """Writes the component's files into a folder that is there."""
        if self.config:
            write_json(folder / self.config_name, self.config)
        if self.tensors:
            stem = "model" if self.library == "transformers" else "diffusion_pytorch_model"
            write_tensors(folder, stem, self.tensors)
        if self.library not in LIBRARIES:
            (folder / f"{self.library}.py").write_text(standalone(self.code / f"{self.library}.py"))
        for file in self.files:
            shutil.copyfile(file, folder / file.name)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A pipeline class, its components by name, and its other arguments.

    library:   the name of the file in `code` that has the class, or "diffusers".
    arguments: JSON values, none of them a list, which the index keeps for components.
    code:      the folder of the file that has the class.
    """

    library: str
    class_name: str
    components: Mapping[str, Component]
    arguments: Mapping[str, JsonValue]
    code: Path = CODE

    def write_into(self, folder: Path) -> None:
        """Writes the index, the pipeline's file and the components into a folder that is there."""
        parts = {name: [part.library, part.class_name] for name, part in self.components.items()}
        stock = self.library in LIBRARIES
        name = self.class_name if stock else [self.library, self.class_name]
        index = {"_class_name": name, "_diffusers_version": DIFFUSERS}
        write_json(folder / "model_index.json", {**index, **parts, **self.arguments})
        if not stock:
            (folder / f"{self.library}.py").write_text(standalone(self.code / f"{self.library}.py"))
        for name, part in self.components.items():
            (folder / name).mkdir()
            part.write_into(folder / name)


def standalone(file: Path) -> str:
    """Returns the text of a PyTorch file with the files of this package that it imports in the place of the imports.

    From a hub, diffusers fetches only the one file that has the pipeline's class.
    """
    text = file.read_text()
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_PACKAGE.name}."):
            other = _PACKAGE.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            lines[node.lineno - 1 : node.end_lineno] = standalone(other).splitlines()
    return "\n".join(lines) + "\n"


def write_json(path: Path, values: Mapping[str, JsonValue]) -> None:
    """Writes JSON as people read it."""
    path.write_text(json.dumps(values, indent=2) + "\n")


def files_in(folder: Path) -> list[Path]:
    """Returns all files of a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
