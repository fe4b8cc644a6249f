"""Clips as files to watch: mp4 (H.264, plays in every browser), gif, and a labelled grid of several levels.

Files appear whole or not at all: they are written beside their place and moved there at the end.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange, repeat
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxmotion.foundation.types import Settings, file_part, spoken

Picture = UInt8[np.ndarray, "H W 3"]
Video = UInt8[np.ndarray, "T H W 3"]

COMFORTABLE = 256
"""Shorter side, in pixels, that small clips are enlarged to (by the nearest whole factor)."""

_PAPER, _INK, _SOFT = (250, 249, 247), (28, 28, 30), (110, 108, 104)
_MAX_COLUMNS = 6


def write_clip(path: str | Path, video: Video, fps: float) -> Path:
    """Write a clip as the suffix of `path` says: .mp4 or .gif. Small clips are enlarged.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    return writer_of(path)(path, enlarge(video), fps)


def writer_of(path: str | Path) -> Callable[[Path, Video, float], Path]:
    """The function that writes the kind of file `path` names; call it early to fail before the work is done.

    Raises:
        ValueError: the suffix is neither .mp4 nor .gif.
    """
    writers = {".mp4": write_mp4, ".gif": write_gif}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"Clips are written as .mp4 or .gif; got {str(path)!r}.")
    return writers[suffix]


def write_levels(
    path: str | Path,
    photo: Picture,
    clips: Mapping[int, Video],
    fps: float,
    *,
    prompt: str = "",
    motion: Mapping[int, str] | None = None,
) -> list[Path]:
    """Write what was asked for: one level as `path`; several as the grid `path` and each alone as `path-level05`.

    Args:
        path: NAME.mp4 or NAME.gif.
        photo: the picture the clips start from, at their size.
        clips: the clip of each level.
        fps: frames per second.
        prompt: written above the grid.
        motion: what was measured, in words, by level; written under the grid's labels.

    Returns:
        The files written, `path` first.
    """
    notes: dict[Settings, str] = {(("level", level),): note for level, note in (motion or {}).items()}
    return write_settings(path, photo, {(("level", level),): c for level, c in clips.items()}, fps, prompt, notes)


def write_settings(
    path: str | Path,
    photo: Picture,
    clips: Mapping[Settings, Video],
    fps: float,
    prompt: str = "",
    notes: Mapping[Settings, str] | None = None,
) -> list[Path]:
    """As `write_levels`, for any dials: each clip alone is `path-object03-camera10`."""
    path = Path(path)
    if len(clips) == 1:
        return [write_clip(path, next(iter(clips.values())), fps)]
    panels = {spoken(settings): clip for settings, clip in clips.items()}
    lines = {spoken(settings): note for settings, note in (notes or {}).items()}
    written = [writer_of(path)(path, grid(photo, panels, notes=lines, title=prompt), fps)]
    for settings, clip in clips.items():
        written.append(write_clip(path.with_stem(path.stem + file_part(settings, "-")), clip, fps))
    return written


def enlarge(video: UInt8[np.ndarray, "... H W 3"], comfortable: int = COMFORTABLE) -> UInt8[np.ndarray, "... H2 W2 3"]:
    """The clip (or picture) enlarged by the whole factor that brings its shorter side nearest to `comfortable`.

    Lanczos; nothing is cropped, and clips that are large enough stay as they are.
    """
    height, width = video.shape[-3:-1]
    factor = max(1, round(comfortable / min(height, width)))
    if factor == 1:
        return video
    frames = video.reshape(-1, height, width, 3)
    size = (width * factor, height * factor)
    large = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])
    return large.reshape(*video.shape[:-3], *large.shape[1:])


def write_mp4(path: str | Path, video: Video, fps: float, *, crf: int = 16) -> Path:
    """Write a clip as H.264 in yuv420p with its index in front, which browsers play while they load it.

    The colours are BT.709 and say so. Odd sizes get one more row or column (the last one again), since yuv420p has
    even sizes only. `crf` is x264's quality, 0 (lossless) to 51.
    """
    video = _checked(video, fps)
    video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(1001)
    with (
        _in_place(Path(path)) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "slow"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for rgb in video:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)


def write_gif(path: str | Path, video: Video, fps: float) -> Path:
    """Write a clip as an endless gif with one palette for all its frames.

    A gif counts time in hundredths of a second; durations are rounded so that their sum stays right.
    """
    video = _checked(video, fps)
    ends = np.round(np.arange(len(video) + 1) * 100.0 / fps).astype(int)
    durations = (np.maximum(np.diff(ends), 2) * 10).tolist()  # browsers slow anything under 2/100 s down to 10/100 s
    sampled = video[np.linspace(0, len(video) - 1, min(len(video), 8)).round().astype(int)]
    palette = Image.fromarray(rearrange(sampled, "T H W C -> (T H) W C")).quantize(256, Image.Quantize.MEDIANCUT)
    frames = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in video]
    with _in_place(Path(path)) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True
        )
    return Path(path)


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
    """How many panels stand in a row: all of up to six, else the fewest that fill the same number of rows."""
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


def _checked(video: Video, fps: float) -> Video:
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(f"A clip is uint8 [T H W 3] with at least one frame; got {video.dtype} {list(video.shape)}.")
    if not fps > 0.0:
        raise ValueError(f"Frames per second must be above 0; got {fps}.")
    return video


def _even(pixels: int) -> int:
    return pixels + pixels % 2


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or is removed when something goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
