"""Reads the tensors of a PyTorch checkpoint (`.ckpt`, `.pt`, `.pth`, `.bin`) without running any of it.

Since PyTorch 1.6 such a file is a zip archive: `data.pkl` is a program of Python's pickle machine that puts the names,
shapes and places of tensors together, and the numbers lie beside it. Loading it with `pickle` would call whatever it
names. Here the program is read as data by a small machine of our own, which knows how to build dicts, lists, tuples,
strings and numbers, and to note where a tensor lies. It imports nothing and calls nothing; a file that asks for more is
refused.

Source: the formats of Python's `pickletools` and of PyTorch's `torch.save`.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.rules import LazyArray

DTYPES = {
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
"""The kinds of storage in a file, by PyTorch's name for them."""

_OPAQUE = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs", "pytorch_lightning.", "lightning.")
"""Modules whose objects training code leaves beside the weights. They are noted by name and never made."""


def read(path: Path) -> dict[str, LazyArray]:
    """Returns the tensors by name, each read lazily.

    Raises:
        CheckpointFileError: the file is damaged, asks for code to be run, or holds no tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.partition("/")[2]: name for name in archive.namelist() if "/" in name}
            if "data.pkl" not in files:
                raise CheckpointFileError(f"{path} is a zip archive, but no PyTorch checkpoint: it has no data.pkl.")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CheckpointFileError(f"{path} is compressed, which PyTorch's checkpoints never are.")
            if "byteorder" in files and archive.read(files["byteorder"]) != b"little":
                raise CheckpointFileError(f"{path} holds numbers in big-endian order, which is not read here.")
            program = archive.read(files["data.pkl"])
            sizes = {name: archive.getinfo(name).file_size for name in files.values()}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointFileError(f"{path} is damaged or not whole: {error}. Fetch it again.") from error
    try:
        content = _Machine(path).run(program)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointFileError):
            raise
        raise CheckpointFileError(f"{path} is damaged: its table of contents cannot be read ({error}).") from error
    return {name: _lazy(path, name, tensor, files, sizes) for name, tensor in _tensors(path, content)}


@dataclasses.dataclass(frozen=True)
class _Global:
    """The qualified name of a Python object; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Opaque:
    """Stands for an object of training code, which is never constructed."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """An array of numbers in the archive."""

    dtype: np.dtype
    key: str
    length: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Machine:
    """A restricted unpickler: interprets the opcodes for dicts, lists, numbers, text and tensors; calls nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, program: bytes) -> object:
        """Returns the object that the program builds."""
        for operation, argument, _ in pickletools.genops(program):
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
        """Interprets a call: tensors become `_Tensor`s, objects of training code are noted, all else is refused.

        Raises:
            CheckpointFileError: the file asks for something else to be run.
        """
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._result(called, arguments))

    def _result(self, called: object, arguments: Any) -> object:
        name = str(called)
        if name == "collections.OrderedDict":
            return dict(arguments[0]) if arguments else {}
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            storage, offset, shape, strides, *_ = arguments
            return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
        if name in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
            return arguments[0]
        if isinstance(called, _Global) and name.startswith(_OPAQUE):
            return _Opaque()
        raise CheckpointFileError(
            f"{self.path} asks for {name} to be run when it is opened. Weights need no such thing, and nothing was "
            "run. Take the .safetensors file of this model instead."
        )

    def storage(self) -> None:
        """Replaces ('storage', kind, key, device, length) by the storage that it describes."""
        _, kind, key, _, length = self.stack.pop()
        if kind.name not in DTYPES:
            raise CheckpointFileError(f"{self.path} holds numbers of kind {kind}; read here are {', '.join(DTYPES)}.")
        self.stack.append(_Storage(DTYPES[kind.name], str(key), int(length)))

    def set_items(self, items: list[object]) -> None:
        """Puts keys and values, which alternate, into the dict below them."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(items[::2], items[1::2], strict=True))

    def extend(self, items: list[object]) -> None:
        """Appends items to the list or set below them."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def refuse_state(self) -> None:
        """Drops the state of opaque objects and dicts; raises CheckpointFileError for that of any other."""
        self.stack.pop()
        if not isinstance(self.stack[-1], _Opaque | dict):
            raise CheckpointFileError(f"{self.path} is no plain checkpoint of tensors (it sets state of an object).")


def _text(argument: object) -> object:
    return argument


_VALUES: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("NONE",), lambda _: None),
    **dict.fromkeys(("NEWTRUE",), lambda _: True),
    **dict.fromkeys(("NEWFALSE",), lambda _: False),
    **dict.fromkeys(("EMPTY_DICT",), lambda _: {}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda _: []),
    **dict.fromkeys(("EMPTY_TUPLE",), lambda _: ()),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _text),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _text),
    "GLOBAL": lambda argument: _Global(*argument.split(" ", 1)),
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


def _set_item(machine: _Machine, _: object) -> None:
    items, machine.stack[-2:] = machine.stack[-2:], []
    machine.set_items(items)


def _append(machine: _Machine, _: object) -> None:
    machine.extend([machine.stack.pop()])


def _stack_global(machine: _Machine, _: object) -> None:
    module, name = machine.stack[-2:]
    machine.stack[-2:] = [_Global(str(module), str(name))]


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _mark,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: machine.stack.append(dict(zip(*[iter(machine.since_mark())] * 2, strict=True))),
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
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.refuse_state(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
"""What else a program of a checkpoint may do."""


def _tensors(path: Path, content: object) -> Iterator[tuple[str, _Tensor]]:
    """Yields the tensors of a checkpoint: of its `state_dict` or `model_state`, if it has one."""
    inner = (content.get(name) for name in ("state_dict", "model_state")) if isinstance(content, dict) else ()
    content = next((each for each in inner if isinstance(each, dict)), content)
    found = {k: v for k, v in content.items() if isinstance(v, _Tensor)} if isinstance(content, dict) else {}
    if not found:
        raise CheckpointFileError(f"{path} holds no tensors by name; a state dict was expected.")
    for name, tensor in found.items():
        yield str(name), tensor


def _lazy(path: Path, name: str, tensor: _Tensor, files: dict[str, str], sizes: dict[str, int]) -> LazyArray:
    storage = tensor.storage
    member = files.get(f"data/{storage.key}")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    empty = math.prod(tensor.shape) == 0
    if member is None or min((tensor.offset, *tensor.strides)) < 0 or (not empty and last >= storage.length):
        raise CheckpointFileError(f"{path} is damaged: the numbers of {name} are missing in it.")
    if sizes[member] != storage.length * storage.dtype.itemsize:
        raise CheckpointFileError(
            f"{path} is damaged: {name} lies in {sizes[member]} bytes, "
            f"{storage.length * storage.dtype.itemsize} are needed."
        )

    def make() -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            numbers = np.frombuffer(archive.read(member), storage.dtype)[tensor.offset :]
        strides = tuple(stride * storage.dtype.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)

    return LazyArray(tensor.shape, storage.dtype, make)
