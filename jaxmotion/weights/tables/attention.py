"""Attention and feedforward layers, as diffusers and latent diffusion name them."""

from __future__ import annotations

from jaxmotion.weights.rules import Rule, linear, pair


def attention(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of an attention layer."""
    return (
        *linear(f"{torch}.to_q", f"{path}/query"),
        *linear(f"{torch}.to_k", f"{path}/key"),
        *linear(f"{torch}.to_v", f"{path}/value"),
        *linear(f"{torch}.to_out.0", f"{path}/out"),
    )


def feedforward(torch: str, path: str) -> tuple[Rule, ...]:
    """Returns the rules of a feedforward layer with GEGLU."""
    return (*pair(f"{torch}.net.0.proj", f"{path}/linear_in"), *linear(f"{torch}.net.2", f"{path}/linear_out"))
