"""One page that shows what a run has learnt: `report.html`, complete in itself, readable with no network.

It shows what the run's folder holds: `metrics.jsonl` (loss), `evaluate/control.json` (control curve), `config.json`;
and the clips it is given. What is not there is left out.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxmotion.evaluation.chart import Line, line_chart
from jaxmotion.evaluation.control import CONTROL
from jaxmotion.evaluation.measures import LABELS
from jaxmotion.foundation.types import Settings, spoken

REPORT = "report.html"

SHOWN_SIDE = 256
"""Pixels that the shorter side of a small photo is enlarged to, so that it stands beside its clips."""

COLUMNS = 6
"""The most pictures that stand side by side; the rest go below."""

GOOD_RHO, GOOD_RATIO = 0.9, 1 / 3
"""A control this good is marked as good: rank correlation at least, level 1 over level 10 below."""

GOOD_DIAL, GOOD_TALK = 0.85, 0.25
"""The same of two dials: rank correlation at least, cross-talk at most."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A photo and the clips made from it."""

    photo: UInt8[np.ndarray, "H W 3"]
    """The picture as the model saw it."""
    clips: Mapping[Settings, Path]
    """mp4 files by what was asked for, all of the same length."""
    prompt: str = ""
    name: str = ""
    motion: Mapping[Settings, float] = dataclasses.field(default_factory=dict)
    """Measured motion of these, in image diagonals per second."""


def write_report(
    directory: Path,
    rows: Sequence[Row],
    *,
    title: str = "A photo, moved as much as you ask",
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write `report.html` into the folder of a run and return its path.

    Args:
        directory: the run's folder.
        rows: what to show, one photo to a row; the clips of a row start from the same noise, as the page says.
        facts: more lines for the table of the run, such as the device or the number of parameters.

    Raises:
        FileNotFoundError: a clip is not there.
        ValueError: metrics.jsonl, control.json or config.json is no JSON.
    """
    metrics = _read_lines(directory / "metrics.jsonl")
    control = _read(directory / CONTROL)
    config = _read(directory / "config.json")
    sections = [
        _headline(control, metrics),
        _gallery(rows),
        _dials(control) if "dials" in control else _control(control),
        _training(metrics),
        _run(directory, control, metrics, config, facts or {}),
    ]
    template = string.Template(
        importlib.resources.files("jaxmotion.evaluation").joinpath("report.page.html").read_text()
    )
    page = template.substitute(title=html.escape(title), body="\n".join(filter(None, sections)))
    path = directory / REPORT
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def _headline(control: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The numbers that say in a glance how it went."""
    tiles = []
    for name in control.get("curve", {}):
        rho = control[f"spearman_{name}"]
        label = LABELS.get(name, (name, ""))[0]
        text = f"rank correlation of asked and measured motion, by {label} (1 is perfect)"
        good = rho >= GOOD_RHO
        tiles.append(_tile(f"{rho:.2f}", text, f"{'at least' if good else 'below'} {GOOD_RHO}", good))
    for axis, dial in control.get("dials", {}).items():
        rho, talk = control[f"rho_{axis}"], control[f"cross_talk_{axis}"]
        good = rho >= GOOD_DIAL
        text = f"rank correlation of the {dial} score that was asked for and the {axis} motion measured"
        tiles.append(_tile(f"{rho:.2f}", text, f"{'at least' if good else 'below'} {GOOD_DIAL}", good))
        if talk is not None:
            good = talk <= GOOD_TALK
            text = f"cross-talk of the {dial} dial (0: the other axis stays where it is)"
            tiles.append(_tile(f"{talk:.2f}", text, f"{'at most' if good else 'above'} {GOOD_TALK}", good))
    ratio = control.get("level1_over_level10")
    if ratio is not None:
        text = "motion of level 1 as a share of that of level 10 (less is stiller)"
        good = ratio < GOOD_RATIO
        tiles.append(_tile(f"{100 * ratio:.0f} %", text, f"{'under' if good else 'over'} a third", good))
    if metrics:
        steps = f"{metrics[-1]['step']:,}".replace(",", " ")
        tiles.append(_tile(_duration(_seconds(metrics)), f"of training, {steps} steps"))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(number: str, text: str, verdict: str = "", good: bool = True) -> str:
    badge = f'<span class="badge {"good" if good else "short"}">{verdict}</span>' if verdict else ""
    return f'<div class="tile"><b>{number}</b>{badge}<p>{html.escape(text)}</p></div>'


def _gallery(rows: Sequence[Row]) -> str:
    """One row per photo: the photo, and its clips side by side, in step."""
    if not rows:
        return ""
    shown = []
    for row in rows:
        figures = [_figure(f'<img src="{_png(row.photo)}" alt="{html.escape(row.name or "the photo")}">', "photo", "")]
        for settings, clip in sorted(row.clips.items()):
            source = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
            video = f'<video autoplay loop muted playsinline preload="auto" src="{source}"></video>'
            note = f"{_percent(row.motion[settings])} a second" if settings in row.motion else ""
            most = max((value for _, value in settings), default=1.0)
            label = f'<i class="heat" style="--level:{most:g}"></i>{html.escape(spoken(settings))}'
            figures.append(_figure(video, label, note))
        prompt = f"<p class='prompt'>{html.escape(row.prompt)}</p>" if row.prompt else ""
        shown.append(
            f'<article class="row">{prompt}<div class="clips" style="--count:{min(len(figures), COLUMNS)}">'
            f"{''.join(figures)}</div></article>"
        )
    words = (
        "Each row starts from one photo. What was asked for is all that changes between its clips: same sentence, same "
        "random numbers."
    )
    if any(row.motion for row in rows):
        words += " Under a clip stands how far its pixels move on average, as a share of the picture's diagonal."
    controls = (
        '<div class="controls"><button id="play" type="button">Pause</button>'
        '<button id="slow" type="button" aria-pressed="false">Half speed</button></div>'
    )
    return _section("Photos in motion", words, "".join(shown), controls)


def _figure(picture: str, label: str, note: str) -> str:
    note = f"<span>{html.escape(note)}</span>" if note else ""
    return f"<figure>{picture}<figcaption>{label}{note}</figcaption></figure>"


def _control(control: Mapping[str, Any]) -> str:
    """The control curve by every measure, and its numbers."""
    if not control:
        return ""
    levels = control["levels"]
    charts = []
    for name, curve in control["curve"].items():
        label, unit = LABELS.get(name, (name, name))
        lines = [Line(levels, values, "faint", name=photo) for photo, values in curve["photos"].items()]
        said = [
            f"level {level}: {mean:.3g} ± {deviation:.2g}"
            for level, mean, deviation in zip(levels, curve["mean"], curve["deviation"], strict=True)
        ]
        lines.append(Line(levels, curve["mean"], "main", bars=curve["deviation"], points=said))
        chart = line_chart(
            lines,
            says=f"Measured motion by {label} against the level asked for: {'; '.join(said)}.",
            x_label="level that was asked for",
            y_label=unit,
            x_ticks=levels,
            zero=True,
        )
        charts.append(f'<figure class="plot"><figcaption>By {html.escape(label)}</figcaption>{chart}</figure>')
    photos, seeds = len(control["photos"]), len(control["seeds"])
    words = (
        f"{control['clips']} clips: {_count(photos, 'photo')} at {len(levels)} levels, with {_count(seeds, 'seed')} "
        "each. The bold line is the mean of all clips with one standard deviation up and "
        "down; the thin ones are the photos."
    )
    numbers = _control_table(control)
    return _section("Does it move as much as asked?", words, f'<div class="plots">{"".join(charts)}</div>{numbers}')


def _dials(control: Mapping[str, Any]) -> str:
    """What both axes did when each dial was turned, and the numbers."""
    charts, rows = [], []
    for axis, dial in control["dials"].items():
        lines = []
        for name, curve in sorted(control[f"curves_{axis}"].items(), key=lambda item: item[0] == axis):
            own = name == axis
            style, bars = ("main", curve["deviation"]) if own else ("faint", ())
            said = [f"{dial} {x:g}: {name} {y:.1f}" for x, y in zip(control["values"], curve["mean"], strict=True)]
            lines.append(Line(control["values"], curve["mean"], style, bars, said, name))
        chart = line_chart(
            lines,
            says=f"Measured motion while the {dial} dial is turned: {'; '.join(said)}.",
            x_label=f"{dial} score that was asked for",
            y_label="score that was measured",
            x_ticks=control["values"],
        )
        charts.append(f'<figure class="plot"><figcaption>The {html.escape(dial)} dial</figcaption>{chart}</figure>')
        talk = control[f"cross_talk_{axis}"]
        numbers = (control[f"rho_{axis}"], control[f"rho_per_scene_{axis}"], control[f"change_{axis}"], talk)
        cells = "".join(f"<td>{'-' if number is None else f'{number:.3f}'}</td>" for number in numbers)
        rows.append(f"<tr><th>{html.escape(axis)}</th>{cells}</tr>")
    heads = ("Spearman's rho over all clips", "mean of the scenes", "change of its own axis", "cross-talk")
    head = "".join(f"<th>{name}</th>" for name in heads)
    words = (
        f"{control['clips']} clips: {_count(len(control['scenes']), 'scene')}, {_count(len(control['seeds']), 'seed')} "
        "each. Bold: the axis whose dial is turned, one standard deviation up and down; thin: the other axis, which "
        "should stay where it is. Cross-talk is its change over that of the bold one."
    )
    table = f'<table class="numbers"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return _section("Does each dial move its own axis?", words, f'<div class="plots">{"".join(charts)}</div>{table}')


def _control_table(control: Mapping[str, Any]) -> str:
    names = list(control["curve"])
    head = "".join(f"<th>{html.escape(LABELS.get(name, (name, ''))[0])}</th>" for name in names)
    body = []
    for label, key in (
        ("Spearman's rho over all clips", "spearman"),
        ("Spearman's rho, mean of the photos", "spearman_per_photo"),
        ("Steps up in level that raise the motion", "monotonicity"),
        ("Level 1 over level 10", "level1_over_level10"),
    ):
        values = [control.get(f"{key}_{name}") for name in names]
        cells = "".join(f"<td>{'-' if value is None else f'{value:.3f}'}</td>" for value in values)
        body.append(f"<tr><th>{label}</th>{cells}</tr>")
    return f'<table class="numbers"><tr><th></th>{head}</tr>{"".join(body)}</table>'


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
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
    return _section("Training", words, f'<figure class="plot">{chart}</figure>')


def _run(
    directory: Path,
    control: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    facts: Mapping[str, str],
) -> str:
    """What was run, and how to go on from here."""
    lines: dict[str, str] = {"folder": directory.name}
    if metrics:
        steady = metrics[len(metrics) // 4 :]
        lines["steps"] = f"{metrics[-1]['step']:,}".replace(",", " ")
        lines["training time"] = _duration(_seconds(metrics))
        lines |= _typical(steady, "step_seconds", "time of a step", lambda value: f"{1000 * value:.0f} ms")
        lines |= _typical(steady, "clips_per_second", "speed", lambda value: f"{value:.3g} clips/s")
    if control:
        lines["measured on"] = ", ".join(control.get("photos") or control["scenes"])
    lines |= facts
    table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in lines.items())
    saved = html.escape(json.dumps(config, indent=2))
    details = f"<details><summary>Whole configuration</summary><pre>{saved}</pre></details>" if config else ""
    return _section("The run", "", f'<table class="facts">{table}</table>{details}')


def _section(title: str, words: str, content: str, aside: str = "") -> str:
    words = f'<p class="words">{html.escape(words)}</p>' if words else ""
    return f"<section><header><h2>{html.escape(title)}</h2>{aside}</header>{words}{content}</section>"


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


def _seconds(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Seconds spent on the steps that the rows are means over."""
    steps = np.diff([0, *(row["step"] for row in metrics)])
    return float(sum(n * (row.get("step_seconds") or 0.0) for n, row in zip(steps, metrics, strict=True)))


def _typical(rows: Sequence[Mapping[str, Any]], key: str, label: str, text: Any) -> dict[str, str]:
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing if it is not there."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); remove it, or make it again.") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file, a half-written last one left out; none if it is not there."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"Line {number} of {path} is no JSON ({error}).") from error
    return rows
