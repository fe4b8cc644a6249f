"""`python -m jaxmotion.sample`: animates a photo with a trained run."""

from __future__ import annotations

from pathlib import Path

from jaxmotion.foundation import command_line as commands
from jaxmotion.runs import trained as run
from jaxmotion.sampling.request import Request, parse_levels, parse_scores

DESCRIPTION = """Animates a photo with a trained run, as much as asked.

  python -m jaxmotion.sample --run runs/first --image cat.jpg --prompt "the camera pans left" --level 5 --out cat.mp4
  python -m jaxmotion.sample --run runs/first --image cat.jpg --level 1,5,10 --out levels.gif --seed 3

  python -m jaxmotion.sample --run runs/stone --image cat.jpg --object 2 --camera 1,5,10 --out cat.mp4

Several levels or scores give one labelled grid, the photo first: every combination of them. The file's ending says the
format: .mp4 or .gif."""
SCORES = {
    "object": "how fast the objects move",
    "camera": "how fast the camera moves",
    "intensity": "motion of both, for a system that has one dial",
}


def body(arguments: list[str]) -> None:
    """Parses, samples, writes."""
    parser = commands.parser("jaxmotion.sample", DESCRIPTION, config=False, run="the folder of a trained run")
    parser.add_argument("-h", "--help", action="help", help="show this help and leave")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="the photo, of any size and mode")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what moves, and how (default: nothing said)")
    parser.add_argument(
        "--level", metavar="N[,N...]", help="LivePhoto: motion levels 1 (nearly still) to 10 (default 5)"
    )
    for name, what in SCORES.items():
        parser.add_argument(f"--{name}", metavar="X[,X...]", help=f"MotionStone: {what}, 1 to 10 (default 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the clip to write: .mp4 or .gif")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clip (default 0)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the run's)")
    parser.add_argument(
        "--guidance",
        "--guidance-text",
        type=float,
        help="classifier-free guidance scale on the text (default: the run's)",
    )
    for name, what in {"object": "the object score", "camera": "the camera score"}.items():
        parser.add_argument(
            f"--guidance-{name}",
            type=float,
            help=f"guidance scale on {what}; each takes more time (default: the run's)",
        )
    parser.add_argument(
        "--prior",
        type=float,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="prior inversion strength on the first and last frame",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="length of the clip, such as 49 or 81 (default: the run's)"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels (default: the run's)")
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="FILE",
        help="decode fast with a tiny decoder: taecvx.pth, or an AutoencoderTiny",
    )
    parser.add_argument("--fps", type=float, help="frames per second of the file (default: the run's)")
    parser.add_argument(
        "--weights", choices=("ema", "live"), default="ema", help="averaged or latest weights (default ema)"
    )
    parser.set_defaults(run=None)
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.error("--run DIR is needed: the folder of a trained run")
    request = Request(
        image=options.image,
        prompt=options.prompt,
        levels=None if options.level is None else parse_levels(options.level),
        scores=tuple(
            (name, parse_scores(name, text)) for name in SCORES if (text := getattr(options, name)) is not None
        ),
        seed=options.seed,
        steps=options.steps,
        guidance=options.guidance,
        guidances=tuple(
            (name, scale) for name in SCORES if (scale := getattr(options, f"guidance_{name}", None)) is not None
        ),
        prior=options.prior and tuple(options.prior),
        frames=options.frames,
        preview=options.preview,
        size=options.size and tuple(options.size),
        fps=options.fps,
    )
    for path in run.open_run(options.run, options.weights).animate(request, options.out):
        print(path)


if __name__ == "__main__":
    commands.command(body)
