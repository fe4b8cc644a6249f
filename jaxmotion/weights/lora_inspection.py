"""Inspection of adapters: what a LoRA changes, what other adapters are; nothing is promised that would be refused."""

from __future__ import annotations

import collections
import dataclasses
import math
from pathlib import Path

import numpy as np

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import ArrayLike
from jaxmotion.weights.formats import LORA_PARTS
from jaxmotion.weights.lora_files import holds_lora, open_lora
from jaxmotion.weights.lora_kinds import foreign_family, is_adapter, layout, other_adapter
from jaxmotion.weights.lora_names import ALPHA, DOWN, UP, part_named, take_apart
from jaxmotion.weights.lora_settings import read_header
from jaxmotion.weights.tensor_files import Checkpoint, open_tensors


@dataclasses.dataclass(frozen=True)
class AdapterInspection:
    """What an adapter is, in words; `problem` says why it is not read, and is empty if it is."""

    what: str
    problem: str


def open_adapter(path: Path) -> Checkpoint | None:
    """Opens a LoRA or another adapter; None for anything else, whatever state it is in."""
    if holds_lora(path):
        return open_lora(path)
    try:
        opened = open_tensors(path)
    except CheckpointFileError:
        return None
    return open_lora(path) if is_adapter(opened) else None


def inspect_adapter(checkpoint: Checkpoint) -> AdapterInspection:
    """Returns what an adapter is, by the names, shapes and values of its tensors and by its settings."""
    others = collections.Counter(kind for name in checkpoint if (kind := other_adapter(name)))
    family = foreign_family(checkpoint)
    of = f" for {family}" if family else ""
    if others:
        kind, count = others.most_common(1)[0]
        what = f"an adapter{of} with {count} tensors of {kind}"
        return AdapterInspection(what, f"{kind} is not read here: a LoRA is two factors for each layer.")
    found: dict[str, dict[str, ArrayLike]] = {}
    for name, tensor in checkpoint.items():
        apart = take_apart(name)
        found.setdefault(apart.layer if apart else name, {})[apart.role if apart else ""] = tensor
    what = f"a LoRA{of} as {layout(checkpoint)} names it, {len(checkpoint)} tensors"
    if family:
        return AdapterInspection(what, f"Networks of {family} are not read here.")
    return _inspect_layers(checkpoint, found, what)


def _inspect_layers(checkpoint: Checkpoint, found: dict[str, dict[str, ArrayLike]], what: str) -> AdapterInspection:
    settings = read_header(checkpoint.metadata, str(checkpoint.path))
    networks: collections.Counter[str] = collections.Counter()
    ranks, scales = set(), set()
    try:
        settings.check()
        for layer, roles in found.items():
            part = part_named(layer, LORA_PARTS)
            if part is None:
                raise CheckpointFileError(f"No network that is known here has a layer {layer}.")
            networks[part.network] += 1
            rank, scale = _rank_and_scale(layer, roles, settings.alpha(part.prefix, [layer], _rank(layer, roles)))
            ranks.add(rank)
            scales.add(scale)
    except CheckpointFileError as error:
        return AdapterInspection(what, str(error))
    where = " and ".join(f"{count} layers of {network}" for network, count in networks.items())
    rank, scale = (" to ".join(dict.fromkeys(f"{v:g}" for v in (min(each), max(each)))) for each in (ranks, scales))
    return AdapterInspection(f"{what}, for {where}; rank {rank}, each product times {scale}", "")


def _rank(layer: str, roles: dict[str, ArrayLike]) -> int:
    lacking = {DOWN, UP} - roles.keys()
    if lacking:
        raise CheckpointFileError(f"The layer {layer} has no {' and no '.join(sorted(lacking))}.")
    rank = roles[DOWN].shape[0] if roles[DOWN].shape else 0
    if len(roles[UP].shape) < 2 or roles[UP].shape[1] != rank or not rank:
        shapes = f"{list(roles[DOWN].shape)} and {list(roles[UP].shape)}"
        raise CheckpointFileError(f"The factors of the layer {layer} are {shapes}, which have no rank in common.")
    return rank


def _rank_and_scale(layer: str, roles: dict[str, ArrayLike], said: float | None) -> tuple[int, float]:
    rank = _rank(layer, roles)
    alpha = float(np.asarray(roles[ALPHA]).reshape(())) or rank if ALPHA in roles else said
    scale = 1.0 if alpha is None else alpha / rank
    finite = math.isfinite(scale) and all(np.isfinite(np.asarray(roles[role])).all() for role in (DOWN, UP))
    if not finite:
        raise CheckpointFileError(f"The layer {layer} has values that are not finite.")
    return rank, scale
