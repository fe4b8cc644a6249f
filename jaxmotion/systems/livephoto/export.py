"""A trained system as a folder that diffusers loads, or its motion modules alone for other base models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.foundation.types import Params
from jaxmotion.parallel.sharding import paths
from jaxmotion.systems.export import SAFETENSORS, Export, ExportableTokenizer, Exporter, ExportJob, flat_parameters
from jaxmotion.systems.livephoto import export_check as report
from jaxmotion.systems.livephoto.export_comfy import export_comfy
from jaxmotion.systems.livephoto.export_parts import adapter_of, pipeline_of
from jaxmotion.systems.livephoto.model_card import adapter_card, pipeline_card
from jaxmotion.weights.diffusers_folder import files_in, write_json
from jaxmotion.weights.parity import unverified_report

if TYPE_CHECKING:
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

CONFIG, REPORT, CARD = "jaxmotion_config.json", "export_report.json", "README.md"


def export_diffusers(
    system: LivePhoto,
    params: Params,
    sampling: Sampling,
    tokenizer: ExportableTokenizer,
    destination: str | Path,
    *,
    meta: Json,
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
    pipeline = pipeline_of(system, flat_parameters(system.build().init, params), sampling, tokenizer)
    with atomic_folder(destination) as folder:
        pipeline.write_into(folder)
        write_json(folder / CONFIG, meta)
        if verify:
            found = report.verify(folder, system, params, sampling)
        else:
            found = unverified_report(report.parts_of(system), "it was not asked for")
        write_json(folder / REPORT, found.to_json())
        (folder / CARD).write_text(pipeline_card(system, sampling, meta, found))
    found.check(destination / REPORT)
    return files_in(destination)


def export_motion_adapter(system: LivePhoto, params: Params, destination: str | Path, *, meta: Json) -> list[Path]:
    """Writes the motion modules and the new input channels as a `MotionAdapter`, and returns the files.

    `UNetMotionModel.from_unet2d(unet, adapter)` attaches it to the U-Net of any fine-tune of the base model.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: the class cannot hold these motion modules.
    """
    destination = Path(destination)
    adapter = adapter_of(system, flat_parameters(system.build().init, params))
    with atomic_folder(destination) as folder:
        adapter.write_into(folder)
        write_json(folder / CONFIG, meta)
        (folder / CARD).write_text(adapter_card(system, meta))
    return files_in(destination)


def _write_pipeline(job: ExportJob[LivePhoto]) -> list[Path]:
    return export_diffusers(
        job.system, job.params, job.sampling, job.tokenizer, job.destination, meta=job.meta, verify=job.verify
    )


def _write_adapter(job: ExportJob[LivePhoto]) -> list[Path]:
    return export_motion_adapter(job.system, job.params, job.destination, meta=job.meta)


def _write_comfy(job: ExportJob[LivePhoto]) -> list[Path]:
    return export_comfy(job.system, paths(job.params), job.destination, meta=job.meta)


EXPORTS: dict[str, Exporter] = {
    "diffusers": Export(
        "a folder that DiffusionPipeline.from_pretrained loads, with its report and model card", _write_pipeline
    ),
    "motion-adapter": Export(
        "motion modules and new input columns as a MotionAdapter for any Stable Diffusion 1.5", _write_adapter
    ),
    "comfy": Export("motion modules in the names that AnimateDiff and ComfyUI read", _write_comfy),
    "safetensors": SAFETENSORS,
}
