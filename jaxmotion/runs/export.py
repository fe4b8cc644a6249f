"""Exports of a run, dispatched to its system."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxmotion.meter.meter import NetworkMeter, save_meter
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.trained import open_run, read_config
from jaxmotion.systems.control import ControlValues, check_known
from jaxmotion.systems.export import Exporter, ExportJob
from jaxmotion.systems.lora import FACTOR_EXPORTS, LoRA
from jaxmotion.systems.system import System
from jaxmotion.training import restore


def open_meter(directory: Path, weights: Literal["ema", "raw"] = "ema") -> NetworkMeter:
    """Opens the newest checkpoint of a run as a motion meter.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its system trains no motion meter, or there is no complete checkpoint yet.
    """
    system = read_config(directory).system
    if system.motion_network is None:
        raise ValueError(
            f"{directory} holds a run of {type(system).__name__}, which measures no motion; a meter is a run of "
            "configs/motion_estimator.py."
        )
    params, step = restore.restore_with_step(directory, weights=weights)
    return NetworkMeter(system.motion_network, params, f"{directory.name}-{step}")


def export_meter(directory: Path, path: Path) -> None:
    """Writes the averaged weights of a run as a file of weights for the motion meter."""
    meter = open_meter(directory)
    save_meter(meter, path, {"run": meter.name})


def find_exporter(system: System, directory: Path, kind: str) -> Exporter:
    """Returns the exporter of a kind for the system of a run.

    Raises:
        ValueError: the system has no such export; the message says which it has.
    """
    found = system.exports()
    if kind in found:
        return found[kind]
    kinds = "".join(f"\n  {name:16} {each.description}" for name, each in found.items())
    if kind in FACTOR_EXPORTS:
        why = "is a run of LoRA that is not exportable" if isinstance(system, LoRA) else "is no run of LoRA"
        raise ValueError(f"{directory} {why}, so there are no factors to write. Export it as one of these:{kinds}")
    raise ValueError(
        f"{directory} holds a run of {type(system).__name__}, which has no export {kind!r}. It has:{kinds}"
    )


def export(
    directory: Path,
    kind: str,
    destination: Path,
    weights: Literal["ema", "raw"] = "ema",
    *,
    verify: bool = True,
    controls: ControlValues | None = None,
) -> list[Path]:
    """Writes the weights of a run for other programs, and returns the files.

    Args:
        kind: one of the system's `exports`.
        verify: compare what PyTorch computes with the export and what we do, where it is installed.
        controls: values of controls for exports that fix them in the weights; the others are at their default.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: the run has no form of this kind, or it fixes no controls and some are given.
    """
    exporter = find_exporter(read_config(directory).system, directory, kind)
    if controls and not exporter.fixes_controls:
        raise ValueError(f"The export {kind} fixes no controls in the weights; leave {', '.join(controls)} out.")
    opened = open_run(directory, weights, precision="saved")
    experiment = opened.experiment
    check_known(experiment.system.controls, controls or {})
    job = ExportJob(
        system=experiment.system,
        params=opened.params,
        sampling=experiment.sampling,
        tokenizer=experiment.tokenizer,
        fps=experiment.data.fps,
        meta=experiments.to_json(experiment),
        destination=destination,
        verify=verify,
        controls=controls or {},
    )
    return exporter(job)
