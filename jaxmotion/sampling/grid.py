"""Clips as files to watch: mp4 (H.264, plays in every browser), gif, and a labelled grid.

Files appear whole or not at all: they are written beside their place and moved there at the end.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from einops import repeat
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxmotion.systems.control import Controls, ControlValues, describe, filename_suffix
from jaxmotion.video.encode import Video, _even, enlarge, write_clip, writer_of

Picture = UInt8[np.ndarray, "H W 3"]


_PAPER, _INK, _SOFT = (250, 249, 247), (28, 28, 30), (110, 108, 104)
_MAX_COLUMNS = 6


def write_clips(
    path: str | Path,
    photo: Picture,
    clips: Sequence[Video],
    values: Sequence[ControlValues],
    controls: Controls,
    fps: float,
    *,
    prompt: str = "",
    notes: Sequence[str] = (),
) -> list[Path]:
    """Writes one clip as `path`; several as the grid `path` and each alone, as `path-object03-camera10`.

    Args:
        path: NAME.mp4 or NAME.gif.
        photo: the picture the clips start from, at their size.
        clips: one for each set of values.
        values: by control; they label the panels of the grid and name the files.
        fps: frames per second.
        prompt: written above the grid.
        notes: what was measured, in words, of each clip; written under the grid's labels.

    Returns:
        The files written, `path` first.
    """
    path = Path(path)
    if len(clips) == 1:
        return [write_clip(path, clips[0], fps)]
    labels = [describe(controls, each) for each in values]
    panels, lines = dict(zip(labels, clips, strict=True)), dict(zip(labels, notes, strict=False))
    if len(panels) != len(clips):
        raise ValueError(f"Two clips of a grid have the same label among {labels}; controls must describe them apart.")
    written = [writer_of(path)(path, grid(photo, panels, notes=lines, title=prompt), fps)]
    for each, clip in zip(values, clips, strict=True):
        written.append(write_clip(path.with_stem(path.stem + filename_suffix(controls, each)), clip, fps))
    return written


def grid(
    photo: Picture,
    clips: Mapping[str, Video],
    *,
    notes: Mapping[str, str] | None = None,
    title: str = "",
) -> UInt8[np.ndarray, "T height width 3"]:
    """The photo and its clips side by side, each under its label, as one clip.

    Args:
        photo: the input picture, at the size of the clips.
        clips: by label, in order; all of the same shape.
        notes: a smaller second line under a label, such as the measured motion.
        title: one line above everything, cut where it does not fit.

    Raises:
        ValueError: no clip, or clips of different shapes.
    """
    shapes = {clip.shape for clip in clips.values()}
    if len(shapes) != 1:
        raise ValueError(f"A grid takes one or more clips of one shape; got {sorted(shapes) or 'none'}.")
    frames = next(iter(shapes))[0]
    panels = {"photo": repeat(enlarge(photo), "H W C -> T H W C", T=frames)}
    panels |= {label: enlarge(clip) for label, clip in clips.items()}
    side = next(iter(panels.values())).shape[1:3]
    notes = notes or {}
    unit = max(14, round(min(side) / 14))
    columns = _columns(len(panels))
    strip = round(unit * (3.2 if notes else 1.9))
    gap = round(unit * 0.75)
    top = round(unit * 2.4) if title else gap
    rows = -(-len(panels) // columns)
    height = _even(top + rows * (strip + side[0] + gap))
    width = _even(gap + columns * (side[1] + gap))
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        _line(draw, (gap, gap * 0.9), title, unit * 1.05, _INK, width - 2 * gap)
    corners = []
    for place, label in enumerate(panels):
        row, column = divmod(place, columns)
        x, y = gap + column * (side[1] + gap), top + row * (strip + side[0] + gap)
        _line(draw, (x, y + unit * 0.25), label, unit, _INK, side[1])
        _line(draw, (x, y + unit * 1.6), notes.get(label, ""), unit * 0.85, _SOFT, side[1])
        corners.append((y + strip, x))
    video = repeat(np.array(canvas), "H W C -> T H W C", T=frames).copy()
    for (y, x), panel in zip(corners, panels.values(), strict=True):
        video[:, y : y + side[0], x : x + side[1]] = panel
    return video


def _columns(panels: int) -> int:
    """Returns the number of panels in a row: all of up to six, else the fewest that fill the same number of rows."""
    rows = -(-panels // _MAX_COLUMNS)
    return -(-panels // rows)


def _line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: float,
    colour: tuple[int, int, int],
    width: float,
) -> None:
    """Write one line of text, shortened with an ellipsis to `width` pixels."""
    font = ImageFont.load_default(size)
    text = " ".join(text.split())
    if draw.textlength(text, font) > width:
        fits = bisect.bisect(range(len(text)), width, key=lambda end: draw.textlength(text[:end] + "...", font))
        text = text[: max(fits - 1, 0)].rstrip() + "..."
    draw.text(corner, text, font=font, fill=colour)
