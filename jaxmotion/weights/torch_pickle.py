"""Reads the pickle in a PyTorch checkpoint without running any of it.

Such a file holds a program of Python's pickle machine that puts the names, shapes and places of tensors together.
Loading it with `pickle` would call whatever it names. Here the program is read as data by a small machine of our own,
which builds dicts, lists, tuples, strings and numbers, and notes where a tensor lies. It imports nothing and calls
nothing. Objects that training code leaves beside the weights, such as an `argparse.Namespace`, are noted by name; a
file that asks for a function to be called which no checkpoint needs is refused.

Source: Python's `pickletools`; `torch/_utils.py` and `torch/serialization.py` of PyTorch 2.13.
"""

from __future__ import annotations

import dataclasses
import mmap
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.pickled_names import Global, Noted, is_data, is_of_python, looks_like_a_class

DTYPES: Mapping[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""The kinds of storage that are read, by PyTorch's name for them."""
_MORE_BYTES = {"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt32Storage": 4}
"""Bytes of a number in kinds of storage that are not read; one in all others."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """An array of numbers in the file: PyTorch's name of its kind, its key, and how many numbers it has."""

    kind: str
    key: str
    length: int

    @property
    def bytes(self) -> int:
        """Returns how many bytes it takes."""
        return self.length * (DTYPES[self.kind].itemsize if self.kind in DTYPES else _MORE_BYTES.get(self.kind, 1))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers. `kind` is PyTorch's name of a type that is not read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str = ""


Persistent = Callable[[object], object]
"""Returns what an identifier of something outside the pickle stands for, such as a `Storage`."""


def run(stream: IO[bytes] | mmap.mmap, path: Path, persistent: Persistent | None = None) -> object:
    """Returns the object that a pickle builds, and leaves the stream behind it.

    Args:
        path: the file, for messages.
        persistent: finds what lies outside the pickle; that of PyTorch's files of today if it is not given.

    Raises:
        CheckpointFileError: it is damaged, or asks for code to be run.
    """
    try:
        return _Machine(path, persistent or storage_of).run(stream)
    except CheckpointFileError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        why = str(error)[:100]  # some quote what they could not read, which may be all of it
        raise CheckpointFileError(f"{path} is damaged: its table of contents cannot be read ({why}).") from error


def storage_of(identifier: object) -> object:
    """Returns the storage of ('storage', kind, key, device, length, ...), or the class of ('module', class, ...)."""
    if not isinstance(identifier, tuple) or len(identifier) < 2:
        raise ValueError("it refers to what is not there")
    if identifier[0] == "module":
        return identifier[1]
    _, kind, key, _, length, *view = identifier
    if view and view[0] is not None:
        raise ValueError("it holds a view of a storage, as no PyTorch since 0.2 writes it")
    return Storage(str(kind.name), str(key), int(length))


class _Machine:
    """A restricted unpickler: interprets the opcodes for dicts, lists, numbers, text and tensors; calls nothing."""

    def __init__(self, path: Path, persistent: Persistent):
        self.path, self.persistent = path, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, stream: Any) -> object:
        """Returns the object that the program builds."""
        for operation, argument, _ in pickletools.genops(stream):
            name = operation.name
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(_VALUES[name](argument))
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise CheckpointFileError(
                    f"{self.path} is no plain checkpoint of tensors (its table of contents uses {name})."
                )
        raise ValueError("it ends too early")

    def since_mark(self) -> list[object]:
        """Pops and returns the items that were pushed since the last mark."""
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def call(self) -> None:
        """Interprets a call of a function with arguments."""
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._result(called, arguments))

    def instance(self, called: object, arguments: object) -> None:
        """Interprets the making of an object of a class, without its initialiser: it is noted.

        Raises:
            CheckpointFileError: the class is one that no checkpoint needs.
        """
        if isinstance(called, Global) and (is_data(called) or not is_of_python(called)):
            self.stack.append(Noted(str(called)))
        else:
            self.stack.append(self._result(called, arguments))

    def _result(self, called: object, arguments: Any) -> object:
        """Interprets a call: tensors become `Tensor`s, objects of training code are noted, all else is refused."""
        name = str(called) if isinstance(called, Global) else f"an object ({type(called).__name__})"
        if name in ("collections.OrderedDict", "collections.defaultdict"):
            items = arguments[0] if arguments and name.endswith("OrderedDict") else ()
            return {key: value for key, value in (items.items() if isinstance(items, dict) else items) if _is_key(key)}
        if name in _TENSORS:
            return _TENSORS[name](arguments)
        if isinstance(called, Global) and (is_data(called) or looks_like_a_class(called)):
            return Noted(str(arguments[0]) if name == "copyreg._reconstructor" else name)
        raise CheckpointFileError(
            f"{self.path} asks for {name} to be run when it is opened. Weights need no such thing, and nothing was "
            "run. Take the .safetensors file of this model instead."
        )

    def set_items(self, items: list[object]) -> None:
        """Puts keys and values, which alternate, into the dict below them; those of a noted object are dropped."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update({k: v for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k)})

    def extend(self, items: list[object]) -> None:
        """Appends items to the list or set below them; those of a noted object are dropped."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def drop_state(self) -> None:
        """Drops the state of noted objects, dicts and tensors; raises CheckpointFileError for that of any other."""
        self.stack.pop()
        if not isinstance(self.stack[-1], Noted | dict | Tensor):
            raise CheckpointFileError(f"{self.path} is no plain checkpoint of tensors (it sets state of an object).")


def _is_key(key: object) -> bool:
    """Returns whether a key of a dict is text or a number; others name no tensor, and hashing them may never end."""
    return key is None or isinstance(key, str | bytes | int | float)


def _rebuild(arguments: Any) -> Tensor:
    storage, offset, shape, strides, *_ = arguments
    kind = "" if storage.kind in DTYPES else storage.kind.removesuffix("Storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)), kind)


def _rebuild_of_any_type(arguments: Any) -> Tensor:
    """Since PyTorch 2.1, types without a storage of their own: (storage, offset, shape, strides, ..., type, ...)."""
    return dataclasses.replace(_rebuild(arguments), kind=str(arguments[6]).removeprefix("torch."))


_TENSORS: Mapping[str, Callable[[Any], object]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_of_any_type,
    "torch._utils._rebuild_parameter": lambda arguments: arguments[0],
    "torch._utils._rebuild_parameter_with_state": lambda arguments: arguments[0],
    "torch.nn.parameter.Parameter": lambda arguments: arguments[0],
    "torch._tensor._rebuild_from_type_v2": lambda arguments: _TENSORS[str(arguments[0])](arguments[2]),
    **{
        f"torch._utils._rebuild_{kind}": lambda _, kind=kind: Noted(f"torch: {kind.replace('_', ' ')}")
        for kind in ("sparse_tensor", "sparse_csr_tensor", "nested_tensor", "qtensor", "meta_tensor_no_storage")
    },
    "torch._utils._rebuild_device_tensor_from_numpy": lambda _: Noted("torch: tensor of another device"),
}
"""How tensors are put together, by the function that PyTorch calls for it; kinds that are not read are noted."""


def _text(argument: object) -> object:
    return argument


_VALUES: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(("NONE",), lambda _: None),
    **dict.fromkeys(("NEWTRUE",), lambda _: True),
    **dict.fromkeys(("NEWFALSE",), lambda _: False),
    **dict.fromkeys(("EMPTY_DICT",), lambda _: {}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda _: []),
    **dict.fromkeys(("EMPTY_TUPLE",), lambda _: ()),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _text),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _text),
    "BYTEARRAY8": _text,
    "GLOBAL": lambda argument: Global(*argument.split(" ", 1)),
}
"""What puts one value on the stack."""


def _mark(machine: _Machine, _: object) -> None:
    machine.marks.append(len(machine.stack))


def _tuple_of(count: int) -> Callable[[_Machine, object], None]:
    def push(machine: _Machine, _: object) -> None:
        items = machine.stack[-count:]
        machine.stack[-count:] = [tuple(items)]

    return push


def _remember(machine: _Machine, place: int | str | None) -> None:
    machine.memo[len(machine.memo) if place is None else int(place)] = machine.stack[-1]


def _recall(machine: _Machine, place: int | str) -> None:
    machine.stack.append(machine.memo[int(place)])


def _dict(machine: _Machine, _: object) -> None:
    items = machine.since_mark()
    machine.stack.append({k: v for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k)})


def _set_item(machine: _Machine, _: object) -> None:
    items, machine.stack[-2:] = machine.stack[-2:], []
    machine.set_items(items)


def _append(machine: _Machine, _: object) -> None:
    machine.extend([machine.stack.pop()])


def _stack_global(machine: _Machine, _: object) -> None:
    module, name = machine.stack[-2:]
    machine.stack[-2:] = [Global(str(module), str(name))]


def _new_object(machine: _Machine, _: object) -> None:
    arguments, called = machine.stack.pop(), machine.stack.pop()
    machine.instance(called, arguments)


def _new_object_with_names(machine: _Machine, _: object) -> None:
    machine.stack.pop()
    _new_object(machine, None)


def _old_object(machine: _Machine, _: object) -> None:
    called, *arguments = machine.since_mark()
    machine.instance(called, tuple(arguments))


def _old_instance(machine: _Machine, name: str) -> None:
    machine.instance(Global(*name.split(" ", 1)), tuple(machine.since_mark()))


_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "MARK": _mark,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": _remember,
    "GET": _recall,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_names,
    "OBJ": _old_object,
    "INST": _old_instance,
    "BUILD": lambda machine, _: machine.drop_state(),
    "PERSID": lambda machine, identifier: machine.stack.append(machine.persistent(identifier)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.stack.pop())),
}
"""What else a program of a checkpoint may do."""
