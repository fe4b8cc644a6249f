"""The diffusion process that a denoiser was trained under, as files beside it say.

`scheduler/scheduler_config.json` of diffusers' folders; the header of a single file (`modelspec`, kohya's `ss_`), its
marks `v_pred` and `ztsnr`, and the `.yaml` beside it. Source: the schedulers' constructors in diffusers 0.42; the
ModelSpec standard 1.0.1 (github.com/Stability-AI/ModelSpec); what ComfyUI and sd-scripts write and read.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.schedule import BetaCurve, Schedule
from jaxmotion.foundation.config_json import Json
from jaxmotion.weights.config_fields import HEADER, SIDECAR, UNSAID, ConfigField, ConfigTable, Value
from jaxmotion.weights.diffusers_scheduler import PREDICTIONS

SCHEDULER = "../scheduler/scheduler_config.json"
_COGVIDEOX = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
_STABLE_DIFFUSION_BETAS = (*_COGVIDEOX, "LCMScheduler", "TCDScheduler")
_SAME = 1e-4
"""Alpha bars that are nearer than this are the same schedule, spelled otherwise."""


@runtime_checkable
class Spaced(Protocol):
    """A sampler that visits some of the times of training."""

    @property
    def spacing(self) -> str:
        """How they are spaced."""
        ...

    @property
    def steps_offset(self) -> int:
        """What is added to them."""
        ...


def _default(config: Json, usual: Value, cogvideox: Value) -> Value:
    return cogvideox if config.get("_class_name") in _COGVIDEOX else usual


def _betas(config: Json) -> tuple[str, float, float]:
    """Returns the curve of a scheduler's betas and its ends, by the defaults of its class."""
    kind = config.get("_class_name", "")
    near = kind in _STABLE_DIFFUSION_BETAS
    halfway = kind.startswith(("Heun", "KDPM2"))
    return (
        config.get("beta_schedule", "scaled_linear" if near else "linear"),
        config.get("beta_start", 0.00085 if near or halfway else 0.0001),
        config.get("beta_end", 0.012 if near or halfway else 0.02),
    )


def _prediction(config: Json) -> Value:
    """Returns what is predicted; flow matching and EDM have schedulers of their own, not only a field."""
    kind, said = config.get("_class_name", ""), config.get("prediction_type", "epsilon")
    if "FlowMatch" in kind:
        return "flow_prediction"
    return f"{said} of EDM" if kind.startswith("EDM") else said


def _noise(config: Json) -> bool:
    """Returns whether a scheduler has betas at all."""
    return "FlowMatch" not in config.get("_class_name", "") and not config.get("_class_name", "").startswith("EDM")


def _same_noise(config: Json, process: Process) -> bool:
    """Returns whether a scheduler's noise levels are those of a process, however they are spelled."""
    if not _noise(config):
        return True  # the prediction says it
    curve, first, last = _betas(config)
    steps, trained = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    shift = float(config.get("snr_shift_scale", _default(config, 1.0, 3.0)))  # pyright: ignore[reportArgumentType]
    known: dict[str, BetaCurve] = {"linear": "linear", "scaled_linear": "scaled_linear"}
    if steps != process.schedule.steps or not (trained or curve in known):
        return False
    try:
        there = Schedule(known.get(curve, "linear"), first, last, steps, shift)
        alpha_bar = np.cumprod(1.0 - np.asarray(trained, float)) if trained else there.alpha_bar
    except (ValueError, TypeError):
        return False
    ours = process.schedule
    if bool(config.get("rescale_betas_zero_snr", False)) != ours.zero_terminal_snr:
        return False
    plain = Schedule(ours.betas, ours.beta_start, ours.beta_end, ours.steps, ours.snr_shift).alpha_bar
    return len(alpha_bar) == len(plain) and bool(np.abs(alpha_bar - plain).max() < _SAME)


def _beta(place: int, name: str, ours: str) -> ConfigField:
    return ConfigField(
        name,
        UNSAID,
        lambda process: getattr(process.schedule, ours),
        f"schedule.{ours}",
        False,
        lambda c: _betas(c)[place],
    )


NOISE_FIELDS = (
    _beta(0, "beta_schedule", "betas"),
    _beta(1, "beta_start", "beta_start"),
    _beta(2, "beta_end", "beta_end"),
    ConfigField("trained_betas", None, lambda _: None, decides=False),
    ConfigField(
        "rescale_betas_zero_snr",
        False,
        lambda process: process.schedule.zero_terminal_snr,
        "schedule.zero_terminal_snr",
        False,
    ),
    ConfigField(
        "snr_shift_scale",
        UNSAID,
        lambda process: process.schedule.snr_shift,
        "schedule.snr_shift",
        False,
        lambda config: config.get("snr_shift_scale", _default(config, 1.0, 3.0)),
    ),
    ConfigField("num_train_timesteps", 1000, lambda process: process.schedule.steps, "schedule.steps"),
)
"""A network can be taught another noise at a time, as AnimateDiff does with Stable Diffusion: these only differ. How
many times there are is what its time embedding has seen."""


def _predicted(process: Process) -> Value:
    return PREDICTIONS[process.prediction]


def _offset(sampler: Spaced) -> Value:
    """Returns what is added to times; only those from 0 on, `leading`, need it."""
    return sampler.steps_offset if sampler.spacing == "leading" else UNSAID


SPACING_FIELDS = (
    ConfigField("timestep_spacing", UNSAID, lambda sampler: sampler.spacing, "spacing", decides=False),
    ConfigField("steps_offset", UNSAID, _offset, "steps_offset", decides=False),
)


def _mark(name: str, words: dict[str, str]) -> ConfigField:
    """A field of a header that says what is predicted, in words of its own."""

    def read(config: Json) -> Value:
        return words.get(str(config[name]).lower(), str(config[name])) if name in config else UNSAID

    return ConfigField(name, UNSAID, _predicted, "prediction", read=read)


def _zero_terminal(name: str) -> ConfigField:
    return ConfigField(
        name,
        UNSAID,
        lambda process: process.schedule.zero_terminal_snr,
        "schedule.zero_terminal_snr",
        decides=False,
        read=lambda config: str(config[name]).lower() == "true" if name in config else UNSAID,
    )


_V = PREDICTIONS["v"]
HEADER_FIELDS = (
    _mark("modelspec.prediction_type", {"v": _V, "v-prediction": _V, "eps": PREDICTIONS["eps"]}),
    _mark("v_pred", {"true": _V}),
    _mark("ss_v_parameterization", {"true": _V, "false": PREDICTIONS["eps"], "none": PREDICTIONS["eps"]}),
    _mark(SIDECAR, {"v": _V, "eps": PREDICTIONS["eps"], "x0": PREDICTIONS["z0"]}),
    _zero_terminal("ztsnr"),
    _zero_terminal("ss_zero_terminal_snr"),
)

HEADER_CONFIG = ConfigTable(Process, HEADER_FIELDS, HEADER)
PROCESS = (
    ConfigTable(
        Process, (ConfigField("prediction_type", "epsilon", _predicted, "prediction", read=_prediction),), SCHEDULER
    ),
    ConfigTable(Process, NOISE_FIELDS, SCHEDULER, alike=_same_noise),
    ConfigTable(Spaced, SPACING_FIELDS, SCHEDULER),
    HEADER_CONFIG,
)
"""What says the process of a denoiser."""
