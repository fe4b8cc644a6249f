"""Clips a second of the motion meter beside what one would use instead, on the same frames.

    python benchmarks/score.py
    python benchmarks/score.py --clips FOLDER           # also how long the clips of a folder take to decode

Every meter gets the same 16 frames of 2 seconds. Rounds alternate, and medians are printed with their ratio.
Farneback's flow is OpenCV's with its usual settings on all its threads, on the very frames that the meter looks at.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import numpy as np

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.meter import meter, windows
from jaxmotion.meter.estimate import Clip
from jaxmotion.meter.score_files import find_videos
from jaxmotion.video.flow import motion_speed
from jaxmotion.video.motion_scale import STEP

ROUNDS = 15


def farneback(video: np.ndarray) -> float:
    """Mean length of the flow between neighbouring frames, pixels."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    flows = (
        cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for a, b in itertools.pairwise(grey)
    )
    return float(np.mean([np.hypot(flow[..., 0], flow[..., 1]).mean() for flow in flows]))


def medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, alternating, after one round that compiles."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            before = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - before)
    return {name: float(np.median(took)) for name, took in seconds.items()}


def compare(size: tuple[int, int]) -> None:
    """One line for each way of measuring a clip of 2 seconds."""
    example = ClutteredScenes(split="held_out", frames=meter.FRAMES, size=size).open().example(0)
    video, shipped = example["video"], meter.packaged_meter()
    cv2.setNumThreads(-1)
    clip = Clip.at(video, 1 / STEP)
    took = medians(
        {
            "motion meter": lambda: shipped([clip]),
            "Farneback's flow (OpenCV)": lambda: farneback(video),
            "mean flow (jaxmotion.video.flow)": lambda: motion_speed(video, 8.0),
        }
    )
    own = took["motion meter"]
    print(f"\n2 seconds at {size[1]} x {size[0]} px, {meter.FRAMES} frames, on {jax.devices()[0].device_kind}")
    for name, seconds in took.items():
        print(
            f"  {name:34s} {1e3 * seconds:8.1f} ms  {1 / seconds:7.1f} clips/s  {seconds / own:6.2f} x the meter's time"
        )


def compare_with_decoding(folder: Path) -> None:
    """How long the windows of a folder's clips take to decode, and to measure."""
    shipped = meter.packaged_meter()
    spec = windows.WindowSpec(meter.FRAMES, STEP, meter.canvas)
    before = time.perf_counter()
    clips = []
    for video in find_videos([str(folder)]):
        for part in windows.plan_windows(video, spec, 32).groups:
            clips += [clip for clip in windows.decode_windows(video, part, spec).clips if clip is not None]
    decoding = time.perf_counter() - before
    shipped(clips)  # compiles
    before = time.perf_counter()
    shipped(clips)
    measuring = time.perf_counter() - before
    print(f"\n{len(clips)} windows of {folder}")
    print(f"  decoding, one thread  {decoding:6.2f} s  {1e3 * decoding / len(clips):6.1f} ms a window")
    print(f"  measuring             {measuring:6.2f} s  {1e3 * measuring / len(clips):6.1f} ms a window")
    print(f"  measuring / decoding  {measuring / decoding:6.2f}")


def main() -> None:
    """Parses and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, metavar="DIR", help="also measures the way from files to scores")
    options = parser.parse_args()
    for size in meter.CANVASES[:3]:
        compare(size)
    if options.clips:
        compare_with_decoding(options.clips)


if __name__ == "__main__":
    main()
