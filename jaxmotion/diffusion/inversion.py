"""DDIM inversion: from a clean latent to the noise that a deterministic DDIM would have started from.

Source: the reverse of arXiv:2010.02502, Eq. 12, as in diffusers' DDIMInverseScheduler: the step from one level up to
the next is made with the network's prediction at the upper time.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import (
    Coefficients,
    Denoise,
    Spacing,
    make_coefficients,
    previous_alpha_bar,
    run_scan,
    timestep_spacing,
)


def invert(
    process: Process,
    denoise: Denoise,
    z0: Float[Array, "B *rest"],
    steps: int = 50,
    spacing: Spacing = "leading",
    steps_offset: int = 1,
    first: Literal["first", "clean"] = "first",
    on_step: Callable[[int], None] | None = None,
) -> Float[Array, "B *rest"]:
    """Returns z_T of a DDIM (eta 0) with the same steps, spacing and offset.

    Args:
        denoise: (z_t, t) -> prediction; usually with an empty prompt and without guidance, which inversion amplifies.
        first: the level that z0 is taken to be at: that of t = 0 (`first`) or no noise (`clean`); DDIM's `final`.
        on_step: called on the host with the number of each finished step.
    """
    plan = inversion_plan(process, steps, spacing, steps_offset, first)
    return run_scan(plan, process.prediction, denoise, z0, on_step=on_step)


def inversion_plan(
    process: Process, steps: int, spacing: Spacing, steps_offset: int, first: Literal["first", "clean"]
) -> Coefficients:
    """Returns rows from the cleanest level up: z_next = a_t z_0 + s_t eps, z_0 and eps predicted one stride below t."""
    if process.prediction == "z0" and first == "clean":
        raise ValueError("Where there is no noise, a prediction of z0 says nothing about eps; invert from 'first'.")
    t = timestep_spacing(process.schedule.steps, steps, spacing, steps_offset)[::-1]
    here = previous_alpha_bar(process, t, steps, first)
    there = process.schedule.alpha_bar[t]
    return make_coefficients(t, here, z0=np.sqrt(there), eps=np.sqrt(1 - there))
