"""Names of the kernels of a system in LoRA files: every name that they could have, made from the rule tables.

Nothing is guessed from a name that is found, because the underscores of Kohya's names are ambiguous.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxmotion.nn.low_rank import DOWN, UP, is_stacked, sides
from jaxmotion.weights.rules import ConversionError, Rules, paths_with_rules, tensors_of

ALPHA = "alpha"


@dataclasses.dataclass(frozen=True, eq=False)
class LoRAPart:
    """The names that LoRA files have for a part of the parameters.

    part:      its key in the parameters, `denoiser`.
    prefix:    of diffusers, `unet`.
    kohya:     prefixes of Kohya's scripts, `lora_unet`; the first is written.
    tables:    rules of the part, a table for each spelling of its names; a kernel gets the name in the first of them.
    alternate: whether these are other spellings of a part, which are read and not written.
    """

    part: str
    prefix: str
    kohya: tuple[str, ...]
    tables: tuple[Rules, ...]
    alternate: bool = False


_FACTORS = (("lora_A", "lora_B"), ("lora.down", "lora.up"), ("lora_linear_layer.down", "lora_linear_layer.up"))
"""PEFT; diffusers before PEFT, in the U-Net and in the text encoder."""
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
    theirs: shape of the torch weight, [D C] or [D C k k].
    ours:   shape of our kernel, [*C *D], without the axis of layers.
    """

    part: LoRAPart
    names: tuple[str, ...]
    path: str
    number: int
    theirs: tuple[int, ...]
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

    def spellings(self) -> Iterator[tuple[str, str]]:
        """Yields (name in a file, role) of the two factors and of alpha, in all layouts."""
        for name in self.names:
            for prefix in (f"{self.part.prefix}.", "", "base_model.model."):
                for down, up in _FACTORS:
                    yield f"{prefix}{name}.{down}.weight", DOWN
                    yield f"{prefix}{name}.{up}.weight", UP
                yield f"{prefix}{name}.{ALPHA}", ALPHA
                for end, projection in _PROCESSORS.items():
                    if name.endswith(end):
                        start = f"{prefix}{name.removesuffix(end)}"
                        for place in (f"{start}.processor", start):
                            yield f"{place}.{projection}_lora.down.weight", DOWN
                            yield f"{place}.{projection}_lora.up.weight", UP
            for flat in self.kohya(name):
                yield f"{flat}.lora_down.weight", DOWN
                yield f"{flat}.lora_up.weight", UP
                yield f"{flat}.{ALPHA}", ALPHA

    def torch_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shapes of the two factors as torch layers."""
        return (rank, *self.theirs[1:]), (self.theirs[0], rank, *(1,) * (len(self.theirs) - 2))

    def to_torch(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors of the torch layer from the factors [*C R] and [R *D] of our kernel."""
        first, second = self.torch_shapes(up.shape[0])
        return (
            np.ascontiguousarray(np.moveaxis(down, (-1, -2), (0, 1)).reshape(first)),
            np.ascontiguousarray(up.reshape(up.shape[0], -1).T.reshape(second)),
        )

    def to_jax(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors [*C R] and [R *D] of our kernel from those of the torch layer."""
        rank, (_, inputs, outputs) = down.shape[0], sides("", self.ours)
        return (
            np.moveaxis(down.reshape(rank, self.theirs[1], *inputs[:-1]), (0, 1), (-1, -2)),
            up.reshape(self.theirs[0], rank).T.reshape(rank, *outputs),
        )


def layers_of(shapes: Mapping[str, tuple[int, ...]], parts: Iterable[LoRAPart]) -> list[Layer]:
    """Returns the torch layers of kernels, given as shapes by path.

    Kernels that no table names alone have none: those without a rule, and those that a table joins from several tensors
    or cuts out of one. Names of parts with the same prefixes are spellings of one layer.
    """
    tables: dict[str, dict[tuple[str, tuple[str, ...]], list[LoRAPart]]] = {}
    for each in sorted(parts, key=lambda part: part.alternate):
        tables.setdefault(each.part, {}).setdefault((each.prefix, each.kohya), []).append(each)
    found = []
    for path, shape in shapes.items():
        head, _, rest = path.partition("/")
        spellings = (_spellings(same, rest, shape, is_stacked(path)) for same in tables.get(head, {}).values())
        part, named = next((found for found in spellings if found[1]), (None, {}))
        ours = shape[1:] if is_stacked(path) else shape
        for number, names in named.items():
            theirs = next(iter(names.values()))
            if part and (len(sides("", ours)[1]) > 1 or math.prod(theirs[2:]) == 1):  # no patches: we flatten windows
                found.append(Layer(part, tuple(names), path, number, theirs, ours))
    return found


def known_names(layers: Iterable[Layer]) -> dict[str, tuple[Layer, str]]:
    """Returns (layer, role) by name in a file. Raises ConversionError if a name could be of two layers."""
    known: dict[str, tuple[Layer, str]] = {}
    twice = []
    for layer in layers:
        for name, role in layer.spellings():
            if known.setdefault(name, (layer, role)) != (layer, role):
                twice.append(f"{name}: {known[name][0].name} and {layer.name} are both written so")
    if twice:
        raise ConversionError(unexpected=twice, source="The table of names")
    return known


def _spellings(
    parts: Iterable[LoRAPart], path: str, shape: tuple[int, ...], has_layers: bool
) -> tuple[LoRAPart | None, dict[int, dict[str, tuple[int, ...]]]]:
    """Returns (a part that names the kernel, torch shapes by number of the layer and torch name)."""
    first, named = None, {}
    for part in parts:
        for table in part.tables:
            for number, name, torch_shape in _torch_names(table, path, shape, shape[0] if has_layers else 1):
                first = first or part
                named.setdefault(number, {})[name] = torch_shape
    return first, named


def _torch_names(table: Rules, path: str, shape: tuple[int, ...], depth: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """Returns (number of the layer, torch name, torch shape) of a kernel; none if the table does not name it alone.

    The table is given a kernel whose values are the numbers of its layers.
    """
    if not paths_with_rules(table, [path]):
        return []
    numbers = np.arange(depth, dtype=np.int32).reshape(depth, *(1,) * (len(shape) - 1))
    try:
        tensors = tensors_of(table, {path: np.broadcast_to(numbers, shape)})
    except ConversionError:  # it makes the tensor of other parameters too
        return []
    if len(tensors) != depth:
        return []
    return [
        (int(np.asarray(tensor).flat[0]), name.removesuffix(".weight"), tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
