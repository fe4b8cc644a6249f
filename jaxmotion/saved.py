"""Configs as JSON: dataclasses of this package that name their class, so that they can be rebuilt."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
import typing
from typing import Any, TypeVar

import cattrs
from cattrs.gen import make_dict_structure_fn

_TAG = "class"
Config = TypeVar("Config")


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as JSON values. Every part of it names its class."""
    return _converter().unstructure(config)


def from_json(values: dict[str, Any], kind: type[Config]) -> Config:
    """The dataclass of `to_json`.

    Raises:
        ValueError: the values do not describe one of that kind; the message says what is wrong.
    """
    try:
        built = _structure(values, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, AttributeError) as error:
        raise ValueError("; ".join(cattrs.transform_error(error, format_exception=_said))) from error
    if not isinstance(built, kind):
        raise ValueError(f"it describes a {type(built).__name__}, and a {kind.__name__} is needed")
    return built


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a dataclass, with the fields that its class has got since at their defaults.

    Anything else is returned as it is: values of no dataclass of this package, or of one that has lost a field.
    """
    if _TAG not in values:
        return values
    try:
        return to_json(from_json(values, object))
    except (ValueError, ImportError, AttributeError):
        return values


def _said(error: BaseException, kind: type | None) -> str:
    """An error of cattrs in its usual words, and ours in their own."""
    return str(error) if type(error) is ValueError else cattrs.v.format_exception(error, kind)


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@functools.cache
def _converter() -> cattrs.Converter:
    """Dataclasses with a class tag; everything else as cattrs does it."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def unstructure(part: Any) -> dict[str, Any]:
        values = {f.name: converter.unstructure(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {_TAG: f"{type(part).__module__}:{type(part).__qualname__}", **values}

    converter.register_unstructure_hook_func(_is_part, unstructure)
    converter.register_structure_hook_func(_may_be_part, _structure)
    return converter


def _may_be_part(kind: Any) -> bool:
    """Whether a field of this type holds a tagged dataclass (one class, a base class, a union of them, or anything)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_may_be_part(option) for option in typing.get_args(kind))
    return kind is Any or _is_part(kind) or (isinstance(kind, type) and kind.__module__.startswith("jaxmotion."))


def _structure(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict) or _TAG not in value:
        raise ValueError(f"a part of type {kind} must be a JSON object with the key {_TAG!r}")
    module, _, name = value[_TAG].partition(":")
    if not module.startswith("jaxmotion."):
        raise ValueError(f"{value[_TAG]!r} is no part of jaxmotion")
    part = getattr(importlib.import_module(module), name)
    build = make_dict_structure_fn(part, _converter(), _cattrs_forbid_extra_keys=True)
    return build({key: item for key, item in value.items() if key != _TAG}, part)
