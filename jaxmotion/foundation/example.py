"""Examples: the entries of one clip. Imports no JAX, so that loader workers stay free of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Value = np.ndarray | np.generic | str | Sequence[str]
"""An entry of an example: an array, a number, a text, or a list of texts."""
Example = dict[str, Any]
"""Entries of one clip by name, each a `Value`, and `id`, a text that names the clip."""
