"""LivePhoto's starting noise, which leans to the inverted photo (arXiv:2312.02928, Sec. 3.4)."""

import numpy as np
import torch


def lean(noise, inverted, first, last):
    """alpha inverted + (1 - alpha) noise, alpha linear over the frames (arXiv:2312.02928, Eq. 3)."""
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise ValueError(f"Prior strengths lie in [0, 1]; got {first} and {last}.")
    alpha = torch.linspace(first, last, noise.shape[2], device=noise.device)[:, None, None]
    return alpha * inverted + (1 - alpha) * noise


def share_of_steps(defaults, steps):
    """Steps of the inversion before so many denoising steps: the same share of them as in the defaults."""
    return max(1, round(defaults["num_inversion_steps"] * steps / defaults["num_inference_steps"]))


def split(prediction_type, signal, noise, z, said):
    """(z_0, eps) with z = signal * z_0 + noise * eps, from what the U-Net says."""
    if prediction_type == "epsilon":
        return (z - noise * said) / signal, said
    if prediction_type == "sample":
        return said, (z - signal * said) / noise
    return signal * z - noise * said, signal * said + noise * z


def spaced(train_steps, steps, spacing, offset):
    """The times that a scheduler with this `timestep_spacing` visits, falling."""
    if not 1 <= steps <= train_steps:
        raise ValueError(f"num_inversion_steps must be from 1 to {train_steps}; got {steps}.")
    if spacing == "leading":
        times = np.arange(steps)[::-1] * (train_steps // steps) + offset
    elif spacing == "trailing":
        times = np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1
    else:
        times = np.linspace(0, train_steps - 1, steps).round()[::-1]
    return [int(t) for t in times]
