"""A trained system as a folder that diffusers loads, or its motion modules alone for other base models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.foundation.types import Params
from jaxmotion.systems.livephoto import export_check as report
from jaxmotion.systems.livephoto.export_parts import adapter_of, flat_parameters, pipeline_of
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.model_card import adapter_card, pipeline_card
from jaxmotion.systems.system import System
from jaxmotion.weights.diffusers_folder import files_in, write_json
from jaxmotion.weights.parity import unverified
from jaxmotion.weights.tokenizers import Tokens

CONFIG, REPORT, CARD = "jaxmotion_config.json", "export_report.json", "README.md"


def export_diffusers(
    system: System,
    params: Params,
    sampling: Sampling,
    tokenizer: Tokens,
    destination: str | Path,
    *,
    meta: Mapping[str, Any],
    verify: bool = True,
) -> list[Path]:
    """Writes a folder for `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`, and returns its files.

    The folder appears whole or not at all. `export_report.json` says how far each part is from ours on the same inputs.

    Args:
        params: the whole tree, in the precision that the files will have.
        sampling: what the pipeline does when nothing else is asked for.
        meta: the experiment as JSON values; it is kept in the folder.
        verify: whether to run both implementations, which needs PyTorch, diffusers and transformers.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: a part of the system has no form that diffusers can load.
        VerificationError: a part differs by more than it may; the folder and its report are there to look at.
    """
    destination = Path(destination)
    livephoto = _livephoto(system)
    pipeline = pipeline_of(livephoto, flat_parameters(livephoto, params), sampling, tokenizer)
    with atomic_folder(destination) as folder:
        pipeline.write_into(folder)
        write_json(folder / CONFIG, meta)
        if verify:
            found = report.verify(folder, livephoto, params, sampling)
        else:
            found = unverified(report.parts_of(livephoto), "it was not asked for")
        write_json(folder / REPORT, found.to_json())
        (folder / CARD).write_text(pipeline_card(livephoto, sampling, meta, found))
    found.check(destination / REPORT)
    return files_in(destination)


def export_motion_adapter(
    system: System, params: Params, destination: str | Path, *, meta: Mapping[str, Any]
) -> list[Path]:
    """Writes the motion modules and the new input channels as a `MotionAdapter`, and returns the files.

    `UNetMotionModel.from_unet2d(unet, adapter)` attaches it to the U-Net of any fine-tune of the base model.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: the class cannot hold these motion modules.
    """
    destination = Path(destination)
    livephoto = _livephoto(system)
    adapter = adapter_of(livephoto, flat_parameters(livephoto, params))
    with atomic_folder(destination) as folder:
        adapter.write_into(folder)
        write_json(folder / CONFIG, meta)
        (folder / CARD).write_text(adapter_card(livephoto, meta))
    return files_in(destination)


def _livephoto(system: System) -> LivePhoto:
    if not isinstance(system, LivePhoto):
        raise ValueError(f"Only LivePhoto has an export to diffusers; this is a {type(system).__name__}.")
    return system
