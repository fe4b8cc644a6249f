"""Exports of a run, dispatched to its system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer, T5Tokenizer, Tokenizer, spiece
from jaxmotion.meter.meter import NetworkMeter, save_meter
from jaxmotion.nn.low_rank import LORA
from jaxmotion.parallel import sharding
from jaxmotion.runs import experiment as experiments
from jaxmotion.runs.trained import _previewed, open_run, read_config
from jaxmotion.systems.livephoto.export import export_diffusers, export_motion_adapter
from jaxmotion.systems.livephoto.export_comfy import export_comfy
from jaxmotion.systems.lora import LoRA
from jaxmotion.systems.motionstone.export import export_motionstone
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.training import checkpoint
from jaxmotion.weights import native_files
from jaxmotion.weights.hub import files_of
from jaxmotion.weights.lora import export_lora
from jaxmotion.weights.tokenizers import CLIP_FILES, ClipTokens, HashTokens, T5Tokens, Tokens


def open_meter(directory: Path, weights: Literal["ema", "live"] = "ema") -> NetworkMeter:
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
    step = checkpoint.latest_step(directory)
    params = checkpoint.restore_params(directory, weights=weights)
    return NetworkMeter(system.motion_network, params, f"{directory.name}-{step}")


def export_meter(directory: Path, path: Path) -> None:
    """Writes the averaged weights of a run as a file of weights for the motion meter."""
    meter = open_meter(directory)
    save_meter(meter, path, {"run": meter.name})


Kind = Literal["diffusers", "diffusers-baked", "motion-adapter", "comfy", "safetensors", "lora-peft", "lora-kohya"]


def export(
    directory: Path,
    kind: Kind,
    destination: Path,
    weights: Literal["ema", "live"] = "ema",
    *,
    verify: bool = True,
    asked: Mapping[str, float] | None = None,
) -> list[Path]:
    """Writes the weights of a run for others, and returns the files.

    Args:
        asked: the scores that `diffusers-baked` bakes in; what is not named is at its default.
        kind: `diffusers` (the folder of a pipeline), `diffusers-baked` (that of a stock pipeline with one setting of
            MotionStone's scores in its weights), `motion-adapter` (that of a MotionAdapter), `comfy` (motion
            modules in the names of AnimateDiff), `safetensors` (everything under our paths), or the factors of a LoRA.
            Of a run of LoRA the others have the factors merged in.
        verify: compare what PyTorch makes of it with what we do, where it is installed.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: the run has no form of this kind.
    """
    opened = open_run(directory, weights, precision="saved")
    system, params = opened.experiment.system, opened.params
    meta = experiments.to_json(opened.experiment)
    match kind, system:
        case "lora-peft" | "lora-kohya", LoRA():
            layout = "peft" if kind == "lora-peft" else "kohya"
            return export_lora(params[LORA], system.rank, system.alpha, layout, destination)
        case "lora-peft" | "lora-kohya", _:
            raise ValueError(
                f"{directory} is no run of LoRA, so there are no factors to write; export it as diffusers."
            )
        case _, LoRA():
            system, params = system.of, system.build().merged(params)
    if isinstance(system, MotionStone) and kind in ("diffusers", "diffusers-baked"):
        settings = {**{name: control.default for name, control in system.controls.items()}, **(asked or {})}
        baked = settings if kind == "diffusers-baked" else None
        tokens = _exported_tokenizer(opened.experiment.tokenizer)
        presets = [dict(each) for each in _previewed(system.controls)]
        return export_motionstone(
            system,
            params,
            opened.experiment.sampling,
            tokens,
            destination,
            meta=meta,
            baked=baked,
            presets=presets,
            fps=opened.experiment.data.fps,
            verify=verify,
        )
    if kind == "diffusers-baked":
        raise ValueError(f"{directory} is no run of MotionStone; there are no scores to bake in.")
    if kind == "diffusers":
        tokens = _exported_tokenizer(opened.experiment.tokenizer)
        return export_diffusers(
            system, params, opened.experiment.sampling, tokens, destination, meta=meta, verify=verify
        )
    if kind == "motion-adapter":
        return export_motion_adapter(system, params, destination, meta=meta)
    if kind == "comfy":
        return export_comfy(system, sharding.paths(params), destination, meta=meta)
    return native_files.export_parameters(sharding.paths(params), destination, meta=meta)


def _exported_tokenizer(tokenizer: Tokenizer) -> Tokens:
    if isinstance(tokenizer, HashTokenizer):
        return HashTokens(tokenizer.vocabulary, tokenizer.length)
    if isinstance(tokenizer, T5Tokenizer):
        return T5Tokens(spiece(tokenizer.source), tokenizer.length)
    if not isinstance(tokenizer, ClipTokenizer):
        raise ValueError(f"A {type(tokenizer).__name__} has no public counterpart to be exported as.")
    return ClipTokens(files_of(tokenizer.source, CLIP_FILES), tokenizer.length)
