"""Schedulers of diffusers that take the same steps as our samplers."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, DDPM, DPMSolverPP, Sampler, SDEDPMSolverPP
from jaxmotion.diffusion.schedule import Schedule
from jaxmotion.foundation.config_json import JsonValue

PREDICTIONS = {"eps": "epsilon", "z0": "sample", "v": "v_prediction"}


def scheduler_of(process: Process, sampler: Sampler) -> tuple[str, dict[str, JsonValue]]:
    """Returns the scheduler's class name and constructor arguments; the number of steps and eta are given at sampling.

    Where the signal-to-noise ratios are shifted, all are given the betas that come to the same: the shift itself only
    schedulers of CogVideoX know, and one that is made from their config, such as Euler, would leave it out.

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    schedule = process.schedule
    config: dict[str, JsonValue] = {
        "num_train_timesteps": schedule.steps,
        "prediction_type": PREDICTIONS[process.prediction],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }
    if isinstance(sampler, DDIM | DDPM | DPMSolverPP | SDEDPMSolverPP):
        config |= {"timestep_spacing": sampler.spacing, "steps_offset": sampler.steps_offset}
    match sampler:
        case DDIM(eta=0.0) if schedule.snr_shift != 1.0:
            ends = {"clip_sample": False, "set_alpha_to_one": sampler.final == "clean"}
            return "CogVideoXDDIMScheduler", {**config, **_betas(schedule), **ends, "snr_shift_scale": 1.0}
        case DDIM():
            ends = {"clip_sample": False, "set_alpha_to_one": sampler.final == "clean"}
            return "DDIMScheduler", {**config, **_betas(schedule), **ends}
        case DDPM():
            return "DDPMScheduler", {
                **config,
                **_betas(schedule),
                "clip_sample": False,
                "variance_type": "fixed_small",
            }
        case DPMSolverPP():
            solver = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
            return "DPMSolverMultistepScheduler", {
                **config,
                **_betas(schedule),
                **solver,
                "final_sigmas_type": "zero",
            }
        case SDEDPMSolverPP():
            return "CogVideoXDPMScheduler", {
                **config,
                **_betas(schedule),
                "clip_sample": False,
                "set_alpha_to_one": True,
                "snr_shift_scale": 1.0,
            }
    known = ", ".join(each.__name__ for each in (DDIM, DDPM, DPMSolverPP, SDEDPMSolverPP))
    raise ValueError(f"diffusers has no scheduler for {type(sampler).__name__}; sample with one of {known}.")


def _curve(schedule: Schedule) -> dict[str, JsonValue]:
    return {"beta_schedule": schedule.betas, "beta_start": schedule.beta_start, "beta_end": schedule.beta_end}


def _betas(schedule: Schedule) -> dict[str, JsonValue]:
    """The betas before any change to their last one, which the schedulers make themselves."""
    if schedule.snr_shift == 1.0:
        return _curve(schedule)
    alpha_bar = dataclasses.replace(schedule, zero_terminal_snr=False).alpha_bar
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    return {**_curve(schedule), "trained_betas": (1.0 - alpha_bar / before).tolist()}
