"""Rules that pair the names of a PyTorch checkpoint with the '/'-joined paths of our parameters, in both directions.

In both patterns of a rule `{word}` stands for the same number. `{stack}`, in the torch patterns only, stands for the
number of a layer whose parameters we keep stacked on a first axis (`nn.chain.Stack`). Every torch name and every
parameter must be matched exactly once; otherwise the conversion stops and says which were not. Arrays are NumPy arrays
and keep their precision.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.types import Params


class ConversionError(ValueError):
    """A checkpoint and the parameters do not match; the message lists what is missing, unexpected or mis-shaped."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """An invertible change of layout: `to_jax` takes the torch tensors of a rule, `to_torch` gives them back."""

    to_jax: Callable[..., np.ndarray]
    to_torch: Callable[[np.ndarray], Sequence[np.ndarray]]


SAME = Transform(lambda x: x, lambda x: (x,))
LINEAR = Transform(lambda x: x.T, lambda x: (x.T,))  # [D C] there, [C D] here
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))  # a linear layer here
PAIR_KERNEL = Transform(lambda x: x.T.reshape(x.shape[1], 2, -1), lambda x: (x.reshape(x.shape[0], -1).T,))
PAIR_BIAS = Transform(lambda x: x.reshape(2, -1), lambda x: (x.reshape(-1),))
JOINED_KERNEL = Transform(lambda a, b: np.stack([a.T, b.T], axis=1), lambda x: (x[:, 0].T, x[:, 1].T))
JOINED_BIAS = Transform(lambda a, b: np.stack([a, b]), lambda x: (x[0], x[1]))


@dataclasses.dataclass(frozen=True)
class Rule:
    """The torch names of the tensors that make one parameter, in the order of the transform, and its path."""

    torch: str | tuple[str, ...]
    path: str
    transform: Transform = SAME

    @property
    def names(self) -> tuple[str, ...]:
        """The torch patterns."""
        return (self.torch,) if isinstance(self.torch, str) else self.torch


Rules = Sequence[Rule]


def linear(torch: str, path: str, kernel: Transform = LINEAR) -> tuple[Rule, ...]:
    """A layer with weight and bias, or with a weight alone."""
    return Rule(f"{torch}.weight", f"{path}/kernel", kernel), Rule(f"{torch}.bias", f"{path}/bias")


def conv(torch: str, path: str) -> tuple[Rule, ...]:
    """A two-dimensional convolution."""
    return linear(torch, path, CONV)


def pointwise(torch: str, path: str) -> tuple[Rule, ...]:
    """A 1 x 1 convolution there, a linear layer here."""
    return linear(torch, path, POINTWISE)


def norm(torch: str, path: str) -> tuple[Rule, ...]:
    """A norm with scale and shift."""
    return Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")


def pair(torch: str, path: str) -> tuple[Rule, ...]:
    """A linear layer whose result falls into two halves (`nn.feedforward.GatedMLP`), one tensor there."""
    return (
        Rule(f"{torch}.weight", f"{path}/kernel", PAIR_KERNEL),
        Rule(f"{torch}.bias", f"{path}/bias", PAIR_BIAS),
    )


def under(torch: str, path: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of a part, with its prefixes before their names and paths."""
    return tuple(Rule(tuple(torch + n for n in r.names), path + r.path, r.transform) for r in rules)


def to_jax(
    rules: Rules, tensors: Mapping[str, np.ndarray], like: Params, ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """Our parameters from a checkpoint.

    Args:
        like: nested dict of arrays or shapes that the result must have.
        ignored: patterns of torch names that are no parameters, such as buffers.
    """
    found, problems = _sorted_by_path(rules, tensors, ignored)
    flat: dict[str, Any] = flatten_dict(like, sep="/")  # pyright: ignore[reportAssignmentType]
    result = {}
    for path in sorted(flat.keys() | found.keys()):
        if path not in found:
            problems.append(f"{path}: missing in the checkpoint")
        elif path not in flat:
            problems.append(f"{path}: in the checkpoint, but the network has no such parameter")
        else:
            try:
                result[path] = array = found[path].join()
            except (IndexError, ValueError) as error:
                problems.append(f"{path}: {found[path]}: {error}")
            else:
                if array.shape != tuple(flat[path].shape):
                    shapes = f"shape {array.shape} in the checkpoint, {tuple(flat[path].shape)} in the network"
                    problems.append(f"{path}: {shapes}")
    _raise(problems)
    return unflatten_dict(result, sep="/")


def to_torch(rules: Rules, params: Params) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint from our parameters. Of several rules for a parameter the first is used."""
    result: dict[str, np.ndarray] = {}
    problems = []
    for path, leaf in flatten_dict(params, sep="/").items():
        match = next(((r, m) for r in rules if (m := _regex(r.path).fullmatch(path))), None)
        if match is None:
            problems.append(f"{path}: no rule names this parameter")
            continue
        rule, numbers = match[0], match[1].groupdict()
        array = np.asarray(leaf)
        stacked = "{stack}" in rule.names[0]
        for layer, values in enumerate(array) if stacked else [(0, array)]:
            tensors = rule.transform.to_torch(values)
            for pattern, tensor in zip(rule.names, tensors, strict=True):
                name = pattern.format(**numbers, stack=layer)
                if name in result:
                    problems.append(f"{name}: several parameters write to it, one of them {path}")
                result[name] = tensor
    _raise(problems)
    return result


@dataclasses.dataclass
class _Found:
    """The tensors of one parameter: by layer (-1 when it is not stacked) and place in the rule."""

    rule: Rule
    tensors: dict[int, dict[int, np.ndarray]]

    def __str__(self) -> str:
        return " and ".join(f"{list(t.shape)}" for t in next(iter(self.tensors.values())).values())

    def join(self) -> np.ndarray:
        """The parameter. Raises ValueError when tensors are missing, or they do not fit the transform."""
        layers = [self.tensors.get(layer, {}) for layer in range(min(self.tensors), max(self.tensors) + 1)]
        if any(len(parts) != len(self.rule.names) for parts in layers):
            raise ValueError(f"only some of {', '.join(self.rule.names)} are in the checkpoint")
        arrays = [self.rule.transform.to_jax(*(parts[i] for i in range(len(parts)))) for parts in layers]
        return arrays[0] if -1 in self.tensors else np.stack(arrays)


def _sorted_by_path(
    rules: Rules, tensors: Mapping[str, np.ndarray], ignored: Iterable[str]
) -> tuple[dict[str, _Found], list[str]]:
    """The tensors by the path they belong to, and the names that belong nowhere or where another one is."""
    found: dict[str, _Found] = {}
    problems = []
    skip = [_regex(pattern) for pattern in ignored]
    for name, tensor in tensors.items():
        if any(pattern.fullmatch(name) for pattern in skip):
            continue
        matches = _matches(rules, name)
        if len(matches) != 1:
            problems.append(f"{name}: {'unexpected' if not matches else f'{len(matches)} rules match'}")
            continue
        rule, part, numbers = matches[0]
        path = rule.path.format(**numbers)
        place = found.setdefault(path, _Found(rule, {}))
        parts = place.tensors.setdefault(int(numbers.get("stack", -1)), {})
        if place.rule != rule or part in parts:
            problems.append(f"{name}: {path} already has its values from another name")
            continue
        parts[part] = tensor
    return found, problems


def _matches(rules: Rules, name: str) -> list[tuple[Rule, int, dict[str, str]]]:
    """The rules with a torch pattern that fits the name, which of their patterns, and the numbers in it."""
    return [
        (rule, part, match.groupdict())
        for rule in rules
        for part, pattern in enumerate(rule.names)
        if (match := _regex(pattern).fullmatch(name))
    ]


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    """`down_blocks.{stage}.conv` as a regular expression whose groups are the numbers."""
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(rf"(?P<{part}>\d+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)))


def _raise(problems: list[str]) -> None:
    if problems:
        shown = problems[:40] + ([f"... and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise ConversionError(f"{len(problems)} names do not match:\n  " + "\n  ".join(shown))
