"""Does this checkout still do what an earlier one did? Runs both and compares everything that they write.

    git worktree add ../parent COMMIT
    python benchmarks/same_as_before.py --parent ../parent --out /tmp/compared
    python benchmarks/same_as_before.py --parent ../parent --out /tmp/compared --only livephoto continue_livephoto

Every job is a few command lines (train, sample, evaluate, convert, score, prepare), run first with the parent's code
and then with this one's, each in its own folder and with its own `configs/`. Some start from what the parent made: its
runs are opened and continued, and its prepared set is trained on. A table says what is the same bitwise, and otherwise
by how much it differs. Configurations of both sides are compared as this checkout writes them, so a renamed class or
field does not count: "same, other names".

What the parent made is kept in --out and used again; what this checkout makes is made anew. Both share a cache of
compiled programs, so a program that did not change is compiled once (--no-cache compiles everything). On two idle cores
the whole takes about half an hour. Runs on CPU unless JAX_PLATFORMS says otherwise. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxmotion.foundation.config_json import upgrade_json

HERE = Path(__file__).resolve()
SMALL = HERE.with_name("same_as_before_configs.py")
PARENT, OURS = "parent", "ours"

Step = tuple[str, ...]
"""A command of the package and its arguments, relative to the folder of a side."""

TRAIN = (
    *("--train.steps", "20", "--train.warmup-steps", "5", "--train.log-every", "1", "--train.sample-every", "0"),
    *("--train.save-every", "10", "--train.no-tensorboard", "--workers", "0"),
)
LONGER = (*TRAIN[:1], "25", *TRAIN[2:])
CLIPS, PHOTO = ("--data.path", "../clips"), "../photo.png"
LEVELS, SCORES = ("--level", "2,9"), ("--object", "2,9", "--camera", "4")
CLOCK = ("step_seconds", "data_seconds", "clips_per_second")
"""Of metrics.jsonl: what no two runs share."""
SKIPPED = ("checkpoints", "frozen", "tensorboard")
"""Of a run folder: read by way of exports and of continuing."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is done on both sides, in a folder of its name.

    start: the job whose run, as the parent made it, is copied there before. needs: the jobs to do before.
    """

    name: str
    steps: tuple[Step, ...]
    start: str = ""
    needs: tuple[str, ...] = ()


def training(name: str, config: str, *options: str, then: tuple[Step, ...] = (), needs: tuple[str, ...] = ()) -> Job:
    """A job that trains in NAME/run, and what it does then."""
    return Job(name, (("train", "--config", config, "--run", f"{name}/run", *TRAIN, *options), *then), needs=needs)


def sampling(name: str, dials: Step, out: str = "trained") -> Step:
    """Animates the photo with the run of a job."""
    asked = ("--image", PHOTO, "--prompt", "the camera pans left", "--seed", "3", *dials)
    return ("sample", "--run", f"{name}/run", *asked, "--out", f"{name}/frames/{out}.mp4")


def exporting(name: str, kind: str, *options: str, out: str = "") -> Step:
    """Exports the run of a job."""
    folder = f"{name}/{out or kind}"
    return ("convert", "export", "--run", f"{name}/run", "--format", kind, "--no-verify", *options, folder)


def parameters(name: str) -> tuple[Step, ...]:
    """All parameters of the run of a job: the averaged and the latest ones."""
    live = exporting(name, "safetensors", "--weights", "live", out="parameters-live")
    return exporting(name, "safetensors", out="parameters"), live


def continuing(of: str, config: str, *options: str, dials: Step, needs: tuple[str, ...] = ()) -> Job:
    """Opens the parent's run, samples from it, continues it by five steps, and samples again."""
    name = f"continue_{of}"
    train = ("train", "--config", config, "--run", f"{name}/run", *LONGER, *options)
    steps = (sampling(name, dials, "opened"), train, sampling(name, dials, "continued"), *parameters(name))
    return Job(name, steps, start=of, needs=(of, *needs))


def after(name: str, dials: Step, *exports: str) -> tuple[Step, ...]:
    """Samples from the run of a job and exports it."""
    return (sampling(name, dials), *(exporting(name, kind) for kind in exports), *parameters(name))


def metering(name: str) -> tuple[Step, ...]:
    """Ships the estimator of a job, and scores the clips with it and with the one in the package."""
    meter = f"{name}/meter.safetensors"
    ship = ("score", "ship", "--run", f"{name}/run", "--out", meter)
    score = ("score", "../clips", "--meter", meter, "--out", f"{name}/scores.jsonl")
    return ship, score, ("score", "../clips", "--out", f"{name}/shipped.jsonl")


def jobs() -> list[Job]:
    """All jobs, those that others need first."""
    kinds = ("diffusers", "motion-adapter", "comfy")  # the adapter is for latents of four channels
    lora = ("--start-from.run", "livephoto/run", *CLIPS)
    kl_lora = ("--start-from.run", "livephoto_kl/run", *CLIPS)
    prepared = ("--data.path", f"../{PARENT}/prepare/set")
    control = ("evaluate", "--run", "livephoto/run", "control", "--levels", "1,10", "--seeds", "1", "--count", "1")
    live, stone, causal = "livephoto.py:tiny", "motionstone.py:tiny", "motionstone_causal"
    prepare = ("prepare", "--config", f"small:{causal}", "--per-shard", "8", "--out", "prepare/set")
    baked = exporting(causal, "diffusers-baked", "--object", "2", "--camera", "8")
    return [
        training("livephoto", live, *CLIPS, then=(*after("livephoto", LEVELS, "diffusers", "comfy"), control)),
        training("motionstone", stone, then=after("motionstone", SCORES)),
        training("motion_estimator", "motion_estimator.py:tiny", then=metering("motion_estimator")),
        training("quickstart", "quickstart.py:smoke", then=after("quickstart", LEVELS)),
        training(
            "lora",
            "livephoto.py:tiny_lora",
            *lora,
            then=after("lora", LEVELS, "lora-peft", "lora-kohya", "diffusers"),
            needs=("livephoto",),
        ),
        training("livephoto_no_drop", "small:livephoto_no_drop", *CLIPS, then=parameters("livephoto_no_drop")),
        training("motionstone_no_drop", "small:motionstone_no_drop", then=parameters("motionstone_no_drop")),
        training("livephoto_kl", "small:livephoto_kl", *CLIPS, then=after("livephoto_kl", LEVELS, *kinds)),
        training(
            "kl_lora",
            "small:livephoto_kl_lora",
            *kl_lora,
            then=after("kl_lora", LEVELS, "lora-peft", "lora-kohya"),
            needs=("livephoto_kl",),
        ),
        training(causal, f"small:{causal}", then=(*after(causal, SCORES, "diffusers"), baked)),
        Job("prepare", (prepare,)),
        training(
            "prepared",
            "small:motionstone_prepared",
            *prepared,
            then=after("prepared", SCORES),
            needs=("prepare",),
        ),
        continuing("livephoto", live, *CLIPS, dials=LEVELS),
        continuing("motionstone", stone, dials=SCORES),
        continuing("lora", "livephoto.py:tiny_lora", *lora, dials=LEVELS, needs=("livephoto",)),
        continuing("prepared", "small:motionstone_prepared", *prepared, dials=SCORES, needs=("prepare",)),
    ]


@dataclasses.dataclass(frozen=True)
class Side:
    """A checkout and the folder in which its commands run."""

    name: str
    checkout: Path
    folder: Path
    cache: Path | None

    def do(self, job: Job) -> str:
        """Does a job, unless the parent has done it already. Returns what went wrong, or nothing."""
        place, mark = self.folder / job.name, self.folder / f"{job.name}.done"
        told = f"{self.checkout} {self.revision()}\n{SMALL.read_text() if 'small:' in str(job) else ''}{job}"
        if self.name == PARENT and mark.is_file() and mark.read_text() == told:
            return ""
        mark.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if job.start:
            shutil.copytree(self.folder.parent / PARENT / job.start / "run", place / "run")
        for step in job.steps:
            if wrong := self.run(step):
                return wrong
        mark.write_text(told)
        return ""

    def run(self, step: Step) -> str:
        """Runs a command. Returns what went wrong, or nothing."""
        command = [sys.executable, "-m", self.module(step[0]), *map(self.placed, step[1:])]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
        last = [line.strip() for line in re.split("[\r\n]", done.stderr) if line.strip()][-1:]
        return f"{step[0]}: {last[0] if last else f'exit code {done.returncode}'}" if done.returncode else ""

    def module(self, command: str) -> str:
        """The module of a command; preparing has moved."""
        moved = command == "prepare" and not (self.checkout / "jaxmotion" / "prepare.py").is_file()
        return "jaxmotion.data.prepare" if moved else f"jaxmotion.{command}"

    def placed(self, argument: str) -> str:
        """An argument, with the path of a config in this checkout, or of our own small ones."""
        if argument.startswith("small:"):
            return f"{SMALL}{argument.removeprefix('small')}"
        return str(self.checkout / "configs" / argument) if re.fullmatch(r"\w+\.py:\w+", argument) else argument

    def environment(self) -> dict[str, str]:
        """That of this process, with this checkout's package."""
        given = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": str(self.checkout), "PYTHONDONTWRITEBYTECODE": "1"}
        if self.cache is None:
            return {name: value for name, value in given.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        return {**given, **least, "JAX_COMPILATION_CACHE_DIR": str(self.cache)}

    def revision(self) -> str:
        """The commit of the checkout, if it has one."""
        command = ["git", "-C", str(self.checkout), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def check(self) -> None:
        """Raises ValueError if the package is not found in this checkout."""
        command = [sys.executable, "-c", "import jaxmotion; print(jaxmotion.__file__)"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=True
        )
        if Path(done.stdout.strip()).resolve().parents[1] != self.checkout:
            raise ValueError(f"The package of {self.checkout} is asked for, and {done.stdout.strip()} is imported.")


def write_inputs(folder: Path, clips: Path | None) -> None:
    """A photo, and clips with captions: those of a folder, or textures that slide at different speeds."""
    folder.mkdir(parents=True, exist_ok=True)
    smooth = _texture(0)
    if not (folder / "photo.png").is_file():
        Image.fromarray(smooth[:90, :140]).save(folder / "photo.png")
    if (folder / "clips").is_dir():
        return
    if clips is not None:
        shutil.copytree(clips, folder / "clips")
        return
    made = folder / "clips.part"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for number in range(8):
        texture, speed = _texture(number + 1), number
        video = [texture[40:104, 20 + speed * time : 116 + speed * time] for time in range(24)]
        _write(made / f"clip{number}.mp4", np.stack(video))
        (made / f"clip{number}.txt").write_text(f"the camera pans right, clip {number}\n")
    made.rename(folder / "clips")


def _texture(seed: int) -> np.ndarray:
    """A smooth coloured picture, uint8 [160 320 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:160, 0:320] / 20.0
    waves = [np.sin(a * rows + b * columns + c) for a, b, c in rng.uniform(0.3, 2.5, (9, 3))]
    return np.uint8(np.clip(128 + 40 * np.stack(waves).reshape(3, 3, 160, 320).sum(0), 0, 255).transpose(1, 2, 0))


def _write(path: Path, video: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came out of a comparison."""

    job: str
    what: str
    verdict: str
    same: bool


def compared(job: Job, parent: Path, ours: Path) -> Iterator[Finding]:
    """Compares everything that a job has written; one finding for each folder, or file that lies beside them."""
    files = sorted({*_files(parent), *_files(ours)})
    for group in dict.fromkeys(_group(file) for file in files):
        mine = [file for file in files if _group(file) == group]
        found = {file: different(parent / file, ours / file) for file in mine}
        told = {file: text for file, text in found.items() if text}
        tags = all(text == TAGS for text in told.values())
        listed = "; ".join(f"{_within(file, group)}: {text}" for file, text in told.items() if text != TAGS)
        same = f"same ({len(mine)} {'file' if len(mine) == 1 else 'files'})"
        verdict = (same if not told else f"{same}, {TAGS}") if tags else listed
        yield Finding(job.name, group, verdict, tags)


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not set(inside.parts) & set(SKIPPED):
            yield inside.as_posix()


def _group(file: str) -> str:
    """What a file is reported under: metrics and the rest of a run, or its folder."""
    return "metrics" if file == "run/metrics.jsonl" else file.partition("/")[0]


def _within(file: str, group: str) -> str:
    return file.removeprefix(f"{group}/")


TAGS = "other names"


def different(parent: Path, ours: Path) -> str:
    """How a file of ours differs from the parent's: nothing, `TAGS`, or in words."""
    for path, side in ((parent, "the parent"), (ours, "this checkout")):
        if not path.is_file():
            return f"not written by {side}"
    if parent.read_bytes() == ours.read_bytes():
        return ""
    by_name: dict[str, Callable[[Path, Path], str]] = {
        "metrics.jsonl": _metrics,
        ".json": _json,
        ".jsonl": _json_lines,
        ".md": _text,
        ".safetensors": _tensors,
        ".mp4": _video,
    }
    compare = by_name.get(ours.name) or by_name.get(ours.suffix)
    return compare(parent, ours) if compare else "other bytes"


def _metrics(parent: Path, ours: Path) -> str:
    """The largest difference of each number, over the steps."""
    before, now = ([json.loads(line) for line in path.read_text().splitlines()] for path in (parent, ours))
    if [row["step"] for row in before] != [row["step"] for row in now]:
        return f"{len(before)} and {len(now)} rows"
    names = [name for name in dict.fromkeys(name for row in (*before, *now) for name in row) if name not in CLOCK]
    told = []
    for name in names:
        pairs = [(old.get(name), new.get(name)) for old, new in zip(before, now, strict=True)]
        if any(old != new for old, new in pairs):
            gap = max(abs(old - new) if None not in (old, new) else math.inf for old, new in pairs)
            first = next(row["step"] for row, (old, new) in zip(now, pairs, strict=True) if old != new)
            told.append(f"{name} by {gap:.2g} from step {first}")
    return ", ".join(told)


def _json(parent: Path, ours: Path) -> str:
    return _values(*(json.loads(path.read_text()) for path in (parent, ours)))


def _upgraded(value: Any) -> Any:
    """JSON values with the configurations in them as this version of the package writes them."""
    if isinstance(value, list):
        return [_upgraded(item) for item in value]
    if not isinstance(value, dict):
        return value
    upgraded = upgrade_json(value)
    return upgraded if upgraded != value else {name: _upgraded(item) for name, item in value.items()}


def _json_lines(parent: Path, ours: Path) -> str:
    """Lines in any order; the name of a meter carries a digest of its file, tags and all."""
    rows = []
    for path in (parent, ours):
        read = [json.loads(line) for line in path.read_text().splitlines()]
        rows.append(sorted(json.dumps({**row, "meter": ""}, sort_keys=True) for row in read))
    return _values(*([json.loads(row) for row in side] for side in rows))


def _values(before: Any, now: Any) -> str:
    """Nothing, `TAGS`, or the first places where two JSON values differ."""
    if before == now:
        return ""
    real = list(_places(_upgraded(before), _upgraded(now)))
    if not real:
        return TAGS
    return f"{', '.join(real[:4])}{f' and {len(real) - 4} more' if len(real) > 4 else ''}"


def _places(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            if name in before and name in now:
                yield from _places(before[name], now[name], f"{path}/{name}")
            else:
                yield f"{path}/{name} {'gone' if name in before else 'new'}"
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _places(old, new, f"{path}/{number}")
    elif before != now:
        yield path or "/"


def _text(parent: Path, ours: Path) -> str:
    """A model card has the config in it."""
    before, now = (_with_upgraded_config(path.read_text()).splitlines() for path in (parent, ours))
    if before == now:
        return TAGS
    pairs = enumerate(zip(before, now, strict=False), 1)
    return f"other text from line {next((line for line, (old, new) in pairs if old != new), 'where one ends')}"


def _with_upgraded_config(text: str) -> str:
    """A model card whose blocks of JSON are as this version writes them."""
    return re.sub(
        r"(?<=```json\n).*?(?=```)",
        lambda block: json.dumps(_upgraded(json.loads(block[0])), indent=2, sort_keys=True),
        text,
        flags=re.DOTALL,
    )


def _tensors(parent: Path, ours: Path) -> str:
    (old, numbers), (new, ours_numbers) = _read(parent), _read(ours)
    told = _values(*(_header(header) for header in (old, new)))
    if numbers == ours_numbers:
        return told if told in ("", TAGS) else f"the same tensors, header {told}"
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    gap, names = 0.0, 0
    for name in (name for name in old if name != "__metadata__"):
        start, end = old[name]["data_offsets"]
        if numbers[start:end] == ours_numbers[start:end]:
            continue
        names += 1
        kind = kinds.get(old[name]["dtype"])
        arrays = [
            np.frombuffer(data[start:end], kind or np.uint8).astype(np.float64) for data in (numbers, ours_numbers)
        ]
        gap = max(gap, float(np.abs(arrays[0] - arrays[1]).max())) if kind else math.inf
    return f"{names} of {len(old)} tensors, by {gap:.2g} at most"


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _header(header: dict[str, Any]) -> dict[str, Any]:
    """With the configs in its metadata as values."""
    kept = {}
    for name, text in header.get("__metadata__", {}).items():
        kept[name] = json.loads(text) if text.startswith("{") else text
    return {**header, "__metadata__": kept}


def _video(parent: Path, ours: Path) -> str:
    """Frames, decoded."""
    clips = []
    for path in (parent, ours):
        with av.open(str(path)) as container:
            clips.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    if clips[0].shape != clips[1].shape:
        return f"{clips[0].shape} and {clips[1].shape}"
    gap = np.abs(clips[0].astype(int) - clips[1].astype(int))
    return (
        f"frames by {gap.max()} at most, {gap.mean():.2g} on average" if gap.max() else "other bytes, the same frames"
    )


def chosen(names: list[str] | None) -> list[Job]:
    """The jobs of these names and those that they need; all without names."""
    known = {job.name: job for job in jobs()}
    wanted = set(names or known)
    for job in reversed(known.values()):
        if job.name in wanted:
            wanted |= {*job.needs}
    return [job for job in known.values() if job.name in wanted]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, required=True, metavar="DIR", help="a checkout of the earlier version")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where both sides work (some 500 MB)")
    parser.add_argument(
        "--checkout", type=Path, default=HERE.parents[1], metavar="DIR", help="this version (default: this checkout)"
    )
    names = [job.name for job in jobs()]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"jobs (default all): {', '.join(names)}"
    )
    parser.add_argument(
        "--clips", type=Path, metavar="DIR", help="train on these clips (default: 8 that are drawn here)"
    )
    parser.add_argument("--no-cache", action="store_true", help="share no compiled programs between the sides")
    return parser.parse_args()


def main() -> None:
    """Does all jobs on both sides, prints the table, writes report.json."""
    options = parsed()
    out = options.out.resolve()
    write_inputs(out, options.clips)
    cache = None if options.no_cache else out / "compiled"
    checkouts = {PARENT: options.parent.resolve(), OURS: options.checkout.resolve()}
    sides = [Side(name, checkout, out / name, cache) for name, checkout in checkouts.items()]
    for side in sides:
        side.folder.mkdir(exist_ok=True)
        (side.folder / "log.txt").unlink(missing_ok=True)
        side.check()
    findings: list[Finding] = []
    for job in chosen(options.only):
        wrong = {side.name: told for side in sides if (told := side.do(job))}
        if wrong:
            told = "; ".join(f"{name} failed, {text}" for name, text in wrong.items())
            made = [Finding(job.name, "all", told, False)]
        else:
            made = list(compared(job, *(side.folder / job.name for side in sides)))
        for finding in made:
            print(f"{finding.job} {finding.what}: {finding.verdict}", file=sys.stderr, flush=True)
        findings += made
    table = Table(
        "job", "what", "this checkout beside the parent", title=f"{checkouts[OURS]} beside {checkouts[PARENT]}"
    )
    for finding in findings:
        table.add_row(finding.job, finding.what, finding.verdict, style=None if finding.same else "red")
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    (out / "report.json").write_text(json.dumps([dataclasses.asdict(each) for each in findings], indent=1) + "\n")
    sys.exit(0 if all(finding.same for finding in findings) else 1)


if __name__ == "__main__":
    main()
