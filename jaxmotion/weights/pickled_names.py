"""Names of Python objects in a pickle: which of them stand for plain data beside the weights. None is ever imported."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np


@dataclasses.dataclass(frozen=True)
class Global:
    """The qualified name of a Python object; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{_EARLIER_MODULES.get(self.module, self.module)}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Noted:
    """Stands for an object that is never made; `kind` is its class."""

    kind: str

    def __str__(self) -> str:
        return self.kind


_DATA = {
    "builtins": "set frozenset slice range xrange complex bytearray bytes list tuple dict int long float str unicode "
    "bool object",
    "collections": "Counter deque UserDict",
    "argparse": "Namespace",
    "types": "SimpleNamespace MappingProxyType",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "datetime": "datetime date time timedelta timezone",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "random": "Random",
    "re": "_compile",
    "functools": "partial",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "_codecs": "encode",
    "numpy": "dtype ndarray",
    "torch": "Size device Generator Tensor",
    "torch._C": "Generator",
    "torch.serialization": "_get_layout",
}
"""What makes plain data, by module: calls of these are noted."""
_DATA_NAMES = {f"{module}.{name}" for module, names in _DATA.items() for name in names.split()}
_DATA_MODULES = (
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
    "numpy.random",
    "numpy.ma.core",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
)
"""Modules and packages whose objects training code leaves beside the weights."""
_NUMBERS = {kind.__name__ for kind in np.sctypeDict.values()}
"""NumPy's types of numbers."""
_EARLIER_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of Python 2, which pickles of PyTorch's protocol still use."""


def is_data(called: Global) -> bool:
    """Returns whether calling this makes plain data: a number, a set, a path, settings."""
    module, _, name = str(called).rpartition(".")
    in_package = any(module == each or module.startswith(f"{each}.") for each in _DATA_MODULES)
    is_number = module == "numpy" and name in _NUMBERS
    return str(called) in _DATA_NAMES or in_package or is_number


def is_of_python(called: Global) -> bool:
    """Returns whether this belongs to Python's own library, of version 2 or 3."""
    top = str(called).partition(".")[0]
    return top in sys.stdlib_module_names or called.module in ("commands", "popen2", "urllib2")


def looks_like_a_class(called: Global) -> bool:
    """Returns whether this is named as a class outside Python's own library, such as an enumeration of a project."""
    return called.name.rpartition(".")[2].lstrip("_")[:1].isupper() and not is_of_python(called)
