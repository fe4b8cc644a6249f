"""One page that shows what a run has learnt: `report.html`, complete in itself, readable with no network.

It shows what the run's folder holds: `metrics.jsonl` (loss), `evaluate/NAME.json` (each evaluation draws its own
section), `config.json`; and the clips it is given. What is not there is left out.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.resources
import io
import json
import math
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxmotion.evaluation.chart import Line, line_chart
from jaxmotion.evaluation.evaluation import FOLDER, Evaluation, Numbers, read_numbers
from jaxmotion.evaluation.page import section, tile
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_file, read_json
from jaxmotion.foundation.text_files import escape, whole_rows

REPORT = "report.html"

SHOWN_SIDE = 256
"""Pixels that the shorter side of a small photo is enlarged to, so that it stands beside its clips."""

COLUMNS = 6
"""The most pictures that stand side by side; the rest go below."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One clip of a row."""

    clip: Path
    """mp4 file; all of a row have the same length."""
    label: str
    """The control values in words."""
    heat: float = 0.0
    """Colour of the dot before the label, from calm (0) to lively (1)."""
    motion: float | None = None
    """Measured motion in image diagonals per second."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A photo and the clips made from it."""

    photo: UInt8[np.ndarray, "H W 3"]
    """The picture as the model saw it."""
    panels: Sequence[Panel]
    prompt: str = ""
    name: str = ""


def write_report(
    directory: Path,
    rows: Sequence[Row],
    *,
    title: str = "A photo, moved as much as you ask",
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Writes `report.html` into the folder of a run and returns its path.

    Args:
        directory: the run's folder.
        rows: what to show, one photo to a row; the clips of a row start from the same noise, as the page says.
        facts: more lines for the table of the run, such as the device or the number of parameters.

    Raises:
        FileNotFoundError: a clip is not there.
        ValueError: metrics.jsonl, config.json or the numbers of an evaluation are no JSON.
    """
    metrics = _read_lines(directory / "metrics.jsonl")
    config = _read(directory / "config.json")
    evaluated, outdated = _read_evaluations(directory)
    sections = [
        _headline(evaluated, metrics),
        _gallery(rows),
        *(evaluation.section(numbers, directory) for evaluation, numbers in evaluated),
        _training(metrics),
        _run(directory, [numbers for _, numbers in evaluated], metrics, config, {**outdated, **(facts or {})}),
    ]
    template = string.Template(
        importlib.resources.files("jaxmotion.evaluation").joinpath("report.page.html").read_text()
    )
    page = template.substitute(title=html.escape(title), body="\n".join(filter(None, sections)))
    path = directory / REPORT
    with atomic_file(path) as part:
        part.write_text(escape(page), encoding="utf-8")
    return path


def _read_evaluations(directory: Path) -> tuple[list[tuple[Evaluation, Numbers]], dict[str, str]]:
    """Evaluations of a run with their numbers, and a line for each file that an earlier version wrote."""
    found, outdated = [], {}
    for path in sorted((directory / FOLDER).glob("*.json")):
        read = read_numbers(path)
        if read is None:
            outdated[path.stem] = f"{path.name} is of an earlier version: measure again to see it here"
        else:
            found.append(read)
    return found, outdated


def _headline(evaluated: Sequence[tuple[Evaluation, Numbers]], metrics: Sequence[Json]) -> str:
    """The numbers that say in a glance how it went."""
    tiles = []
    for evaluation, numbers in evaluated:
        for key in evaluation.key_numbers(numbers):
            if key.sentence and key.value is not None:
                tiles.append(tile(str(key), key.sentence, key.verdict, key.good))
    if metrics:
        steps = f"{metrics[-1]['step']:,}".replace(",", " ")
        tiles.append(tile(_duration(_seconds(metrics)), f"of training, {steps} steps"))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _gallery(rows: Sequence[Row]) -> str:
    """One row per photo: the photo, and its clips side by side, in step."""
    if not rows:
        return ""
    shown = []
    for row in rows:
        figures = [_figure(f'<img src="{_png(row.photo)}" alt="{html.escape(row.name or "the photo")}">', "photo", "")]
        figures += [_panel(panel) for panel in row.panels]
        prompt = f"<p class='prompt'>{html.escape(row.prompt)}</p>" if row.prompt else ""
        shown.append(
            f'<article class="row">{prompt}<div class="clips" style="--count:{min(len(figures), COLUMNS)}">'
            f"{''.join(figures)}</div></article>"
        )
    words = (
        "Each row starts from one photo. What was asked for is all that changes between its clips: same sentence, same "
        "random numbers."
    )
    if any(panel.motion is not None for row in rows for panel in row.panels):
        words += " Under a clip stands how far its pixels move on average, as a share of the picture's diagonal."
    controls = (
        '<div class="controls"><button id="play" type="button">Pause</button>'
        '<button id="slow" type="button" aria-pressed="false">Half speed</button></div>'
    )
    return section("Photos in motion", words, "".join(shown), controls)


def _panel(panel: Panel) -> str:
    source = "data:video/mp4;base64," + base64.b64encode(panel.clip.read_bytes()).decode()
    video = f'<video autoplay loop muted playsinline preload="auto" src="{source}"></video>'
    note = "" if panel.motion is None else f"{_percent(panel.motion)} a second"
    label = f'<i class="heat" style="--heat:{100 * panel.heat:.0f}%"></i>{html.escape(panel.label)}'
    return _figure(video, label, note)


def _figure(picture: str, label: str, note: str) -> str:
    note = f"<span>{html.escape(note)}</span>" if note else ""
    return f"<figure>{picture}<figcaption>{label}{note}</figcaption></figure>"


def _training(metrics: Sequence[Json]) -> str:
    """The loss against the steps."""
    rows = [row for row in metrics if row.get("loss") is not None and row["loss"] > 0.0]
    if len(rows) < 2:
        return ""
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    smooth = _smooth(losses)
    chart = line_chart(
        [Line(steps, losses, "faint"), Line(steps, smooth, "main")],
        says=f"The loss falls from {losses[0]:.3g} at step {steps[0]} to {smooth[-1]:.3g} at step {steps[-1]}.",
        x_label="training step",
        y_label="loss",
        log=True,
        width=1040,
    )
    words = f"The loss went from {losses[0]:.3g} to {smooth[-1]:.3g}. Bold: smoothed over neighbouring rows of the log."
    return section("Training", words, f'<figure class="plot">{chart}</figure>')


def _run(
    directory: Path,
    evaluated: Sequence[Numbers],
    metrics: Sequence[Json],
    config: Json,
    facts: Mapping[str, str],
) -> str:
    """Returns the section on the run: folder, steps, times, scenes, and the whole configuration."""
    lines: dict[str, str] = {"folder": directory.name}
    if metrics:
        steady = metrics[len(metrics) // 4 :]
        lines["steps"] = f"{metrics[-1]['step']:,}".replace(",", " ")
        lines["training time"] = _duration(_seconds(metrics))
        lines |= _typical(steady, "step_seconds", "time of a step", lambda value: f"{1000 * value:.0f} ms")
        lines |= _typical(steady, "clips_per_second", "speed", lambda value: f"{value:.3g} clips/s")
    scenes = dict.fromkeys(scene for numbers in evaluated for scene in numbers.get("scenes", ()))
    if scenes:
        lines["measured on"] = ", ".join(scenes)
    lines |= facts
    table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in lines.items())
    saved = html.escape(json.dumps(config, indent=2))
    details = f"<details><summary>Whole configuration</summary><pre>{saved}</pre></details>" if config else ""
    return section("The run", "", f'<table class="facts">{table}</table>{details}')


def _png(photo: UInt8[np.ndarray, "H W 3"]) -> str:
    """The photo as a data address, enlarged by a whole factor if it is small."""
    height, width = photo.shape[:2]
    factor = max(1, round(SHOWN_SIDE / min(height, width)))
    picture = Image.fromarray(photo).resize((width * factor, height * factor), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _smooth(values: Sequence[float]) -> list[float]:
    """The geometric mean of each value and its neighbours, up to 1/30 of all rows to either side.

    The first rows, where the loss falls fast, have as few neighbours after them as before them.
    """
    logs, reach = np.log(values), max(1, len(values) // 30)
    reaches = (min(reach, index) for index in range(len(logs)))
    return [math.exp(np.mean(logs[index - near : index + near + 1])) for index, near in enumerate(reaches)]


def _seconds(metrics: Sequence[Json]) -> float:
    """Seconds spent on the steps that the rows are means over."""
    steps = np.diff([0, *(row["step"] for row in metrics)])
    return float(sum(n * (row.get("step_seconds") or 0.0) for n, row in zip(steps, metrics, strict=True)))


def _typical(rows: Sequence[Json], key: str, label: str, text: Callable[[float], str]) -> dict[str, str]:
    """The median of a metric as one line of the table of facts; nothing if no row has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return {label: text(float(np.median(values)))} if values else {}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.{2 if percent < 1 else 1 if percent < 10 else 0}f} %"


def _read(path: Path) -> Json:
    """A JSON file, or nothing if it is not there."""
    return read_json(path) if path.is_file() else {}


def _read_lines(path: Path) -> list[Json]:
    """The rows of a .jsonl file of the run, without torn ones; none if it is not there."""
    return whole_rows(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
