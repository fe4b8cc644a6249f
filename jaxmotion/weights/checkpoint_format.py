"""A format of checkpoints as a value: its names, the parts that it may hold, and the network that its shapes are of.

Parts are the top-level keys of a system's parameters (`denoiser`, `codec`, `text_encoder`, `content_encoder`), and a
few that only metrics use (`image_encoder`, `text_projection`, ...).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxmotion.weights.config_fields import MARKS, ConfigTable
from jaxmotion.weights.rules import Rule, Rules, Tensors, matches_any, parameter_paths_of, split_input, under

Parts = Mapping[str, Rules]
"""For each part, the rules between names of the format and paths below the part."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by path, below a part."""

Network = tuple[nn.Module, tuple[object, ...]]
"""A network and inputs, of any types, to initialise it with."""

Infer = Callable[[Shapes], Network]
"""Returns the network that parameters of these shapes are of; one reading of our paths serves all formats of a network.

It raises KeyError, whose argument is the path, if a parameter is missing without which the sizes cannot be inferred.
"""

INPUT_CONV, _OUTPUT_CONV = "conv_in.weight", "conv_out.weight"
_LATENT_CHANNELS = 4
WRAPPED = "@"
"""Stands between a format's name and the text before the names of its tensors: `diffusers-unet@module.`."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One spelling of one kind of checkpoint.

    name:        the name in commands.
    description: the kind of checkpoint, in words.
    parts:       the rules of each part that it may hold.
    required:    names that every file of this format has, and by which it is told from the others.
    forbidden:   patterns of names that no file of this format has.
    ignored:     patterns of names that are no parameters and are kept beside them, and of parameters that a network
                 may leave in the file, such as a last layer that nothing reads.
    axes:        how many axes tensors have, where two formats have the same names.
    networks:    by part, how the network is inferred; a part without it is taken to be complete.
    configs:     by part, the fields of the files beside it that decide what its network computes.
    wrapper:     text before all names, as saving a wrapped module puts it there.
    """

    name: str
    description: str
    parts: Parts
    required: tuple[str, ...]
    forbidden: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    axes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, Infer] = dataclasses.field(default_factory=dict)
    configs: Mapping[str, tuple[ConfigTable, ...]] = dataclasses.field(default_factory=dict)
    wrapper: str = ""

    def wrapped(self, wrapper: str) -> Format:
        """Returns the format of the same checkpoints with a text such as `module.` before all their names."""

        def with_wrapper(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(wrapper + name for name in names)

        return dataclasses.replace(
            self,
            name=f"{self.name}{WRAPPED}{wrapper}",
            description=f"{self.description}, each name after {wrapper}",
            parts={part: under(wrapper, "", rules) for part, rules in self.parts.items()},
            required=with_wrapper(self.required),
            forbidden=with_wrapper(self.forbidden),
            ignored=with_wrapper(self.ignored),
            axes={wrapper + name: axes for name, axes in self.axes.items()},
            wrapper=wrapper + self.wrapper,
        )

    def matches(self, tensors: Tensors) -> bool:
        """Returns whether a checkpoint with these tensors is of this format."""
        names = set(tensors)
        return (
            names.issuperset(self.required)
            and not any(matches_any(self.forbidden, name) for name in names)
            and all(name in names and len(tensors[name].shape) == axes for name, axes in self.axes.items())
        )

    def knows(self, name: str) -> bool:
        """Returns whether a tensor of this name has a place in this format, as a parameter or beside them."""
        return name in MARKS or self.is_parameter(name) or matches_any(self.ignored, name)

    def is_parameter(self, name: str) -> bool:
        """Returns whether a tensor of this name is a parameter of one of its parts."""
        return any(parameter_paths_of(rules, name) for rules in self.parts.values())

    def ignores(self, name: str) -> bool:
        """Returns whether a tensor of this name is kept beside the parameters."""
        return matches_any(self.ignored, name) and not self.is_parameter(name)

    def parts_of(self, tensors: Tensors) -> dict[str, Rules]:
        """Returns the parts that a checkpoint holds, with the rule of a widened first convolution if it has one."""
        found = {
            part: rules
            for part, rules in self.parts.items()
            if any(parameter_paths_of(rules, name) for name in tensors)
        }
        kernel, output = tensors.get(self.wrapper + INPUT_CONV), tensors.get(self.wrapper + _OUTPUT_CONV)
        plain = _LATENT_CHANNELS if output is None else output.shape[0]  # z_t has as many as come out
        if "denoiser" in found and kernel is not None and kernel.shape[1] > plain:
            found["denoiser"] = with_widened_input(found["denoiser"], plain, self.wrapper)
        return found

    def expected_parameters(self, part: str, seen: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the parameters, by path below the part, of the network that these are of: a complete checkpoint's.

        Raises:
            KeyError: a parameter is missing without which the sizes cannot be inferred; it is the error's argument.
        """
        if part not in self.networks or not seen:
            return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in seen.items()}
        return _parameters_of_network(self.networks[part], tuple(seen.items()))


def with_widened_input(rules: Rules, plain: int, wrapper: str = "", name: str = INPUT_CONV) -> Rules:
    """Returns rules with z_t's input channels (`plain` many) and condition channels in one first convolution."""
    name = wrapper + name
    joint = Rule(name, ("conv_in/kernel", "conv_condition/kernel"), split_input(plain))
    return (*(rule for rule in rules if rule.names != (name,)), joint)


def last_number(pattern: str, paths: Shapes) -> int:
    """Returns the largest number, the pattern's group, in the beginnings of paths. Raises KeyError if there is none."""
    numbers = [int(found[1]) for path in paths if (found := re.match(pattern, path))]
    if not numbers:
        raise KeyError(pattern.replace(r"(\d+)", "0"))
    return max(numbers)


@functools.lru_cache(maxsize=16)
def _parameters_of_network(
    infer: Infer, seen: tuple[tuple[str, tuple[int, ...]], ...]
) -> dict[str, jax.ShapeDtypeStruct]:
    network, inputs = infer(dict(seen))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return flatten_dict(shapes, sep="/")  # pyright: ignore[reportReturnType]
