"""Writes clips as mp4 and gif."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from jaxmotion.foundation.files import file_url

Video = UInt8[np.ndarray, "T H W 3"]


COMFORTABLE = 256
"""Shorter side, in pixels, that small clips are enlarged to (by the nearest whole factor)."""


def write_clip(path: str | Path, video: Video, fps: float) -> Path:
    """Writes a clip as the suffix of `path` says: .mp4 or .gif. Small clips are enlarged.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    return writer_of(path)(path, enlarge(video), fps)


def writer_of(path: str | Path) -> Callable[[Path, Video, float], Path]:
    """Returns the function that writes the kind of file `path` names; call it early to fail before the work is done.

    Raises:
        ValueError: the suffix is neither .mp4 nor .gif.
    """
    writers = {".mp4": write_mp4, ".gif": write_gif}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"Clips are written as .mp4 or .gif; got {str(path)!r}.")
    return writers[suffix]


def enlarge(video: UInt8[np.ndarray, "... H W 3"], comfortable: int = COMFORTABLE) -> UInt8[np.ndarray, "... H2 W2 3"]:
    """Enlarges a clip (or picture) by the integer factor that brings its shorter side nearest to `comfortable`.

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
    """Writes a clip as H.264 in yuv420p with its index in front, which browsers play while they load it.

    The colours are BT.709 and say so. Odd sizes get one more row or column (the last one again), since yuv420p has
    even sizes only. `crf` is x264's quality, 0 (lossless) to 51.
    """
    video = _validate(video, fps)
    video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(1001)
    with (
        _temporary_beside(Path(path)) as temporary,
        av.open(file_url(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
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
    """Writes a clip as an endless gif with one palette for all its frames.

    A gif counts time in hundredths of a second; durations are rounded so that their sum stays right.
    """
    video = _validate(video, fps)
    ends = np.round(np.arange(len(video) + 1) * 100.0 / fps).astype(int)
    durations = (np.maximum(np.diff(ends), 2) * 10).tolist()  # browsers slow anything under 2/100 s down to 10/100 s
    sampled = video[np.linspace(0, len(video) - 1, min(len(video), 8)).round().astype(int)]
    palette = Image.fromarray(rearrange(sampled, "T H W C -> (T H) W C")).quantize(256, Image.Quantize.MEDIANCUT)
    frames = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in video]
    with _temporary_beside(Path(path)) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True
        )
    return Path(path)


def _validate(video: Video, fps: float) -> Video:
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(f"A clip is uint8 [T H W 3] with at least one frame; got {video.dtype} {list(video.shape)}.")
    if not fps > 0.0:
        raise ValueError(f"Frames per second must be above 0; got {fps}.")
    return video


def _even(pixels: int) -> int:
    return pixels + pixels % 2


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path` that takes its place at the end, or is removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
