"""Names of the kernels of a system in LoRA files: every name that they could have, made from the rule tables.

Nothing is guessed from a name that is found, because the underscores of Kohya's names are ambiguous.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxmotion.nn.low_rank import DOWN, UP, is_stacked, sides
from jaxmotion.weights.rules import ConversionError, Rules, parameter_paths_of, paths_with_rules, tensors_of

ALPHA = "alpha"


@dataclasses.dataclass(frozen=True, eq=False)
class LoRAPart:
    """The names that LoRA files have for a part of the parameters.

    part:      its key in the parameters, `denoiser`.
    prefix:    of diffusers, `unet`.
    kohya:     prefixes of Kohya's scripts, `lora_unet`; the first is written.
    tables:    rules of the part, a table for each spelling of its names; a kernel gets the name in the first of them.
    network:   the public network that the names are of, in words.
    alternate: whether these are other spellings of a part, which are read and not written.
    """

    part: str
    prefix: str
    kohya: tuple[str, ...]
    tables: tuple[Rules, ...]
    network: str
    alternate: bool = False


@dataclasses.dataclass(frozen=True)
class TensorName:
    """The name of a tensor in a LoRA file, taken apart.

    layer:   the torch layer, as this file spells it.
    role:    `down`, `up` or `alpha`.
    adapter: PEFT's name of the LoRA, which stands in the state of a model that is being trained: `default`.
    """

    layer: str
    role: str
    adapter: str = ""


_WRAPPERS = re.compile(r"^((base_model\.model|module|model\.diffusion_model|diffusion_model)\.)+")
"""Before names: of PEFT's model, of one on several devices, and of user interfaces."""
_COMPILED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module)\.")
_TENSOR = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<peft>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|\.lora_(?P<kohya>down|up)(?:\.(?P<named>[^.]+))?\.weight"
    r"|(?:\.lora|\.lora_linear_layer|(?<=_lora))\.(?P<old>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
"""PEFT; Kohya's scripts; diffusers before PEFT, in attention processors, other layers and the text encoder."""
_ROLES = {"A": DOWN, "B": UP, "down": DOWN, "up": UP, "alpha": ALPHA}
_PROCESSORS = {
    **{f".to_{x}": f"to_{x}" for x in "qkv"},
    ".to_out.0": "to_out",
    **{f".{x}_proj": f"to_{x}" for x in "qkv"},
    ".out_proj": "to_out",
}
"""Ends of names that the oldest files replace: they keep the factors in attention processors."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A torch layer that is a kernel of ours, or one of the layers that a stacked kernel holds.

    names:  its names in the tables; the first is written.
    path:   of our kernel; `number` counts the layers of a stack and is 0 elsewhere.
    shapes: of the torch weight, [D C] or [D C k k]; the first is written. The patches of CogVideoX are both: a
            convolution in versions 2B and 5B, a linear layer in 1.5.
    ours:   shape of our kernel, [*C *D], without the axis of layers.
    """

    part: LoRAPart
    names: tuple[str, ...]
    path: str
    number: int
    shapes: tuple[tuple[int, ...], ...]
    ours: tuple[int, ...]

    @property
    def name(self) -> str:
        """Returns the name in the files that are written."""
        return self.names[0]

    @property
    def shortest(self) -> str:
        """Returns the shortest end of the name that is a name too: transformers 5 has no `text_model.` in memory."""
        return min((name for name in self.names if f".{self.name}".endswith(f".{name}")), key=len)

    def kohya(self, name: str) -> Iterator[str]:
        """Yields the names of Kohya's scripts for a layer of this name."""
        return (f"{prefix}_{name.replace('.', '_')}" for prefix in self.part.kohya)

    def spellings(self) -> Iterator[str]:
        """Yields what files of all layouts call the layer, as in `TensorName.layer`."""
        for name in self.names:
            for whole in (f"{self.part.prefix}.{name}", name):
                yield whole
                for end, projection in _PROCESSORS.items():
                    if name.endswith(end):
                        start = whole.removesuffix(end)
                        yield from (f"{start}.processor.{projection}_lora", f"{start}.{projection}_lora")
            yield from self.kohya(name)

    @property
    def theirs(self) -> tuple[int, ...]:
        """Returns the shape of the torch weight that is written."""
        return self.shapes[0]

    def torch_shapes(self, rank: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Returns the shapes that the two factors can have as torch layers."""
        return [((rank, *shape[1:]), (shape[0], rank, *(1,) * (len(shape) - 2))) for shape in self.shapes]

    def to_torch(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors of the torch layer from the factors [*C R] and [R *D] of our kernel."""
        first, second = self.torch_shapes(up.shape[0])[0]
        return (
            np.ascontiguousarray(np.moveaxis(down, (-1, -2), (0, 1)).reshape(first)),
            np.ascontiguousarray(up.reshape(up.shape[0], -1).T.reshape(second)),
        )

    def to_jax(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors [*C R] and [R *D] of our kernel from those of the torch layer."""
        rank, (_, inputs, outputs) = down.shape[0], sides("", self.ours)
        return (
            np.moveaxis(down.reshape(rank, inputs[-1], *inputs[:-1]), (0, 1), (-1, -2)),
            up.reshape(self.theirs[0], rank).T.reshape(rank, *outputs),
        )


def take_apart(name: str) -> TensorName | None:
    """Returns the layer, role and adapter in the name of a tensor; None if it is no factor and no alpha."""
    found = _TENSOR.fullmatch(_WRAPPERS.sub("", _COMPILED.sub(r"\1", name)))
    if found is None:
        return None
    role = _ROLES[found["peft"] or found["kohya"] or found["old"] or found["alpha"]]
    return TensorName(found["layer"], role, found["adapter"] or found["named"] or "")


def part_named(layer: str, parts: Iterable[LoRAPart]) -> LoRAPart | None:
    """Returns the part whose networks could have a layer that a file calls so, whatever their depth and width."""
    plain = re.sub(r"\.(processor\.)?to_([qkv])_lora$", r".to_\2", layer)
    plain = re.sub(r"\.(processor\.)?to_out_lora$", ".to_out.0", plain)
    for part in parts:
        for table in part.tables:
            dotted = f"{plain.removeprefix(f'{part.prefix}.')}.weight"
            if any(path.endswith("/kernel") for path in parameter_paths_of(table, dotted) or ()):
                return part
            flat = next((layer.removeprefix(f"{start}_") for start in part.kohya if layer.startswith(f"{start}_")), "")
            if flat and _flat_kernels(tuple(table)).fullmatch(flat):
                return part
    return None


@functools.lru_cache(maxsize=32)
def _flat_kernels(table: Rules) -> re.Pattern[str]:
    """Returns a regular expression for the kernels' names with underscores instead of dots."""
    names = (r.names[0] for r in table if len(r.names) == 1 and any(p.endswith("/kernel") for p in r.paths))
    flat = (re.sub(r"\{\w+\}", "#", name.removesuffix(".weight")).replace(".", "_") for name in names)
    return re.compile("|".join(re.escape(name).replace(r"\#", r"\d+") for name in flat))


def layers_of(shapes: Mapping[str, tuple[int, ...]], parts: Iterable[LoRAPart]) -> list[Layer]:
    """Returns the torch layers of kernels, given as shapes by path.

    Kernels that no table names alone have none: those without a rule, and those that a table joins from several tensors
    or cuts out of one. Names of parts with the same prefixes are spellings of one layer.
    """
    groups: dict[str, dict[tuple[str, tuple[str, ...]], list[LoRAPart]]] = {}
    for each in sorted(parts, key=lambda part: part.alternate):
        groups.setdefault(each.part, {}).setdefault((each.prefix, each.kohya), []).append(each)
    return [layer for part, same in groups.items() for layer in _layers_of_part(part, same.values(), shapes)]


def known_names(layers: Iterable[Layer]) -> dict[str, Layer]:
    """Returns the layers by all their names in files. Raises ConversionError if a name could be of two layers."""
    known: dict[str, Layer] = {}
    twice = []
    for layer in layers:
        for name in layer.spellings():
            if known.setdefault(name, layer) is not layer:
                twice.append(f"{name}: {known[name].name} and {layer.name} are both written so")
    if twice:
        raise ConversionError(unexpected=twice, source="The table of names")
    return known


def _layers_of_part(
    head: str, groups: Iterable[Iterable[LoRAPart]], shapes: Mapping[str, tuple[int, ...]]
) -> list[Layer]:
    """Returns the layers of one part by the spellings of the network that names most of its kernels."""
    mine = {path: shape for path, shape in shapes.items() if path.startswith(f"{head}/")}
    return max((_layers_by(parts, mine) for parts in groups), key=len, default=[])


def _layers_by(parts: Iterable[LoRAPart], shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    found = []
    for path, shape in shapes.items():
        stacked = is_stacked(path)
        named: dict[int, dict[str, None]] = {}
        writer: LoRAPart | None = None
        forms: dict[tuple[int, ...], None] = {}
        for part, table in ((each, table) for each in parts for table in each.tables):
            for number, name, torch_shape in _torch_names(table, path.partition("/")[2], shape, stacked):
                writer = writer or part
                named.setdefault(number, {})[name] = None
                forms[torch_shape] = None
        if writer:
            found += [
                Layer(writer, tuple(names), path, number, tuple(forms), shape[stacked:])
                for number, names in named.items()
            ]
    return found


def _torch_names(
    table: Rules, path: str, shape: tuple[int, ...], stacked: bool
) -> list[tuple[int, str, tuple[int, ...]]]:
    """Returns (number of the layer, torch name, torch shape) of a kernel; none if the table does not name it alone.

    The table is given a kernel whose values are the numbers of its layers.
    """
    if not paths_with_rules(table, [path]):
        return []
    depth = shape[0] if stacked else 1
    numbers = np.arange(depth, dtype=np.int32).reshape(depth, *(1,) * (len(shape) - 1))
    try:
        tensors = tensors_of(table, {path: np.broadcast_to(numbers, shape)})
    except ValueError:  # it makes the tensor of other parameters too, or is of another size of patches
        return []
    if len(tensors) != depth:
        return []
    return [
        (int(np.asarray(tensor).flat[0]), name.removesuffix(".weight"), tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
