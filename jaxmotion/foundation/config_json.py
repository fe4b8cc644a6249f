"""Configs as JSON: dataclasses that carry a stable tag, so that they can be rebuilt wherever their class moves.

A class joins by `@register()`; its tag is its name. Files written before a class, or a field of it, was renamed stay
readable: the class names its earlier tags and fields where it is defined. Configurations written before tags existed
carry `module:Name` instead; of these only the name counts.

Classes from outside this package are found when their module was imported, or is named by an entry point of the group
`jaxmotion.plugins` or in the environment variable `JAXMOTION_PLUGINS` (modules, separated by commas).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import math
import os
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import cattrs
from cattrs.gen import make_dict_structure_fn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGE = __name__.partition(".")[0]
PLUGINS = "JAXMOTION_PLUGINS"
"""Environment variable: modules that define further configs, separated by commas."""
_TAG = "class"
Config = TypeVar("Config")
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""A value that JSON can hold."""
Json = dict[str, Any]
"""JSON values of an object."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A registered class and how earlier JSON of it is read."""

    kind: type
    fields: Mapping[str, str]
    upgrade: Callable[[Json], Json] | None


_CLASSES: dict[str, _Entry] = {}


def register(
    *earlier: str, fields: Mapping[str, str] | None = None, upgrade: Callable[[Json], Json] | None = None
) -> Callable[[type[Config]], type[Config]]:
    """Returns a decorator that gives a dataclass its tag: its name.

    Args:
        earlier: tags of this class in files written before it was renamed.
        fields: new names of its fields, by their earlier names.
        upgrade: rewrites JSON values that an earlier version wrote; must leave those of this version as they are.
    """

    def add(kind: type[Config]) -> type[Config]:
        for tag in (kind.__qualname__, *earlier):
            there = _CLASSES.get(tag)
            if there is not None and (there.kind.__module__, there.kind.__qualname__) != (
                kind.__module__,
                kind.__qualname__,
            ):
                raise ValueError(f"The tag {tag!r} of {kind.__module__} belongs to {there.kind.__module__} already.")
            _CLASSES[tag] = _Entry(kind, dict(fields or {}), upgrade)
        return kind

    return add


def to_json(config: object) -> Json:
    """Returns a dataclass as JSON values; every part of it carries its tag.

    Raises:
        ValueError: the class of a part is not registered.
    """
    return _converter().unstructure(config)


def from_json(values: Json, kind: type[Config]) -> Config:
    """Returns the dataclass of `to_json`.

    Raises:
        ValueError: the values do not describe one of that kind; the message says what is wrong.
    """
    try:
        built = _structure(values, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, AttributeError) as error:
        found = (each.rpartition(" @ $") for each in cattrs.transform_error(error, format_exception=_message))
        texts = [f"{where.lstrip('.')}: {text}" if where else text for text, _, where in found]
        raise ValueError("; ".join(texts)) from error
    if not isinstance(built, kind):
        raise ValueError(f"it describes a {type(built).__name__}, and a {kind.__name__} is needed")
    return built


def upgrade_json(values: Json) -> Json:
    """Returns JSON values of an earlier version as this version writes them, new fields at their defaults.

    Anything else is returned as it is: values of no registered dataclass, or of one that has lost a field.
    """
    if _TAG not in values:
        return values
    try:
        return to_json(from_json(values, object))
    except (ValueError, ImportError, AttributeError):
        return values


def parts_by_flag(config: object, flag: str) -> dict[str, object]:
    """Returns a config and all configs within it by the flags that set them, such as `system.unet`, outer ones first.

    Args:
        flag: that of the config itself.
    """
    found, row = {}, [(flag, config)]
    for name, value in row:  # grows while it is read
        if isinstance(value, Mapping):
            row += [(f"{name}.{key}", part) for key, part in value.items()]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[name] = value
            row += [(f"{name}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    return found


def _message(error: BaseException, kind: type | None) -> str:
    """Returns the message of an error: cattrs formats its own, and our ValueErrors are kept word for word."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        names = ", ".join(sorted(error.extra_fields))
        return f"this version has no field {names}; a newer one wrote it, or it is misspelt"
    return str(error) if type(error) is ValueError else cattrs.v.format_exception(error, kind)


def _is_part(kind: object) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@functools.cache
def _converter() -> cattrs.Converter:
    """Returns the converter that tags dataclasses and leaves everything else to cattrs."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def unstructure(part: DataclassInstance) -> Json:
        tag = type(part).__qualname__
        if tag not in _CLASSES or _CLASSES[tag].kind is not type(part):
            raise ValueError(f"{tag} cannot be saved: its class lacks the decorator @register() of {__name__}.")
        return {_TAG: tag, **{f.name: converter.unstructure(getattr(part, f.name)) for f in dataclasses.fields(part)}}

    converter.register_unstructure_hook_func(_is_part, unstructure)
    converter.register_structure_hook_func(_may_be_part, _structure)
    converter.register_structure_hook_func(lambda kind: typing.get_origin(kind) is typing.Literal, _structure_literal)
    for kind in _PLAIN:
        converter.register_structure_hook(kind, _structure_plain)
    return converter


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _structure_plain(value: JsonValue, kind: type) -> JsonValue:
    """Returns a value that has the type already, or that is a number of it: text is never taken for a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind is float:
            return float(value)
        if kind is int and math.isfinite(value) and value == int(value):
            return int(value)
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    raise ValueError(f"{json.dumps(value)} is not {_PLAIN[kind]}")


def _structure_literal(value: JsonValue, kind: object) -> JsonValue:
    options = typing.get_args(kind)
    if value not in options:
        raise ValueError(f"{json.dumps(value)} is none of {', '.join(map(json.dumps, options))}")
    return value


def _refuse_text(values: Json, kind: type) -> None:
    """Raises ValueError if a field that is a sequence is given as text, whose letters would be taken for its values."""
    for name, hint in typing.get_type_hints(kind).items():
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        sequences = [each for each in options if typing.get_origin(each) in (tuple, list, Sequence)]
        if isinstance(values.get(name), str) and sequences and str not in options:
            raise ValueError(f"{name} is the text {values[name]!r} and must be a list")


def _may_be_part(kind: object) -> bool:
    """Returns whether a field of this type can hold a tagged dataclass (a class, a base, a union of them, anything)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_may_be_part(option) for option in typing.get_args(kind))
    return kind is Any or _is_part(kind) or (isinstance(kind, type) and kind.__module__.startswith(f"{PACKAGE}."))


def _structure(value: JsonValue, kind: object) -> object:
    if not isinstance(value, dict) or _TAG not in value:
        name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ValueError(f"a part of type {name} must be a JSON object with the key {_TAG!r}")
    entry = _find(str(value[_TAG]))
    values = {entry.fields.get(key, key): item for key, item in value.items() if key != _TAG}
    if entry.upgrade is not None:
        values = entry.upgrade(values)
    _refuse_text(values, entry.kind)
    build = make_dict_structure_fn(entry.kind, _converter(), _cattrs_forbid_extra_keys=True)
    return build(values, entry.kind)


def _find(tag: str) -> _Entry:
    """Returns the class of a tag; one that no imported module has registered is searched in the whole package."""
    module, _, name = tag.rpartition(":")
    if module and module.partition(".")[0] != PACKAGE:
        raise ValueError(f"{tag!r} is no part of {PACKAGE}")
    if name not in _CLASSES:
        _import_everything()
    if name not in _CLASSES:
        raise ValueError(
            f"{tag!r} is no part of {PACKAGE}; if it comes from a module of yours, name that in the environment "
            f"variable {PLUGINS}"
        )
    return _CLASSES[name]


@functools.cache
def _import_everything() -> None:
    """Imports all subpackages and the plugins, so that their classes are registered. Commands define none."""
    package = importlib.import_module(PACKAGE)
    for room in pkgutil.iter_modules(package.__path__, f"{PACKAGE}."):
        if room.ispkg:
            for found in pkgutil.walk_packages(importlib.import_module(room.name).__path__, f"{room.name}."):
                if not found.name.endswith("__main__") and ".pytorch" not in found.name:
                    importlib.import_module(found.name)
    plugins = [entry.value for entry in importlib.metadata.entry_points(group=f"{PACKAGE}.plugins")]
    for name in (*plugins, *filter(None, os.environ.get(PLUGINS, "").split(","))):
        importlib.import_module(name.strip())
