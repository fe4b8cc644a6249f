"""Reads LoRA files in the layouts of PEFT (and so diffusers) and of Kohya's scripts, and adds them to parameters.

Read beside what `lora_write` writes: the names of a model in training (`lora_A.default.weight`), those of diffusers
before PEFT (`to_q.lora.down.weight`, `processor.to_q_lora.down.weight`), AnimateDiff's motion LoRA, and Kohya files in
the names of the latent diffusion code (`lora_unet_input_blocks_1_1_...`).

Source: `lora_base.py`, `peft.py` and `state_dict_utils.py` of diffusers 0.42; `networks/lora.py` of Kohya's sd-scripts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import Array, ArrayLike, Params, Shaped
from jaxmotion.nn.low_rank import DOWN, UP, fresh, is_stacked, merge, pairs
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora_kinds import explain, foreign_family
from jaxmotion.weights.lora_names import ALPHA, Layer, LoRAPart, known_names, layers_of, part_named, take_apart
from jaxmotion.weights.lora_settings import Settings, read_header
from jaxmotion.weights.rules import ConversionError, LazyArray, Tensors, layer_of


class Factors(NamedTuple):
    """LoRA factors as in the part `lora` of `systems.lora`; their products are multiplied by alpha / rank."""

    params: Params
    rank: int
    alpha: float


def from_file(
    tensors: Tensors,
    like: Params,
    parts: Sequence[LoRAPart] = LORA_PARTS,
    metadata: Mapping[str, str] | None = None,
    source: str = "The LoRA file",
) -> Factors:
    """Returns the LoRA factors in a file of any layout.

    Layers of a file may differ in rank and alpha; ours do not. The rank is the largest; factors of a smaller one are
    filled up with zeros, which changes no product. Alpha is such that most layers agree with it; the `up` of the others
    is multiplied by what is left, in float32. All else keeps the precision of the file. A layer without alpha counts
    alpha = rank. Layers of a stack that the file has not have zeros.

    Args:
        like: parameters of the system, as arrays or shapes.
        metadata: text by name from the header of the file, where diffusers keeps alpha.

    Raises:
        ConversionError: names that belong to no kernel, a factor without the other, shapes or types that do not fit.
        CheckpointFileError: the settings cannot be read or are of another kind of adapter, or a factor or an alpha is
            not finite.
    """
    settings = read_header(metadata or {}, source)
    settings.check()
    found = _group_by_layer(tensors, like, parts, source)
    read = [_read_layer(layer, roles, settings, source) for layer, roles in found.items()]
    rank = max(each.rank for each in read)
    alpha = _common_alpha(read, rank)
    by_path: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for each in read:
        by_path.setdefault(each.layer.path, {})[each.layer.number] = each.factors(rank, alpha)
    depths = {path: leaf.shape[0] for path, leaf in _select_kernels(like).items()}
    flat = {}
    for path, layers in by_path.items():
        for index, role in enumerate((DOWN, UP)):
            factors = {number: both[index] for number, both in layers.items()}
            flat[f"{path}/{role}"] = _stack(factors, depths[path]) if is_stacked(path) else factors[0]
    return Factors(unflatten_dict(flat, sep="/"), rank, alpha)


def merge_into(
    params: Params,
    tensors: Tensors,
    scale: float = 1.0,
    parts: Sequence[LoRAPart] = LORA_PARTS,
    metadata: Mapping[str, str] | None = None,
) -> Params:
    """Returns `params` with a file's LoRA, times `scale`, added to their kernels; other arguments as in `from_file`."""
    factors = from_file(tensors, params, parts, metadata)
    return merge(params, factors.params, scale * factors.alpha / factors.rank)


def add(params: Tensors, factors: Factors, scale: float = 1.0) -> dict[str, LazyArray]:
    """Returns the kernels with the factors' products added, by path, each computed lazily, in its own precision.

    Args:
        params: array-likes by path, these kernels among them.

    Raises:
        ValueError: the scale is no finite number.
        CheckpointFileError: when a kernel is read, whose sum is not finite in its precision.
    """
    if not math.isfinite(scale):
        raise ValueError(f"A LoRA is added times a finite number; got {scale}.")
    factor = scale * factors.alpha / factors.rank

    def make_layer(path: str, down: np.ndarray, up: np.ndarray, layer: int) -> np.ndarray:
        return _sum(params, path, layer_of(params[path], layer), factor, down[layer], up[layer], layer)

    def make(path: str, down: np.ndarray, up: np.ndarray) -> np.ndarray:
        if not is_stacked(path):
            return _sum(params, path, np.asarray(params[path]), factor, down, up, 0)
        kernel = params[path]
        whole = kernel if isinstance(kernel, LazyArray) and kernel.make_layer else np.asarray(kernel)  # read once
        layers = (layer_of(whole, layer) for layer in range(len(down)))
        changed = [_sum(params, path, layer, factor, down[i], up[i], i) for i, layer in enumerate(layers)]
        return np.stack([layer.astype(kernel.dtype, copy=False) for layer in changed])

    changed = {}
    for path, down, up in pairs(factors.params):
        pair = (path, np.asarray(down), np.asarray(up))
        by_layer = functools.partial(make_layer, *pair) if is_stacked(path) else None
        shape, dtype = tuple(params[path].shape), np.dtype(params[path].dtype)
        changed[path] = LazyArray(shape, dtype, functools.partial(make, *pair), by_layer)
    return changed


def refit(factors: Factors, rank: int, alpha: float, key: Array) -> Params:
    """Returns the LoRA at another alpha and an equal or larger rank, as a part `lora` for further training.

    What is added to `down` is random and to `up` zero, as in a fresh LoRA: no product changes, and all of it can learn.

    Raises:
        ValueError: the rank is smaller than that of the factors.
    """
    if rank < factors.rank:
        raise ValueError(f"The LoRA has rank {factors.rank}, which does not fit into {rank}; ask for at least as much.")
    held = {path: (down, up) for path, down, up in pairs(factors.params)}
    left = factors.alpha * rank / (factors.rank * alpha)
    flat = {}
    for path, down, up in pairs(fresh(shapes_of_kernels(factors.params), rank, key)):
        old_down, old_up = held[path]
        layers = (slice(None),) * is_stacked(path)
        flat[f"{path}/{DOWN}"] = down.at[..., : factors.rank].set(old_down)
        flat[f"{path}/{UP}"] = up.at[(*layers, slice(factors.rank))].set(left * jnp.asarray(old_up, jnp.float32))
    return unflatten_dict(flat, sep="/")


def shapes_of_kernels(lora: Params) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the kernels that the factors are of, by path."""
    return {
        path: jax.ShapeDtypeStruct((*down.shape[:-1], *up.shape[2 if is_stacked(path) else 1 :]), jnp.float32)
        for path, down, up in pairs(lora)
    }


def _select_kernels(params: Params) -> dict[str, Shaped]:
    flat: dict[str, Shaped] = flatten_dict(params, sep="/")  # pyright: ignore[reportAssignmentType]
    return {path: leaf for path, leaf in flat.items() if path.endswith("/kernel")}


def _sum(
    params: Tensors, path: str, kernel: np.ndarray, factor: float, down: np.ndarray, up: np.ndarray, layer: int
) -> np.ndarray:
    """Returns kernel + factor * down up, in float32 or better and rounded once; layers count within the path."""
    exact = np.promote_types(np.float32, kernel.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.tensordot(down.astype(exact), up.astype(exact), axes=1)
        made = (kernel.astype(exact) + exact.type(factor) * change).astype(kernel.dtype)
    if np.isfinite(made).all():
        return made
    shapes = {each: tuple(array.shape) for each, array in params.items() if each.endswith("/kernel")}
    layers = layers_of(shapes, LORA_PARTS)
    name = next((each.name for each in layers if (each.path, each.number) == (path, layer)), path)
    if not np.isfinite(kernel).all():
        raise CheckpointFileError(
            f"The weights of {name} that the LoRA is to be added to are not finite; nothing is written."
        )
    raise CheckpointFileError(
        f"With the LoRA, the weights of {name} are not finite in {kernel.dtype}; nothing is written. A smaller scale "
        "or a checkpoint in float32 would do, if the LoRA is what it should be."
    )


def _group_by_layer(
    tensors: Tensors, like: Params, parts: Sequence[LoRAPart], source: str
) -> dict[Layer, dict[str, ArrayLike]]:
    """Returns the tensors of a file by torch layer and role: two factors and, if the file has it, alpha."""
    layers = layers_of({path: tuple(leaf.shape) for path, leaf in _select_kernels(like).items()}, parts)
    known = known_names(layers)
    held: dict[Layer, dict[str, ArrayLike]] = {}
    unexpected, wrong_dtype, adapters = [], [], set()
    elsewhere: dict[str, None] = {}
    for name, tensor in tensors.items():
        found = take_apart(name)
        if found is None or found.layer not in known:
            unexpected.append(explain(name))
            part = part_named(found.layer, parts) if found else None
            elsewhere.update({part.network: None} if part else {})
            continue
        adapters.add(found.adapter)
        layer, role = known[found.layer], found.role
        if role in held.setdefault(layer, {}):
            unexpected.append(f"{name}: the {role} of {layer.name} has come under another name already")
        held[layer][role] = tensor
        if role != ALPHA and not jnp.issubdtype(tensor.dtype, jnp.floating):
            wrong_dtype.append(f"{name}: {tensor.dtype} came, a floating-point type is needed")
    if len(adapters - {""}) > 1:
        raise CheckpointFileError(
            f"{source} holds the adapters {', '.join(sorted(adapters))}; one is needed. Save that one alone."
        )
    missing = [f"{layer.name}: {role}" for layer, roles in held.items() for role in (DOWN, UP) if role not in roles]
    whole = {layer: roles for layer, roles in held.items() if roles.keys() >= {DOWN, UP}}
    wrong_shape = [line for layer, roles in whole.items() for line in _misfits(layer, roles)]
    if missing or unexpected or wrong_shape or wrong_dtype:
        hint = _hint(tensors, [*elsewhere], {layer.part.network for layer in layers}, bool(wrong_shape))
        raise ConversionError(missing, unexpected, wrong_shape, wrong_dtype, source, hint)
    if not whole:
        raise ConversionError(missing=["the two factors of any layer"], source=source)
    return whole


def _hint(tensors: Tensors, elsewhere: Sequence[str], here: Collection[str], misfits: bool) -> str:
    """Returns a sentence about a LoRA that belongs to other networks than those that are here."""
    family = foreign_family(tensors)
    if family:
        return f"This is an adapter for {family}, which is not read here."
    if elsewhere:
        return (
            f"The LoRA changes {' and '.join(elsewhere)}, too, with layers that are not here: these are "
            f"{' and '.join(sorted(here)) or 'none that LoRA files have names for'}. Give all that it changes, such as "
            "the folder of a whole pipeline."
        )
    return "It may have been trained on a network of another size." if misfits else ""


def _misfits(layer: Layer, roles: Tensors) -> list[str]:
    """Returns messages on factors of the wrong shape. Linear layers and pointwise convolutions stand for each other."""
    came = {role: tuple(roles[role].shape) for role in (DOWN, UP)}
    rank = came[DOWN][0] if came[DOWN] else 0
    lines = []
    for index, role in enumerate((DOWN, UP)):
        forms = [form[index] for form in layer.torch_shapes(rank)]
        flat = [each for form in forms if math.prod(form[2:]) == 1 for each in (form[:2], (*form[:2], 1, 1))]
        if rank == 0 or came[role] not in (*forms, *flat):
            lines.append(f"{layer.name}: {role} is {list(came[role])}, {list(forms[0])} is needed")
    return lines


@dataclasses.dataclass(frozen=True)
class _FileLayer:
    """A torch layer's factors as they are in the file; their product is multiplied by alpha / rank."""

    layer: Layer
    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def factors(self, rank: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns our two factors at another rank and alpha."""
        down, up = self.layer.to_jax(self.down, self.up)
        more = rank - self.rank
        down = np.pad(down, [(0, 0)] * (down.ndim - 1) + [(0, more)])
        up = np.pad(up, [(0, more)] + [(0, 0)] * (up.ndim - 1))
        left = self.alpha * rank / (self.rank * alpha)
        return down, up if left == 1 else up.astype(np.float32) * np.float32(left)


def _read_layer(layer: Layer, roles: Tensors, settings: Settings, source: str) -> _FileLayer:
    """Reads a layer's factors and alpha: its own (0: the rank, as in Kohya's scripts), PEFT's settings, or the rank.

    Raises:
        CheckpointFileError: one of them is not finite.
    """
    down, up = np.asarray(roles[DOWN]), np.asarray(roles[UP])
    rank = down.shape[0]
    if ALPHA in roles:
        alpha = float(np.asarray(roles[ALPHA]).reshape(())) or rank
    else:
        said = settings.alpha(layer.part.prefix, layer.names, rank)
        alpha = rank if said is None else said
    for role, values in ((DOWN, down), (UP, up), (ALPHA, np.asarray(alpha))):
        if not np.isfinite(values).all():
            raise CheckpointFileError(f"{source}: the {role} of {layer.name} is not finite; nothing is made of it.")
    return _FileLayer(layer, down, up, alpha)


def _common_alpha(read: Collection[_FileLayer], rank: int) -> float:
    """Returns the alpha that, at this rank, is right for most layers; never 0, by which nothing can be divided."""
    scales = collections.Counter(each.alpha / each.rank for each in read if each.alpha)
    if not scales:
        return float(rank)
    scale = scales.most_common(1)[0][0]
    same = (each.alpha for each in read if each.alpha / each.rank == scale and each.rank == rank)
    return float(next(same, scale * rank))


def _stack(layers: Mapping[int, np.ndarray], depth: int) -> np.ndarray:
    some = next(iter(layers.values()))
    return np.stack([layers[number] if number in layers else np.zeros_like(some) for number in range(depth)])
