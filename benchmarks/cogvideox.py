"""Seconds of a denoising step and of a training step of CogVideoX, beside diffusers on PyTorch, in the same session.

    python benchmarks/cogvideox.py --sizes CogVideoX-2b CogVideoX-5b-I2V            # on a GPU, bfloat16, 49 x 480 x 720
    python benchmarks/cogvideox.py --tiny                                           # anywhere: does the script work?

Weights are random. PyTorch runs eager and compiled, where it is installed. MFU = FLOPs / (seconds x peak), with

    FLOPs of a forward pass = 2 x (weights of matrix products) x tokens + 4 x tokens^2 x width x layers

for a clip (attention counts both of its products, what is computed again in the backward pass does not count), and a
training step of three forward passes. The peak is given by --peak in TFLOP/s (989: H100 and H200, dense bfloat16).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxmotion.foundation.types import Condition
from jaxmotion.models.cogvideox import PUBLIC, CogVideoX, CogVideoXSizes

LATENTS = (13, 60, 90)
TINY = {"depth": 2, "heads": 2, "head_features": 32, "text_features": 64, "text_length": 16, "grid": (2, 4, 6)}
ROUNDS = 5
COMPARED = [name for name, sizes in PUBLIC.items() if sizes.patch[0] == 1]
"""The sizes of CogVideoX 1.0; those of 1.5 see other latents."""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=COMPARED, default=["CogVideoX-2b", "CogVideoX-5b-I2V"])
    parser.add_argument("--tiny", action="store_true", help="narrow networks on a small clip, in float32")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the device (default 989)")
    parser.add_argument("--kernel", default="auto", help="attention kernel (default auto)")
    parser.add_argument("--remat", default="full", choices=("none", "full", "dots"))
    parser.add_argument("--no-train", action="store_true", help="denoising steps only")
    parser.add_argument("--no-torch", action="store_true", help="ours only")
    options = parser.parse_args()
    table = Table("network", "what", "how", "seconds", "MFU", "ours / theirs", title=jax.devices()[0].device_kind)
    for name in options.sizes:
        sizes = dataclasses.replace(PUBLIC[name], attention_kernel=options.kernel, remat=options.remat)
        sizes = dataclasses.replace(sizes, **TINY) if options.tiny else sizes
        shape = (2 * sizes.patch[0], 8, 12) if options.tiny else LATENTS
        dtype = jnp.float32 if options.tiny else jnp.bfloat16
        for what in ("denoising",) if options.no_train else ("denoising", "training"):
            flops = forward_flops(sizes, shape) * (3 if what == "training" else 1)
            ours = seconds_of(our_step(sizes, shape, dtype, what))
            rows = {"jaxmotion": ours}
            if not options.no_torch:
                rows |= {how: seconds_of(step) for how, step in their_steps(sizes, shape, what, options.tiny).items()}
            for how, seconds in rows.items():
                mfu = f"{flops / seconds / (options.peak * 1e12):.1%}"
                table.add_row(name, what, how, f"{seconds:.3f}", mfu, f"{ours / seconds:.2f}")
    Console(width=110).print(table)


def forward_flops(sizes: CogVideoXSizes, shape: tuple[int, int, int]) -> float:
    """Of one clip; see the top of this file."""
    C, layers = sizes.features, sizes.depth
    video = math.prod(shape) // (sizes.patch[0] * sizes.patch[1] ** 2)
    tokens = sizes.text_length + video
    weights = layers * (4 * C * C + 8 * C * C)
    ends = video * C * 4 * (sizes.in_channels + sizes.out_channels) + sizes.text_length * sizes.text_features * C
    return 2.0 * (weights * tokens + ends) + 4.0 * tokens**2 * C * layers


def inputs(sizes: CogVideoXSizes, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """A clip of noise, a text, a time."""
    rng = np.random.default_rng(0)
    return {
        "zt": rng.normal(size=(1, *shape, sizes.in_channels)).astype(np.float32),
        "text": rng.normal(size=(1, 1, sizes.text_length, sizes.text_features)).astype(np.float32),
        "t": np.array([500], np.int32),
    }


def our_step(sizes: CogVideoXSizes, shape: tuple[int, int, int], dtype, what: str) -> Callable[[], object]:
    """A compiled step of ours."""
    network, given = CogVideoX(sizes), inputs(sizes, shape)
    zt, text, t = (jnp.asarray(given[name]) for name in ("zt", "text", "t"))
    zt, text = zt.astype(dtype), text.astype(dtype)

    def fresh(key):
        params = network.init(key, zt, t, Condition(tokens={"text": text}))["params"]
        return jax.tree.map(lambda x: x.astype(dtype), params)

    params = jax.jit(fresh)(jax.random.key(0))

    def predict(params, zt):
        return network.apply({"params": params}, zt, t, Condition(tokens={"text": text}))

    if what == "denoising":
        forward = jax.jit(predict)
        return lambda: jax.block_until_ready(forward(params, zt))
    optimizer = optax.sgd(1e-5)  # the optimiser's states are not what is measured, and would not fit beside 5B

    def update(params, state):
        gradients = jax.grad(lambda params: jnp.mean(jnp.square(predict(params, zt).astype(jnp.float32))))(params)
        changes, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, changes), state

    step = jax.jit(update, donate_argnums=(0, 1))
    held = {"params": params, "state": optimizer.init(params)}

    def run() -> None:
        held["params"], held["state"] = step(held["params"], held["state"])
        jax.block_until_ready(held["params"])

    return run


def their_steps(
    sizes: CogVideoXSizes, shape: tuple[int, int, int], what: str, tiny: bool
) -> dict[str, Callable[[], object]]:
    """Steps of diffusers' transformer, eager and compiled; none where PyTorch is missing."""
    try:
        import torch
        from diffusers import CogVideoXTransformer3DModel
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
    except ImportError as error:
        print(f"PyTorch's side is left out: {error}")
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if tiny else torch.bfloat16
    with torch.device(device):
        model = CogVideoXTransformer3DModel(
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.head_features,
            in_channels=sizes.in_channels,
            out_channels=sizes.out_channels,
            num_layers=sizes.depth,
            text_embed_dim=sizes.text_features,
            max_text_seq_length=sizes.text_length,
            sample_height=sizes.grid[1] * 2,
            sample_width=sizes.grid[2] * 2,
            sample_frames=4 * (sizes.grid[0] - 1) + 1,
            use_rotary_positional_embeddings=sizes.positions != "sines",
            use_learned_positional_embeddings=sizes.positions == "rotary_and_learned",
        ).to(dtype)
    given = inputs(sizes, shape)
    latents = torch.tensor(given["zt"]).permute(0, 1, 4, 2, 3).to(device, dtype)
    text, t = torch.tensor(given["text"][:, 0]).to(device, dtype), torch.tensor([500], device=device)
    rotations = None
    if sizes.positions != "sines":
        size = (shape[1] // 2, shape[2] // 2)
        tables = get_3d_rotary_pos_embed(sizes.head_features, ((0, 0), size), size, shape[0])
        rotations = tuple(table.to(device) for table in tables)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step_of(network) -> Callable[[], object]:
        def denoise() -> None:
            with torch.inference_mode():
                network(latents, text, t, image_rotary_emb=rotations)
            wait()

        def train() -> None:
            said = network(latents, text, t, image_rotary_emb=rotations).sample
            said.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            wait()

        return train if what == "training" else denoise

    if what == "training":
        model.enable_gradient_checkpointing()
    return {"diffusers": step_of(model), "diffusers, compiled": step_of(torch.compile(model))}


def seconds_of(step: Callable[[], object]) -> float:
    """The median of some runs, after two that compile and warm up."""
    took = []
    for number in range(ROUNDS + 2):
        before = time.perf_counter()
        step()
        if number > 1:
            took.append(time.perf_counter() - before)
    return float(np.median(took))


if __name__ == "__main__":
    main()
