"""`python -m jaxmotion.sample`: animates a picture with a trained run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import tyro

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation import command_line as commands
from jaxmotion.foundation.entries import TEXT
from jaxmotion.runs import trained
from jaxmotion.sampling.request import Request
from jaxmotion.systems.control import Controls, parse_values

DESCRIPTION = """Animates a picture with a trained run, as much as you ask.

  python -m jaxmotion.sample --run runs/first --image cat.jpg --prompt "the camera pans left" --level 5 --out cat.mp4
  python -m jaxmotion.sample --run runs/first --image cat.jpg --level 1,5,10 --out levels.gif --seed 3
  python -m jaxmotion.sample --run runs/stone --image cat.jpg --object 2 --camera 1,5,10 --out cat.mp4
  python -m jaxmotion.sample --run runs/first --help        with the controls of this run

Each run has the controls of its system. Several values give one labelled grid, the picture first: every combination of
them. The file's ending says the format: .mp4 or .gif."""
SAMPLING = "--sampling."
"""Overrides of the run's sampling settings begin so."""
PRIOR = (
    "--prior FIRST LAST is now --sampling.initial-noise.first FIRST --sampling.initial-noise.last LAST, for systems "
    "whose sampling starts from an inverted picture"
)


def body(arguments: list[str]) -> None:
    """Parses, samples, writes."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run", type=Path)
    directory = first.parse_known_args(arguments)[0].run
    asks_help = bool({"-h", "--help"} & set(arguments))
    experiment = None if directory is None else trained.read_config(directory)
    controls = {} if experiment is None else experiment.system.controls
    guided = {} if experiment is None else {**dict.fromkeys(controls, False), **experiment.system.guidable}
    guided.pop(TEXT, None)
    parser = _parser(controls, guided)
    if asks_help:
        parser.print_help()
        return
    if experiment is None:
        parser.error("--run DIR is needed: the folder of a trained run")
    options, overrides = parser.parse_known_args(arguments)
    request = Request(
        image=options.image,
        prompt=options.prompt,
        controls=parse_values(controls, {name: getattr(options, name.replace("-", "_")) for name in controls}),
        seed=options.seed,
        steps=options.steps,
        guidance=options.guidance,
        guidance_scales={
            name: scale for name in guided if (scale := getattr(options, f"guidance_{name}", None)) is not None
        },
        sampling=_override(experiment.sampling, overrides, parser),
        frames=options.frames,
        preview=options.preview,
        size=options.size and tuple(options.size),
        fps=options.fps,
    )
    experiment.system.check_guidance(request.resolve_sampling(experiment.sampling))
    for path in trained.open_run(options.run, options.weights).animate(request, options.out):
        print(path)


def _parser(controls: Controls, guided: Mapping[str, bool]) -> argparse.ArgumentParser:
    """The flags that all runs have, those of these controls, and one for each condition, which may be guided or not."""
    parser = commands.parser("jaxmotion.sample", DESCRIPTION, config=False, run="the folder of a trained run")
    parser.add_argument("-h", "--help", action="help", help="show this help and leave")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture, of any size and mode")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what moves, and how (default: nothing said)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the clip to write: .mp4 or .gif")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clip (default 0)")
    steps = "denoising steps; an inversion of the picture takes the same share of them (default: the run's)"
    parser.add_argument("--steps", type=int, help=steps)
    parser.add_argument(
        "--guidance",
        "--guidance-text",
        type=float,
        help="classifier-free guidance scale on the text; 1 is none, 0 where the run's rises (default: the run's)",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="length of the clip, such as 49 or 81 (default: the run's)"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels (default: the run's)")
    preview = "decode fast with a tiny decoder: taecvx.pth, or an AutoencoderTiny"
    parser.add_argument("--preview", type=Path, metavar="FILE", help=preview)
    parser.add_argument("--fps", type=float, help="frames per second of the file (default: the run's)")
    commands.add_weights_option(parser)
    parser.add_argument(
        "--sampling.NAME", metavar="VALUE", help="any other of the run's sampling settings, as in its training config"
    )
    group = parser.add_argument_group("controls", "" if controls else "give --run to see those of a run")
    for name, control in controls.items():
        default = "must be given" if control.default is None else f"default {control.describe(name, control.default)}"
        group.add_argument(f"--{name}", metavar=control.metavar, help=f"{control.description} ({default})".strip())
    for name, can in guided.items():  # the flags of the others are refused by name
        said = f"guidance scale on {name}; takes more time" if can else argparse.SUPPRESS
        group.add_argument(f"--guidance-{name.replace('_', '-')}", type=float, metavar="SCALE", help=said)
    return parser


def _override(sampling: Sampling, overrides: list[str], parser: argparse.ArgumentParser) -> Sampling | None:
    """The run's sampling settings with overrides; None without any. Leaves with a message if one is not known."""
    if not overrides:
        return None
    if "--prior" in overrides:
        parser.error(PRIOR)
    unknown = [each for each in overrides if each.startswith("--") and not each.startswith(SAMPLING)]
    if unknown or not overrides[0].startswith(SAMPLING):
        parser.error(f"unrecognized arguments: {' '.join(unknown or overrides)}")
    return tyro.cli(
        Sampling,
        default=sampling,
        args=[f"--{each.removeprefix(SAMPLING)}" if each.startswith(SAMPLING) else each for each in overrides],
        prog=f"{parser.prog} ({SAMPLING}...)",
        config=(tyro.conf.AvoidSubcommands,),
    )


if __name__ == "__main__":
    commands.command(body)
