"""What LoRA files call the kernels of a system: every name that they could have, made from the rule tables.

Nothing is guessed from a name that is found, for the underscores of Kohya's names cannot be told apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxmotion.nn.low_rank import DOWN, UP, sides, stacked
from jaxmotion.weights.rules import ConversionError, Rules, covered, tensors_of
from jaxmotion.weights.tables.animatediff import ANIMATEDIFF
from jaxmotion.weights.tables.clip import CLIP_TEXT, CLIP_TEXT_BARE
from jaxmotion.weights.tables.latent_diffusion import LDM_UNET
from jaxmotion.weights.tables.stable_diffusion import MOTION, UNET

ALPHA = "alpha"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What LoRA files call a part of the parameters.

    prefix: of diffusers, `unet`.
    kohya:  prefixes of Kohya's scripts, `lora_unet`; the first is written.
    tables: rules of the part, a table for each spelling of its names; a kernel is written as the first one calls it.
    """

    prefix: str
    kohya: tuple[str, ...]
    tables: tuple[Rules, ...]


Parts = Mapping[str, Part]

STABLE_DIFFUSION: Parts = {
    "denoiser": Part("unet", ("lora_unet",), (UNET, MOTION, ANIMATEDIFF, LDM_UNET)),
    "text_encoder": Part("text_encoder", ("lora_te", "lora_te1"), (CLIP_TEXT, CLIP_TEXT_BARE)),
}
"""Stable Diffusion 1.5 with motion modules. The names of the latent diffusion code are those of its full depth."""

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

    names:  how tables call it; the first is written.
    path:   of our kernel; `number` counts the layers of a stack and is 0 elsewhere.
    theirs: shape of the torch weight, [D C] or [D C k k].
    ours:   shape of our kernel, [*C *D], without the axis of layers.
    """

    part: Part
    names: tuple[str, ...]
    path: str
    number: int
    theirs: tuple[int, ...]
    ours: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name that is written."""
        return self.names[0]

    @property
    def shortest(self) -> str:
        """The shortest end of the name that is a name too: transformers 5 has no `text_model.` in memory."""
        return min((name for name in self.names if f".{self.name}".endswith(f".{name}")), key=len)

    def kohya(self, name: str) -> Iterator[str]:
        """What Kohya's scripts call a layer of this name."""
        return (f"{prefix}_{name.replace('.', '_')}" for prefix in self.part.kohya)

    def spellings(self) -> Iterator[tuple[str, str]]:
        """(name in a file, role) of the two factors and of alpha, in all layouts."""
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
        """Shapes of the two factors as torch layers."""
        return (rank, *self.theirs[1:]), (self.theirs[0], rank, *(1,) * (len(self.theirs) - 2))

    def to_torch(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factors [*C R] and [R *D] of our kernel as those of the torch layer."""
        first, second = self.torch_shapes(up.shape[0])
        return (
            np.ascontiguousarray(np.moveaxis(down, (-1, -2), (0, 1)).reshape(first)),
            np.ascontiguousarray(up.reshape(up.shape[0], -1).T.reshape(second)),
        )

    def to_jax(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The way back."""
        rank, (_, inputs, outputs) = down.shape[0], sides("", self.ours)
        return (
            np.moveaxis(down.reshape(rank, self.theirs[1], *inputs[:-1]), (0, 1), (-1, -2)),
            up.reshape(self.theirs[0], rank).T.reshape(rank, *outputs),
        )


def layers_of(shapes: Mapping[str, tuple[int, ...]], parts: Parts) -> list[Layer]:
    """The torch layers of kernels, given as shapes by path.

    Kernels that no table names alone have none: those that no table speaks of, and those that a table joins from
    several tensors or cuts out of one.
    """
    found = []
    for path, shape in shapes.items():
        head, _, rest = path.partition("/")
        named: dict[int, dict[str, tuple[int, ...]]] = {}
        for table in parts[head].tables if head in parts else ():
            for number, name, torch_shape in _named(table, rest, shape, shape[0] if stacked(path) else 1):
                named.setdefault(number, {})[name] = torch_shape
        ours = shape[1:] if stacked(path) else shape
        for number, names in named.items():
            theirs = next(iter(names.values()))
            if len(sides("", ours)[1]) > 1 or math.prod(theirs[2:]) == 1:  # no patches, whose windows we flatten
                found.append(Layer(parts[head], tuple(names), path, number, theirs, ours))
    return found


def known_names(layers: Iterable[Layer]) -> dict[str, tuple[Layer, str]]:
    """(layer, role) by name in a file. Raises ConversionError if a name could be of two layers."""
    known: dict[str, tuple[Layer, str]] = {}
    twice = []
    for layer in layers:
        for name, role in layer.spellings():
            if known.setdefault(name, (layer, role)) != (layer, role):
                twice.append(f"{name}: {known[name][0].name} and {layer.name} are both written so")
    if twice:
        raise ConversionError(unexpected=twice, source="The table of names")
    return known


def _named(table: Rules, path: str, shape: tuple[int, ...], depth: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """(number of the layer, torch name, torch shape) of a kernel; none if the table does not name it alone.

    The table is given a kernel whose values are the numbers of its layers.
    """
    if not covered(table, [path]):
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
