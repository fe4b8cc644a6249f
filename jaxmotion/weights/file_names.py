"""Names of checkpoint files: which file of a folder, here or on a hub, is the checkpoint.

diffusers and transformers name a file by a stem, a variant, the place among shards and a form:

    diffusion_pytorch_model.safetensors                           model.fp16.safetensors
    diffusion_pytorch_model.fp16-00001-of-00002.safetensors       pytorch_model-00001-of-00002.bin
    diffusion_pytorch_model.safetensors.index.fp16.json           pytorch_model.bin.index.json

Source: `_add_variant` and `variant_compatible_siblings` of diffusers 0.42, `modeling_utils.py` of transformers 5. Their
earlier versions put the variant of an index before `.index`, and of a shard behind its number.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from jaxmotion.foundation.errors import CheckpointFileError

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_STANDARD = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Stems of diffusers and transformers, in the order of preference."""
_PRECISIONS = ("fp32", "fp16", "bf16")
"""Variants that hold the same numbers, the most precise first."""
_OTHER_FRAMEWORKS = (".msgpack", ".h5", ".onnx", ".gguf", ".tflite", ".engine", ".pb")

_NAME = re.compile(
    rf"(?P<stem>{'|'.join(_STANDARD)})(\.(?P<v1>[\w-]+?))?(?P<shard>-\d+-of-\d+)?(\.(?P<v2>[\w-]+))?"
    r"\.(?P<form>safetensors|bin)(\.(?P<v3>\w+))?(?P<index>\.index(\.(?P<v4>\w+))?\.json)?"
)
_INDEX = re.compile(r".+\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json")
_SHARD = re.compile(r"-\d+-of-\d+(\.\w+)?\.(safetensors|bin)$")


@dataclasses.dataclass(frozen=True)
class StandardName:
    """The name of a file as diffusers or transformers make it; `variant` is empty for the plain one."""

    stem: str
    variant: str
    form: str
    is_index: bool

    @property
    def preference(self) -> tuple[bool, bool, int]:
        """Returns what the names of one variant are sorted by: safetensors first, then indices, then stems."""
        return self.form != "safetensors", not self.is_index, _STANDARD.index(self.stem)


def parse(name: str) -> StandardName | None:
    """Returns the parts of a standard name; None for any other."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    variants = [found[group] for group in ("v1", "v2", "v3", "v4") if found[group]]
    if len(variants) > 1:
        return None
    return StandardName(found["stem"], "".join(variants), found["form"], found["index"] is not None)


def is_index(name: str) -> bool:
    """Returns whether this is the name of an index of shards."""
    return _INDEX.fullmatch(name) is not None


def index_name(stem: str) -> str:
    """Returns the name of the index of safetensors shards with this stem, which may end in a variant."""
    found = parse(f"{stem}.safetensors")
    if found is None or not found.variant:
        return f"{stem}.safetensors.index.json"
    return f"{found.stem}.safetensors.index.{found.variant}.json"


def stem_of(name: str) -> str:
    """Returns the stem under which the tensors of a file or an index are written as safetensors, variant included."""
    if (found := parse(name)) is None:
        return re.sub(r"\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json$", "", name).removesuffix(Path(name).suffix)
    stem = "model" if found.stem == "pytorch_model" else found.stem
    return f"{stem}.{found.variant}" if found.variant else stem


def choose(names: Iterable[str], where: str) -> str | None:
    """Returns the name of a folder's checkpoint: a file or an index; None if there is none.

    The plain variant comes before others, safetensors before pickles, an index before a single file, and a standard
    name before any other. Where only variants of other precision are there, the most precise is taken.

    Args:
        where: the folder, for messages.

    Raises:
        CheckpointFileError: there are several, and none comes first; or shards without their index.
    """
    files = sorted(name for name in names if name.endswith(ENDINGS) or is_index(name))
    whole = [name for name in files if not _SHARD.search(name)]
    standard = {name: found for name in whole if (found := parse(name))}
    if standard:
        variants = {found.variant for found in standard.values()}
        if "" not in variants and len(variants) > 1 and not variants.issubset(_PRECISIONS):
            raise _several(standard, where)
        first = next((each for each in ("", *_PRECISIONS) if each in variants), None)
        first = min(variants) if first is None else first
        return min(
            (name for name, found in standard.items() if found.variant == first), key=lambda n: standard[n].preference
        )
    if whole:
        if len({stem_of(name) for name in whole}) > 1:
            raise _several(whole, where)
        return min(whole, key=lambda name: (not is_index(name), ENDINGS.index(_form(name))))
    if files:
        raise CheckpointFileError(
            f"{where} holds shards of a checkpoint ({', '.join(files[:3])}) without their index; fetch the file "
            "that ends in .index.json too."
        )
    return None


def other_frameworks(names: Iterable[str]) -> list[str]:
    """Returns the names of weights that other frameworks read."""
    return sorted(name for name in names if name.endswith(_OTHER_FRAMEWORKS))


def _form(name: str) -> str:
    """Returns the ending of a file, or of the shards that an index is of."""
    return ".bin" if ".bin." in name and is_index(name) else ".safetensors" if is_index(name) else Path(name).suffix


def _several(names: Iterable[str], where: str) -> CheckpointFileError:
    return CheckpointFileError(f"{where} holds several checkpoints ({', '.join(sorted(names))}); name one of them.")
