"""Clips per second of the data pipeline, beside decoding every frame with PyAV, in the same run.

    python benchmarks/loader.py [--clips FOLDER] [--frames 16] [--size 256] [--workers 2]

Without a folder it writes a few clips of 6 s at 30 fps and 256 by 456 pixels first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxmotion.data.clips import Clips, ClipsSource
from jaxmotion.data.loader import batches
from jaxmotion.data.source import DataSource
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer

FPS = 8.0
BATCH = 4
WRITTEN = 8
SECONDS = 4.0
"""How long each row is measured, after a first batch that is not counted."""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of clips, or a list of them")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = options.clips or write_clips(Path(folder))
        source = Clips(str(clips), frames=options.frames, fps=FPS, size=(options.size, options.size)).open_as_one()
        video = f"{options.frames} frames at {FPS:g} fps, {options.size} x {options.size}"
        table = Table("what", "how", "clips/s", "ratio", title=f"{len(source)} clips, {os.cpu_count()} CPUs")
        slowest = rate(lambda: decode_every_frame(source))
        table.add_row(f"video: {video}", "PyAV, every frame", f"{slowest:.1f}", "1.0")
        for workers in (0, options.workers):
            found = rate(lambda workers=workers: load(source, workers))
            table.add_row("", f"loader, {workers} workers", f"{found:.1f}", f"{found / slowest:.1f}")
    for frames, size in ((8, 32), (8, 64), (16, 128), (16, 256)):
        made = SyntheticClips(frames=frames, size=(size, size)).open()
        found = rate(lambda made=made: load(made, 0))
        table.add_row(f"synthetic: {frames} frames, {size} x {size}", "loader, 0 workers", f"{found:.1f}", "")
    Console(width=100).print(table)


def rate(start: Callable[[], Iterator[int]]) -> float:
    """Clips per second of an endless iterator over numbers of clips."""
    counts = start()
    next(counts)
    begin, clips = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        clips += next(counts)
    return clips / (time.perf_counter() - begin)


def load(source: DataSource, workers: int) -> Iterator[int]:
    """Batches of the loader, as the training loop takes them."""
    iterator = batches(source, batch_size=BATCH, seed=0, tokenize=HashTokenizer(), workers=workers)
    try:
        for batch in iterator:
            yield len(batch["video"])
    finally:
        iterator.close()


def decode_every_frame(source: ClipsSource) -> Iterator[int]:
    """The plain way: all frames of a file to RGB, then the ones that are needed, cropped and resized with Pillow."""
    rng, config = np.random.default_rng(0), source.config
    height, width = config.size
    while True:
        with av.open(source.files[rng.integers(len(source))].path) as container:
            pairs = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        times = np.array([time for time, _ in pairs])
        start = rng.uniform(0, max(times[-1] - (config.frames - 1) / config.fps, 0))
        clip = []
        for step in range(config.frames):
            picture = pairs[np.abs(times - start - step / config.fps).argmin()][1]
            scale = max(height / picture.shape[0], width / picture.shape[1])
            half = np.array([height, width]) / scale / 2
            top, left = np.array(picture.shape[:2]) / 2 - half
            box = (left, top, left + 2 * half[1], top + 2 * half[0])
            clip.append(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box))
        np.stack(clip)
        yield 1


def write_clips(folder: Path) -> Path:
    """Synthetic clips as video files."""
    for index in range(WRITTEN):
        source = SyntheticClips(
            frames=180, fps=30.0, size=(256, 456), camera_speed=(0.02, 0.1), object_counts=(1,)
        ).open()
        with av.open(str(folder / f"{index}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "23"})
            stream.height, stream.width, stream.pix_fmt = 256, 456, "yuv420p"
            for picture in source.example(index)["video"]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    return folder


if __name__ == "__main__":
    main()
