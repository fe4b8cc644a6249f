"""Rules that pair the names of a PyTorch checkpoint with the '/'-joined paths of our parameters, in both directions.

A table of rules is a bijection on one spelling of one format. In both patterns of a rule `{word}` stands for the same
number. `{stack}`, in the torch patterns only, stands for the number of a layer whose parameters we keep stacked on a
first axis (`nn.chain.Stack`). Every torch name and every parameter must be met exactly once; otherwise the conversion
stops and lists what is missing, what is unexpected, and what has the wrong shape or type.

Arrays keep their precision, and none is read before its values are needed: a `LazyArray` knows its shape and
type, so a checkpoint is converted one tensor at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.typing as npt
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.types import ArrayLike, Params, Shaped

Tensors = Mapping[str, ArrayLike]
"""Arrays by torch name, or by path."""

_HALVES = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}
"""Types of which neither holds the other's values."""


class ConversionError(ValueError):
    """A checkpoint and the parameters do not match.

    missing, unexpected:      names of tensors that are needed and not there, and that are there and not needed.
    wrong_shape, wrong_dtype: tensors that do not fit their parameter, with what came and what would do.

    Its message begins with `source`, counts, and `hint`: what the whole looks like, and what would do.
    """

    def __init__(
        self,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        wrong_shape: Iterable[str] = (),
        wrong_dtype: Iterable[str] = (),
        source: str = "The checkpoint",
        hint: str = "",
    ):
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.wrong_shape, self.wrong_dtype = tuple(wrong_shape), tuple(wrong_dtype)
        lists = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of the wrong shape": self.wrong_shape,
            "of the wrong type": self.wrong_dtype,
        }
        counts = ", ".join(f"{len(names)} {what}" for what, names in lists.items())
        shown = [line for what, names in lists.items() if names for line in (f"{what}:", *_first(names))]
        super().__init__("\n  ".join([f"{source} does not match: {counts}.{f' {hint}' if hint else ''}", *shown]))


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that is computed when it is read (`np.asarray`), and again each time.

    make_layer: gives one layer, by its number on the first axis, without the others; it may have a type of its own.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]
    make_layer: Callable[[int], np.ndarray] | None = None

    def astype(self, dtype: np.dtype) -> LazyArray:
        """Returns the array in another type."""
        return self if dtype == self.dtype else LazyArray(self.shape, dtype, lambda: self.make().astype(dtype))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        made = self.make()
        return made if dtype is None else made.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class Transform:
    """An invertible change of layout.

    to_jax:   takes the torch tensors of a rule and gives its parameter, or a tuple when the rule has several.
    to_torch: takes the parameters and gives the tensors back.
    """

    to_jax: Callable[..., np.ndarray | tuple[np.ndarray, ...]]
    to_torch: Callable[..., Sequence[np.ndarray]]


SAME = Transform(lambda x: x, lambda x: (x,))
LINEAR = Transform(lambda x: x.T, lambda x: (x.T,))  # [D C] there, [C D] here
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))  # a linear layer here
PAIR_KERNEL = Transform(lambda x: x.T.reshape(x.shape[1], 2, -1), lambda x: (x.reshape(x.shape[0], -1).T,))
PAIR_BIAS = Transform(lambda x: x.reshape(2, -1), lambda x: (x.reshape(-1),))
JOINED_KERNEL = Transform(lambda a, b: np.stack([a.T, b.T], axis=1), lambda x: (x[:, 0].T, x[:, 1].T))
JOINED_BIAS = Transform(lambda a, b: np.stack([a, b]), lambda x: (x[0], x[1]))


def split_input(first: int) -> Transform:
    """Splits a convolution's input channels: the `first` ones are one kernel here, the rest another."""
    return Transform(
        lambda x: (x[:, :first].transpose(2, 3, 1, 0), x[:, first:].transpose(2, 3, 1, 0)),
        lambda kernel, rest: CONV.to_torch(np.concatenate([kernel, rest], axis=2)),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """The torch names of some tensors and the paths of the parameters that they make, in the transform's order."""

    torch: str | tuple[str, ...]
    path: str | tuple[str, ...]
    transform: Transform = SAME

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the torch patterns."""
        return (self.torch,) if isinstance(self.torch, str) else self.torch

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns the patterns of our paths."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def is_stacked(self) -> bool:
        """Returns whether the parameters hold many layers on their first axis."""
        return "{stack}" in self.names[0]


Rules = Sequence[Rule]


def linear(torch: str, path: str, kernel: Transform = LINEAR) -> tuple[Rule, ...]:
    """Returns the rules of a layer with weight and bias, or with a weight alone."""
    return Rule(f"{torch}.weight", f"{path}/kernel", kernel), Rule(f"{torch}.bias", f"{path}/bias")


def conv(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of a two-dimensional convolution."""
    return linear(torch, path, CONV)


def pointwise(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of a 1 x 1 convolution there, a linear layer here."""
    return linear(torch, path, POINTWISE)


def norm(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of a norm with scale and shift."""
    return Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")


def pair(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of a linear layer whose output is two halves (`nn.feedforward.GatedMLP`), one tensor there."""
    return (
        Rule(f"{torch}.weight", f"{path}/kernel", PAIR_KERNEL),
        Rule(f"{torch}.bias", f"{path}/bias", PAIR_BIAS),
    )


def under(torch: str, path: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Returns the rules of a part with its prefixes before their names and paths."""
    return tuple(Rule(tuple(torch + n for n in r.names), tuple(path + p for p in r.paths), r.transform) for r in rules)


def to_jax(rules: Rules, tensors: Tensors, like: Params, ignored: Iterable[str] = ()) -> Params:
    """Returns our parameters from a checkpoint, as a nested dict of NumPy arrays.

    Args:
        like: nested dict of arrays or shapes: exactly the parameters that are wanted.
        ignored: patterns of torch names that are no parameters, such as buffers; here `*` stands for anything.
    """
    flat: dict[str, Shaped] = flatten_dict(like, sep="/")  # pyright: ignore[reportAssignmentType]
    made = parameters(rules, tensors, flat, ignored)
    return unflatten_dict({path: np.asarray(array) for path, array in made.items()}, sep="/")


def to_torch(rules: Rules, params: Params) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint from our parameters, given as a nested dict."""
    flat: dict[str, ArrayLike] = flatten_dict(params, sep="/")  # pyright: ignore[reportAssignmentType]
    return {name: np.asarray(array) for name, array in tensors_of(rules, flat).items()}


def parameters(
    rules: Rules,
    tensors: Tensors,
    like: Mapping[str, Shaped],
    ignored: Iterable[str] = (),
    source: str = "The checkpoint",
) -> dict[str, LazyArray]:
    """Returns our parameters by path, each made from its tensors when it is read.

    Raises:
        ConversionError: the tensors are not those that `like` needs; `source` is what its message calls them.
    """
    wanted = _places(rules, like)
    names = {name: place for place in wanted for name in place.names}
    skip = tuple(ignored)
    wrong_shape, wrong_dtype = [], []
    for name, shape in ((name, shape) for place in wanted for name, shape in place.tensors(like).items()):
        if name in tensors:
            came = tensors[name]
            if tuple(came.shape) != shape:
                wrong_shape.append(f"{name}: {list(came.shape)} came, {list(shape)} is needed")
            if not jnp.issubdtype(came.dtype, jnp.floating):
                wrong_dtype.append(f"{name}: {came.dtype} came, a floating-point type is needed")
    missing = [name for name in names if name not in tensors]
    unexpected = [n for n in tensors if n not in names and not matches_any(skip, n)]
    if missing or unexpected or wrong_shape or wrong_dtype:
        raise ConversionError(missing, unexpected, wrong_shape, wrong_dtype, source)
    return {path: array for place in wanted for path, array in place.parameters(tensors, like).items()}


def tensors_of(rules: Rules, params: Tensors) -> dict[str, LazyArray]:
    """Returns the tensors of a checkpoint by name, each made from our parameters (arrays by path) when it is read."""
    return {
        name: LazyArray(shape, np.dtype(params[place.paths[0]].dtype), functools.partial(place.tensor, params, name))
        for place in _places(rules, params)
        for name, shape in place.tensors(params).items()
    }


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Returns the smallest type that holds all values of these; float32 for float16 and bfloat16 together."""
    kinds = set(dtypes)
    if kinds >= _HALVES:
        kinds = {*(kinds - _HALVES), np.dtype(np.float32)}
    return np.result_type(*kinds)


def layer_of(array: ArrayLike, layer: int) -> np.ndarray:
    """Returns one layer of a stacked parameter, and reads no other where it can."""
    if isinstance(array, LazyArray) and array.make_layer is not None:
        return array.make_layer(layer)
    return np.asarray(array)[layer]


def with_dtypes(tensors: Mapping[str, LazyArray], dtypes: Mapping[str, np.dtype]) -> dict[str, LazyArray]:
    """Returns the tensors, each in its own type where one is given."""
    return {name: tensor.astype(dtypes.get(name, tensor.dtype)) for name, tensor in tensors.items()}


def paths_with_rules(rules: Rules, paths: Iterable[str]) -> set[str]:
    """Returns the paths that the table has rules for."""
    return {path for path in paths if _rules_of(rules, path)}


def shapes_of(rules: Rules, tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, by path, of the parameters that these tensors make where all of them are there and fit."""
    index = _index_of_names(tuple(rules))
    found: dict[tuple[str, ...], tuple[Rule, dict[int, dict[int, str]]]] = {}
    for name in tensors:
        for rule, numbers in index.find(name):
            paths = tuple(pattern.format(**numbers) for pattern in rule.paths)
            part = next(i for i, pattern in enumerate(rule.names) if _regex(pattern).fullmatch(name))
            layers = found.setdefault(paths, (rule, {}))[1]
            layers.setdefault(int(numbers.get("stack", 0)), {})[part] = name
    shapes: dict[str, tuple[int, ...]] = {}
    for paths, (rule, layers) in found.items():
        parts = next((each for each in layers.values() if len(each) == len(rule.names)), None)
        if parts is None:
            continue
        try:
            made = rule.transform.to_jax(*(_hollow(tensors[parts[i]]) for i in range(len(parts))))
        except (IndexError, ValueError):  # tensors of other axes than the rule knows
            continue
        depth = (max(layers) + 1,) if rule.is_stacked else ()
        arrays = made if isinstance(made, tuple) else (made,)
        shapes.update({path: (*depth, *array.shape) for path, array in zip(paths, arrays, strict=True)})
    return shapes


def parameter_paths_of(rules: Rules, name: str) -> tuple[str, ...] | None:
    """Returns the paths of the parameters that a tensor is part of; None when no rule has its name."""
    found = _index_of_names(tuple(rules)).find(name)
    return tuple(pattern.format(**found[0][1]) for pattern in found[0][0].paths) if found else None


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Returns whether a name matches one of the patterns, in which `*` stands for anything."""
    return any(_regex(pattern).fullmatch(name) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class _Place:
    """One use of a rule: parameters, and the names of the tensors that make them, layer by layer."""

    rule: Rule
    paths: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> Iterator[str]:
        return (name for layer in self.layers for name in layer)

    def tensors(self, params: Mapping[str, Shaped]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the tensors by name."""
        arrays = [_hollow(params[path]) for path in self.paths]
        if self.rule.is_stacked:
            arrays = [array[0] for array in arrays]
        shapes = [tuple(tensor.shape) for tensor in self.rule.transform.to_torch(*arrays)]
        return {name: shape for layer in self.layers for name, shape in zip(layer, shapes, strict=True)}

    def tensor(self, params: Tensors, name: str) -> np.ndarray:
        """Returns the tensor of this name."""
        layer, part = next((i, layer.index(name)) for i, layer in enumerate(self.layers) if name in layer)
        if self.rule.is_stacked:
            arrays = [layer_of(params[path], layer).astype(params[path].dtype, copy=False) for path in self.paths]
        else:
            arrays = [np.asarray(params[path]) for path in self.paths]
        return self.rule.transform.to_torch(*arrays)[part]

    def parameters(self, tensors: Tensors, like: Mapping[str, Shaped]) -> dict[str, LazyArray]:
        """Returns the parameters by path."""
        dtype = common_dtype(np.dtype(tensors[name].dtype) for name in self.names)

        def make_layer(part: int, layer: int) -> np.ndarray:
            return self._layer(tensors, self.layers[layer])[part]

        def make(part: int) -> np.ndarray:
            layers = [make_layer(part, layer).astype(dtype, copy=False) for layer in range(len(self.layers))]
            return np.stack(layers) if self.rule.is_stacked else layers[0]

        return {
            path: LazyArray(
                tuple(like[path].shape),
                dtype,
                functools.partial(make, part),
                functools.partial(make_layer, part) if self.rule.is_stacked else None,
            )
            for part, path in enumerate(self.paths)
        }

    def _layer(self, tensors: Tensors, names: Sequence[str]) -> tuple[np.ndarray, ...]:
        dtype = common_dtype(np.dtype(tensors[name].dtype) for name in names)
        made = self.rule.transform.to_jax(*(np.asarray(tensors[name]).astype(dtype, copy=False) for name in names))
        return made if isinstance(made, tuple) else (made,)


def _places(rules: Rules, params: Mapping[str, Shaped]) -> list[_Place]:
    """Returns how rules make the parameters. Raises ConversionError unless each path has exactly one rule."""
    index = _index(tuple(rules))
    places: dict[tuple[str, ...], _Place] = {}
    unknown = []
    for path, array in params.items():
        found = index.find(path)
        if len(found) != 1:
            unknown.append(f"{path}: {'no rule names' if not found else f'{len(found)} rules name'} this parameter")
            continue
        rule, numbers = found[0]
        paths = tuple(pattern.format(**numbers) for pattern in rule.paths)
        depth = range(array.shape[0]) if rule.is_stacked else (0,)
        layers = tuple(tuple(pattern.format(**numbers, stack=i) for pattern in rule.names) for i in depth)
        places[paths] = _Place(rule, paths, layers)
    lacking = [f"{path}: not among the parameters" for paths in places for path in paths if path not in params]
    names = [name for place in places.values() for name in place.names]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if unknown or lacking or twice:
        several = [f"{name}: several parameters write to it" for name in sorted(twice)]
        raise ConversionError(lacking, [*unknown, *several], source="The table of names")
    return list(places.values())


class _Index:
    """The rules of patterns, by the text before the pattern's first number, so that few are tried on a name."""

    def __init__(self, patterns: Iterable[tuple[str, Rule]]):
        self.by_start: dict[str, list[tuple[re.Pattern[str], Rule]]] = {}
        for pattern, rule in patterns:
            self.by_start.setdefault(pattern.partition("{")[0], []).append((_regex(pattern), rule))
        self.lengths = sorted({len(start) for start in self.by_start})

    def find(self, name: str) -> list[tuple[Rule, dict[str, str]]]:
        """Returns the rules whose patterns match, with the numbers in the name."""
        tried = (each for n in self.lengths if n <= len(name) for each in self.by_start.get(name[:n], ()))
        return [(rule, match.groupdict()) for regex, rule in tried if (match := regex.fullmatch(name))]


@functools.lru_cache(maxsize=64)
def _index(rules: tuple[Rule, ...]) -> _Index:
    return _Index((pattern, rule) for rule in rules for pattern in rule.paths)


@functools.lru_cache(maxsize=64)
def _index_of_names(rules: tuple[Rule, ...]) -> _Index:
    return _Index((pattern, rule) for rule in rules for pattern in rule.names)


def _rules_of(rules: Rules, path: str) -> list[tuple[Rule, dict[str, str]]]:
    return _index(tuple(rules)).find(path)


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    """Compiles `down_blocks.{stage}.conv` to a regular expression whose groups are the numbers; `*` is anything."""
    parts = [
        rf"(?P<{part}>\d+)" if i % 2 else re.escape(part).replace(r"\*", ".*")
        for i, part in enumerate(re.split(r"\{(\w+)\}", pattern))
    ]
    return re.compile("".join(parts))


def _hollow(array: Shaped) -> np.ndarray:
    """Returns an array of the same shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.int8), tuple(array.shape))


def _first(names: Sequence[str], most: int = 20) -> list[str]:
    rest = [f"  ... and {len(names) - most} more"] if len(names) > most else []
    return [*(f"  {name}" for name in names[:most]), *rest]
