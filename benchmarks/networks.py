"""Seconds of Stable Diffusion's networks, ours against diffusers on the CPU, on the same random weights and inputs.

    python benchmarks/networks.py [--only NAME ...] [--rounds 7] [--frames 4] [--latent 32] [--threads 2]

Each side is a process of its own that holds one network; the two are told to run in turn, one at a time, so both have
the machine to themselves in the same minutes. Compiling and two runs to warm up are not counted. The reference runs as
it comes, and once more at its best: images channels-last and glibc's memory kept, as our command lines keep it.

cases:
  unet forward       Stable Diffusion 1.5 with AnimateDiff modules (v1 and v3, none in the middle), published widths
  unet motion        half the published widths, gradients for the motion modules alone, through the frozen rest
  unet gradients     half the published widths, gradients for all parameters (at full width both sides together hold
                     more than 24 GB)
  vae encode         AutoencoderKL at published widths, pixels to the moments of latents
  vae decode         latents to pixels
  vae gradients      pixels to latents and back, gradients for all parameters
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the options say."""

    frames: int
    latent: int
    pixels: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What a side is timed at: `run` computes once; `arrays` names what it gave, in diffusers' names for gradients."""

    run: Callable[[], Any]
    arrays: Callable[[Any], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: makes diffusers' network, and of it the programs of both sides. Ours takes its weights."""

    network: Callable[[Sizes], Any]
    ours: Callable[[Any, Sizes], Program]
    theirs: Callable[[Any, Sizes], Program]


def main() -> None:
    """Measures each case and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each side (default 7)")
    parser.add_argument("--frames", type=int, default=4, help="frames of the U-Net's clip (default 4)")
    parser.add_argument("--latent", type=int, default=32, help="height and width of its latents (default 32)")
    parser.add_argument("--pixels", type=int, default=128, help="height and width of the autoencoder's 2 frames")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = Sizes(options.frames, options.latent, options.pixels, options.threads)
    if options.side:
        serve(options.side, options.only[0], sizes)
        return
    table = Table("case", "reference", "ours, s", "theirs, s", "ratio", "by least", "by CPU time", "difference")
    for name in options.only:
        for reference in ("torch", "torch at its best"):
            row = compare(name, reference, sizes, options.rounds)
            table.add_row(name, reference, *row)
            print(f"{name}, {reference}: {', '.join(row)}", file=sys.stderr)
    table.title = f"{versions()}, {options.threads} threads, medians of {options.rounds}"
    table.caption = (
        f"U-Net: 1 clip, {sizes.frames} frames, latents {sizes.latent} x {sizes.latent}; autoencoder: 2 frames, "
        f"{sizes.pixels} px; float32. ratio = ours / theirs."
    )
    Console(width=120).print(table)


def compare(name: str, reference: str, sizes: Sizes, rounds: int) -> list[str]:
    """Runs both sides in turn; the cells of their row."""
    with side("ours", name, sizes) as ours, side(reference, name, sizes) as theirs:
        difference = distance(ours.result(), theirs.result())
        pairs = [(ours.run(), theirs.run()) for _ in range(rounds)]
    wall = [statistics.median(run["wall"] for run in runs) for runs in zip(*pairs, strict=True)]
    least = [min(run["wall"] for run in runs) for runs in zip(*pairs, strict=True)]
    cpu = [statistics.median(run["cpu"] for run in runs) for runs in zip(*pairs, strict=True)]
    ratios = (f"{first / second:.2f}" for first, second in (wall, least, cpu))
    return [f"{wall[0]:.3g}", f"{wall[1]:.3g}", *ratios, f"{difference:.1e}"]


def distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Norm of the difference over the norm of the reference, all arrays together."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"The sides give different arrays: {sorted(ours.keys() ^ theirs.keys())[:5]}.")
    squares = lambda x: float(np.square(x, dtype=np.float64).sum())  # noqa: E731
    return (sum(squares(ours[k] - theirs[k]) for k in ours) / sum(squares(x) for x in theirs.values())) ** 0.5


# The processes.


class Process:
    """A side in a process of its own, which does what it is told line by line."""

    def __init__(self, which: str, name: str, sizes: Sizes):
        options = [f"--{field}={value}" for field, value in dataclasses.asdict(sizes).items()]
        command = [sys.executable, __file__, "--side", which, "--only", name, *options]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(sizes.threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.which = which
        self._answer()

    def run(self) -> dict[str, float]:
        """Seconds of one run: `wall` and `cpu`."""
        return self._ask("run")

    def result(self) -> dict[str, np.ndarray]:
        """What the side computes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "result.npz")
            self._ask(str(path))
            return dict(np.load(path))

    def _ask(self, line: str) -> Any:
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"The side “{self.which}” stopped (exit code {self.process.wait()}); see above.")
        return json.loads(line)


@contextlib.contextmanager
def side(which: str, name: str, sizes: Sizes) -> Iterator[Process]:
    """A side that is ready to run, and stopped afterwards."""
    started = Process(which, name, sizes)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


SIDES = ("ours", "torch", "torch at its best")


def serve(which: str, name: str, sizes: Sizes) -> None:
    """One side: builds its network, then answers each line on stdin by one on stdout."""
    import torch

    from jaxmotion.foundation import command_line as commands

    torch.set_num_threads(sizes.threads)
    case = CASES[name]
    torch.manual_seed(0)
    network = randomise(case.network(sizes))
    program = case.ours(network, sizes) if which == "ours" else case.theirs(network, sizes)
    if which == "ours":
        network.to("meta")
    if which != "torch":
        commands.tune_glibc_malloc()
    if which == "torch at its best":
        network.to(memory_format=torch.channels_last)
    for _ in range(WARM_UP):
        program.run()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        result = program.run()
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if line.strip() != "run":
            np.savez(line.strip(), **program.arrays(result))
        del result
        print(json.dumps(seconds), flush=True)


def versions() -> str:
    """Names and versions of both sides."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "diffusers"))


def randomise(module: Any) -> Any:
    """The module with random weights that keep activations near 1 and hide nothing, such as zeros at the start."""
    import torch

    for parameter in module.parameters():
        noise = torch.randn(parameter.shape)
        parameter.data = noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    return module.eval()


def normal(*shape: int) -> np.ndarray:
    """Normal numbers, float32, the same in every process."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# The U-Net.

FEATURES = (320, 640, 1280, 1280)
HEADS, TOKENS, TEXT, TIME = 8, 77, 768, 301


def unet(sizes: Sizes, *, width: float = 1.0) -> Any:
    """diffusers' U-Net with motion modules."""
    from diffusers import UNetMotionModel

    return UNetMotionModel(
        block_out_channels=tuple(int(width * features) for features in FEATURES),
        num_attention_heads=HEADS,
        motion_num_attention_heads=HEADS,
        cross_attention_dim=TEXT,
        use_motion_mid_block=False,
    )


def unet_inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z_t [1 T h w 4], t [1], text [1 1 L D]."""
    return normal(1, sizes.frames, sizes.latent, sizes.latent, 4), np.array([TIME]), normal(1, 1, TOKENS, TEXT)


def our_unet(theirs: Any, sizes: Sizes, *, trained: str | None) -> Program:
    """Ours with their weights: the prediction, or the gradients of parameters with `trained` in their path."""
    import jax.numpy as jnp

    from jaxmotion.foundation.types import Condition
    from jaxmotion.models.animatediff import MotionModule
    from jaxmotion.models.stable_diffusion import stable_diffusion_unet
    from jaxmotion.models.unet import UNetSizes
    from jaxmotion.weights.tables import stable_diffusion as rules

    features = tuple(theirs.config["block_out_channels"])
    ours = stable_diffusion_unet(UNetSizes(features=features), after_block={"motion": partial(MotionModule, HEADS)})
    zt, t, text = unet_inputs(sizes)
    inputs = (jnp.asarray(zt), jnp.asarray(t), Condition(tokens={"text": jnp.asarray(text)}))
    table = (*rules.UNET, *rules.MOTION)
    params = weights(table, theirs, ours, inputs, rules.MOTION_BUFFERS)
    if trained is None:
        return our_forward(ours, params, inputs)
    return our_gradients(ours, params, inputs, table, trained, zt)


def their_unet(theirs: Any, sizes: Sizes, *, trained: str | None) -> Program:
    """The same of theirs."""
    import torch

    zt, t, text = unet_inputs(sizes)
    frames = torch.tensor(np.moveaxis(zt, -1, 1))
    tokens = torch.tensor(np.repeat(text[:, 0], sizes.frames, axis=0))

    def predict() -> Any:
        return theirs(frames, torch.tensor(t), tokens).sample

    if trained is None:
        return their_forward(predict, lambda y: np.moveaxis(y.numpy(), 1, -1))
    return their_gradients(theirs, predict, trained, frames)


# The autoencoder.

VAE_FRAMES = 2


def vae(sizes: Sizes) -> Any:
    """diffusers' AutoencoderKL at the published widths."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
    )


def vae_input(sizes: Sizes, method: str) -> np.ndarray:
    """Pixels or latents, [1 T H W C]."""
    size, channels = (sizes.pixels // 8, 4) if method == "decode" else (sizes.pixels, 3)
    return normal(1, VAE_FRAMES, size, size, channels)


def our_vae(theirs: Any, sizes: Sizes, *, method: str) -> Program:
    """Ours with the weights of `theirs`: a method's result, or the gradients of there and back."""
    import jax.numpy as jnp

    from jaxmotion.models.autoencoder import FULL, AutoencoderKL
    from jaxmotion.weights.tables.autoencoder import AUTOENCODER

    ours, x = AutoencoderKL(FULL), vae_input(sizes, method)
    params = weights(AUTOENCODER, theirs, ours, (jnp.asarray(vae_input(sizes, "__call__")),))
    if method == "__call__":
        return our_gradients(ours, params, (jnp.asarray(x),), AUTOENCODER, "", x)
    return our_forward(ours, params, (jnp.asarray(x),), method={"encode": "encode_moments"}.get(method, method))


def their_vae(theirs: Any, sizes: Sizes, *, method: str) -> Program:
    """The same of theirs."""
    import torch

    frames = torch.tensor(np.moveaxis(vae_input(sizes, method)[0], -1, 1))

    def predict() -> Any:
        if method == "encode":
            posterior = theirs.encode(frames).latent_dist
            return torch.cat([posterior.mean, posterior.logvar], dim=1)
        return theirs.decode(frames if method == "decode" else theirs.encode(frames).latent_dist.mode()).sample

    if method == "__call__":
        return their_gradients(theirs, predict, "", frames)
    return their_forward(predict, lambda y: np.moveaxis(y.numpy(), 1, -1)[None])


# What both networks share.


def weights(table: Any, theirs: Any, ours: Any, inputs: tuple, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """The weights of their module as our parameters by path."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    from jaxmotion.weights.rules import parameters

    like = flatten_dict(jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"], sep="/")
    found = parameters(table, {name: value.numpy() for name, value in theirs.state_dict().items()}, like, ignored)
    return {path: jnp.array(np.asarray(value)) for path, value in found.items()}


def our_forward(ours: Any, params: dict[str, Any], inputs: tuple, **how: Any) -> Program:
    """The network's result, or results joined, as `y`."""
    import jax
    from flax.traverse_util import unflatten_dict

    tree = unflatten_dict(params, sep="/")
    apply = jax.jit(lambda params, inputs: ours.apply({"params": params}, *inputs, **how))
    return Program(
        lambda: jax.block_until_ready(apply(tree, inputs)),
        lambda y: {"y": np.concatenate(jax.tree.leaves(y), axis=-1)},
    )


def our_gradients(
    ours: Any, params: dict[str, Any], inputs: tuple, table: Any, trained: str, target: np.ndarray
) -> Program:
    """Gradients of the mean squared difference to `target` for the parameters with `trained` in their path."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from jaxmotion.weights.rules import tensors_of

    moving = {path: value for path, value in params.items() if trained in path}
    still = {path: value for path, value in params.items() if trained not in path}

    @jax.jit
    def gradients(moving, still, inputs):
        def loss(moving):
            y = ours.apply({"params": unflatten_dict({**moving, **still}, sep="/")}, *inputs)
            return jnp.mean(jnp.square(y - target))

        return jax.grad(loss)(moving)

    return Program(
        lambda: jax.block_until_ready(gradients(moving, still, inputs)),
        lambda found: {name: np.asarray(value) for name, value in tensors_of(table, found).items()},
    )


def their_forward(predict: Callable[[], Any], arrange: Callable[[Any], np.ndarray]) -> Program:
    """The result, in our order of axes, as `y`."""
    import torch

    return Program(torch.no_grad()(predict), lambda y: {"y": arrange(y)})


def their_gradients(theirs: Any, predict: Callable[[], Any], trained: str, target: Any) -> Program:
    """Gradients of the mean squared difference to `target` for the parameters with `trained` in their name."""
    import torch

    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(trained in name)

    def run() -> dict[str, Any]:
        theirs.zero_grad(set_to_none=True)
        torch.mean(torch.square(predict() - target)).backward()
        return {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}

    return Program(run, lambda found: {name: value.numpy() for name, value in found.items()})


HALF_UNET = partial(unet, width=0.5)
CASES = {
    "unet forward": Case(unet, partial(our_unet, trained=None), partial(their_unet, trained=None)),
    "unet motion": Case(HALF_UNET, partial(our_unet, trained="motion"), partial(their_unet, trained="motion")),
    "unet gradients": Case(HALF_UNET, partial(our_unet, trained=""), partial(their_unet, trained="")),
    "vae encode": Case(vae, partial(our_vae, method="encode"), partial(their_vae, method="encode")),
    "vae decode": Case(vae, partial(our_vae, method="decode"), partial(their_vae, method="decode")),
    "vae gradients": Case(vae, partial(our_vae, method="__call__"), partial(their_vae, method="__call__")),
}


if __name__ == "__main__":
    main()
