"""Motion modules as one file in the names of AnimateDiff, which nodes of ComfyUI read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.nn.embedding import position_sinusoid
from jaxmotion.systems.livephoto.model_card import comfy_card
from jaxmotion.weights import formats
from jaxmotion.weights.diffusers_folder import files_in, write_json
from jaxmotion.weights.rules import paths_with_rules
from jaxmotion.weights.tables.animatediff import ANIMATEDIFF
from jaxmotion.weights.tables.stable_diffusion import num_positions
from jaxmotion.weights.write import write_tensors

if TYPE_CHECKING:
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

FILE, CONFIG, CARD = "motion_module", "jaxmotion_config.json", "README.md"
_QUERY = ".to_q.weight"


def export_comfy(system: LivePhoto, params: Mapping[str, Any], destination: str | Path, *, meta: Json) -> list[Path]:
    """Writes the motion modules for AnimateDiff nodes, and returns the files.

    The new input columns are left out: the nodes know no such thing, so what reads them (the reference picture, the
    frame and the level) is gone with them. The nodes norm each frame alone, as AnimateDiff's own code does; modules
    that norm the whole clip (`LivePhoto.motion_norm`) compute something else there. Tables of positions are added; the
    nodes read the longest clip off them.

    Args:
        params: array-likes by path.

    Raises:
        FileExistsError: the destination holds something already.
        ValueError: the parameters have no motion modules.
    """
    below = {path.removeprefix("denoiser/"): array for path, array in params.items() if path.startswith("denoiser/")}
    mine = {f"denoiser/{path}": below[path] for path in paths_with_rules(ANIMATEDIFF, below)}
    if not mine:
        raise ValueError(
            f"A {type(system).__name__} without motion modules has nothing to give to AnimateDiff's nodes."
        )
    tensors: dict[str, Any] = dict(formats.write(mine, {"denoiser": ANIMATEDIFF}))
    length = num_positions(system.frames)
    for name in [name for name in tensors if name.endswith(_QUERY)]:
        table = position_sinusoid(length, tensors[name].shape[1])[None]
        tensors[f"{name.removesuffix(_QUERY)}.pos_encoder.pe"] = np.asarray(table)
    with atomic_folder(Path(destination)) as folder:
        write_tensors(folder, FILE, tensors)
        write_json(folder / CONFIG, meta)
        (folder / CARD).write_text(comfy_card(system, meta))
    return files_in(Path(destination))
