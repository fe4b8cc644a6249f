"""From clips to files and to measurements: what is rendered once is kept, and what is measured once, too.

Files are H.264 in mp4. Clips for the Python call are kept without loss, so that it gets the very frames.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TextIO

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from benchmarks.physics.clip import Clip, true_motion
from benchmarks.physics.photographs import photographs
from benchmarks.physics.rendering import render

LOSSLESS = {"crf": "0", "preset": "veryfast"}


def write_clips(clips: Sequence[Clip], folder: Path, source: str, workers: int, progress: TextIO) -> list[Path]:
    """Renders the clips that are not in the folder yet; returns all files, in the order of the clips.

    Args:
        clips: what to draw.
        folder: one file for each clip, by its name.
        source: of the photographs; see `photographs`.
        workers: processes that render.
        progress: where the bar goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{clip.name}.mp4" for clip in clips]
    missing = [(clip, file) for clip, file in zip(clips, files, strict=True) if not _is_written(clip, file, source)]
    if missing:
        with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
            jobs = pool.map(functools.partial(_write_one, source=source), *zip(*missing, strict=True))
            for _ in tqdm(jobs, "rendering", len(missing), unit="clip", file=progress):
                pass
    return files


def encode(frames: UInt8[np.ndarray, "T H W 3"], path: Path, fps: float, crf: int | None) -> None:
    """Writes frames as H.264 in mp4; without any loss where no crf is given."""
    codec, options = ("libx264rgb", LOSSLESS) if crf is None else ("libx264", {"crf": str(crf), "preset": "veryfast"})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if crf is None else "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def read_frames(path: Path) -> UInt8[np.ndarray, "T H W 3"]:
    """Reads all frames of a file that `encode` wrote."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _write_one(clip: Clip, path: Path, source: str) -> None:
    half = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    encode(render(clip, photographs(source)), half, clip.fps, clip.crf)
    half.replace(path)
    path.with_suffix(".json").write_text(json.dumps({"clip": describe(clip), "photographs": source}))


def _is_written(clip: Clip, path: Path, source: str) -> bool:
    """Returns whether the file shows this very clip."""
    beside = path.with_suffix(".json")
    if not path.exists() or not beside.exists():
        return False
    return json.loads(beside.read_text()) == json.loads(json.dumps({"clip": describe(clip), "photographs": source}))


def describe(clip: Clip) -> Mapping[str, object]:
    """Returns all that a clip is made of as JSON values, its times as their number."""
    return {**dataclasses.asdict(clip), "true": dataclasses.asdict(true_motion(clip))}


def _one_thread() -> None:
    cv2.setNumThreads(1)
