"""The scores of many clips at a glance: how they are spread, and the clips that move least and most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from jaxmotion.foundation.files import atomic_file
from jaxmotion.foundation.text_files import escape
from jaxmotion.meter.sinks import Record
from jaxmotion.meter.windows import Picture
from jaxmotion.video.decode import BadClipError
from jaxmotion.video.motion_scale import AXES, HIGHEST, LOWEST, MOVES

SHOWN = 5
"""So many clips at each end of each axis are on the contact sheet."""
FRAMES = 3
"""Frames shown of a clip: the first, a middle and the last."""

_PAPER, _INK, _SOFT, _LINE, _FAINT = "#faf9f7", "#1c1c1e", "#6e6c68", "#e4e1db", "#ded9cf"
_COLOURS = {"object": "#c2491d", "camera": "#3b6ea5"}
_MOVE_COLOURS = dict(zip(MOVES, ("#9a958c", "#3b6ea5", "#2f8f83", "#c2491d", "#8a5aa8"), strict=True))
_THUMB, _GAP, _MARGIN = (176, 112), 4, 28
_CAPTION, _HEADING, _TITLE = 24, 40, 52


def plot_scores(records: Sequence[Record], path: Path) -> Path:
    """Draws histograms of both scores and how they go together; returns the path of the picture."""
    scores = {axis: np.array([record[axis] for record in records]) for axis in AXES}
    figure = Figure(figsize=(13.5, 4.2), layout="constrained", facecolor=_PAPER)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for panel, axis in zip(panels[:2], AXES, strict=True):
        median = float(np.median(scores[axis]))
        panel.hist(scores[axis], np.arange(LOWEST, HIGHEST + 0.5, 0.5), color=_COLOURS[axis], rwidth=0.92)
        panel.axvline(median, color=_INK, linewidth=1)
        panel.set_title(f"{axis.capitalize()} motion: median {median:.1f}", color=_INK, fontsize=11, loc="left")
        panel.set_xlabel(f"{axis} score", color=_SOFT)
        panel.set_ylabel("clips", color=_SOFT)
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.set_xlim(LOWEST - 0.2, HIGHEST + 0.2)
    together = panels[2]
    for move in MOVES:
        of_it = np.array([record["move"] == move for record in records])
        if of_it.any():
            label = f"{move} ({of_it.sum()})"
            size = 26 if len(records) < 500 else 8
            x, y = scores["camera"][of_it], scores["object"][of_it]
            together.scatter(x, y, size, _MOVE_COLOURS[move], alpha=0.75, linewidths=0, label=label)
    together.set_title(f"{_count(records)}, by camera move", color=_INK, fontsize=11, loc="left")
    together.set_xlabel("camera score", color=_SOFT)
    together.set_ylabel("object score", color=_SOFT)
    together.set(xlim=(LOWEST - 0.2, HIGHEST + 0.2), ylim=(LOWEST - 0.2, HIGHEST + 0.2))
    together.set_yticks(np.arange(LOWEST, HIGHEST + 1))
    together.legend(frameon=False, fontsize=8, labelcolor=_SOFT, loc="upper right")
    for panel in panels:
        panel.set_facecolor(_PAPER)
        panel.set_xticks(np.arange(LOWEST, HIGHEST + 1))
        panel.grid(color=_LINE, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(colors=_SOFT, length=0)
        panel.spines[:].set_visible(False)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=130, format="png")
    return path


def draw_contact_sheet(records: Sequence[Record], path: Path, frames_of: Callable[[str], list[Picture]]) -> Path:
    """Shows the clips that move least and most on each axis; returns the path of the picture.

    Args:
        records: the scores; up to 5 clips at each end of each axis are shown, none at both.
        path: of the picture.
        frames_of: up to 3 frames of the clip of that path; a clip that raises `BadClipError` is shown without.
    """
    shown = min(SHOWN, max(1, len(records) // 2))
    clip_width = FRAMES * (_THUMB[0] + _GAP) - _GAP
    clip_height = _CAPTION + _THUMB[1] + 12
    width = 3 * _MARGIN + 2 * clip_width
    section = _HEADING + shown * clip_height
    sheet = Image.new("RGB", (width, _TITLE + 2 * section + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_text(draw, (_MARGIN, 18), f"The extremes of {_count(records)}", 20, _INK, width)
    for row, axis in enumerate(AXES):
        ranked = sorted(records, key=lambda record: record[axis])
        ends = {"least": ranked[:shown], "most": ranked[shown:][::-1][:shown]}
        for column, (end, extreme) in enumerate(ends.items()):
            x, y = _MARGIN + column * (clip_width + _MARGIN), _TITLE + row * section
            _draw_text(draw, (x, y + 12), f"{end.capitalize()} {axis} motion", 16, _COLOURS[axis], clip_width)
            for place, record in enumerate(extreme):
                _draw_clip(sheet, (x, y + _HEADING + place * clip_height), record, axis, frames_of)
    with atomic_file(path) as part:
        sheet.save(part, format="png", optimize=True)
    return path


def _count(records: Sequence[Record]) -> str:
    return "1 clip" if len(records) == 1 else f"{len(records)} clips"


def _draw_clip(
    sheet: Image.Image, corner: tuple[int, int], record: Record, axis: str, frames_of: Callable[[str], list[Picture]]
) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    other = AXES[1 - AXES.index(axis)]
    says = f"{other} {record[other]:.1f}, {record['move']}   {Path(record['path']).name}"
    _draw_text(draw, (x, y + 2), f"{record[axis]:.1f}", 16, _INK, 50)
    _draw_text(draw, (x + 48, y + 4), says, 13, _SOFT, FRAMES * (_THUMB[0] + _GAP) - 52)
    try:
        frames = frames_of(record["path"])
    except BadClipError as error:
        _draw_text(draw, (x, y + _CAPTION + 8), f"no pictures: {error}", 12, _SOFT, FRAMES * _THUMB[0])
        return
    for place, frame in enumerate(frames[:FRAMES]):
        left = x + place * (_THUMB[0] + _GAP)
        draw.rectangle((left, y + _CAPTION, left + _THUMB[0] - 1, y + _CAPTION + _THUMB[1] - 1), fill=_FAINT)
        picture = Image.fromarray(frame)
        scale = min(_THUMB[0] / picture.width, _THUMB[1] / picture.height)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        at = (left + (_THUMB[0] - picture.width) // 2, y + _CAPTION + (_THUMB[1] - picture.height) // 2)
        sheet.paste(picture, at)


def _draw_text(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, colour: str, width: int
) -> None:
    """Draws one line of text, its end left out where it does not fit."""
    font, text = ImageFont.load_default(size), escape(text)
    while len(text) > 4 and draw.textlength(text, font) > width:
        text = f"{text[:-4]}..."
    draw.text(corner, text, colour, font)
