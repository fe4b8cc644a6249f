"""The motion meter that comes with the package: MotionStone's estimator in a small size, trained on worlds.

    from jaxmotion.score import estimate
    estimate(clip, fps=24)           # uint8 [T H W 3]  ->  Reading(object_speed=..., camera_speed=..., move=...)

It looks at 16 frames at a time, about 1/8 s apart, at about 36,000 pixels in the shape of the picture. A picture that
is taller than wide is laid on its side, and a clip that is too short goes back and forth: neither changes how fast
anything moves.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8
from PIL import Image

from jaxmotion.foundation.config_json import from_json, to_json
from jaxmotion.foundation.types import Params
from jaxmotion.meter.estimate import Clip, Move, Reading
from jaxmotion.meter.windows import spaced
from jaxmotion.systems.motion_estimator.motion_estimator import (
    MOVES,
    EstimatorTask,
    MotionEstimator,
    Scores,
    confidence,
)
from jaxmotion.video import motion_scale as unit
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors

FRAMES, STEP = 16, 0.125
"""Frames that it looks at together, and seconds between them, about."""
CANVASES = ((144, 256), (168, 224), (192, 192), (120, 288))
"""(height, width) of the pictures that it looks at, lying on their side if they are taller than wide."""
STATIC = 1.35
"""A camera that scores less stands still: half of the score's distance to what a trembling hand makes."""
WEIGHTS = Path(__file__).parent / "weights" / "motion_meter.safetensors"
CONFIG_KEY = "config"
"""Of the file's header: the estimator's config as JSON."""
AT_ONCE = {"cpu": 1}
"""Windows that a device of a kind measures together: on a CPU each fills all cores, and one stays in its cache."""
ELSEWHERE = 16


def canvas(height: int, width: int) -> tuple[int, int]:
    """The (height, width) at which a video of that size should be read: the nearest shape, the same way up."""
    lying = _nearest(max(height, width) / min(height, width))
    return lying if width >= height else (lying[1], lying[0])


def estimate(clip: UInt8[np.ndarray, "T H W 3"], fps: float) -> Reading:
    """How much the objects and the camera of a clip move.

    Args:
        clip: at least 2 frames of any size.
        fps: its frames per second.

    Raises:
        ValueError: not a clip, a single frame, or no frame rate.
    """
    return shipped()([Clip.at(np.asarray(clip), fps)])[0]


@functools.cache
def shipped() -> Estimator:
    """The meter with the weights in the package, read once."""
    return load(WEIGHTS)


def load(path: Path) -> Estimator:
    """A meter from a safetensors file of weights with their config, as `save` writes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no estimator of this version.
    """
    checkpoint = open_tensors(path)
    if CONFIG_KEY not in checkpoint.metadata:
        raise ValueError(f"{path} has no {CONFIG_KEY!r} in its header: it holds no motion estimator of this package.")
    config = from_json(json.loads(checkpoint.metadata[CONFIG_KEY]), MotionEstimator)
    flat = {tuple(name.split("/")): np.asarray(checkpoint[name], np.float32) for name in checkpoint}
    params = unflatten_dict(flat)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    return Estimator(config.build(), params, f"{path.stem}-{digest}")


def save(config: MotionEstimator, params: Params, path: Path, card: Mapping[str, str]) -> None:
    """Writes weights as `load` reads them, in half precision; what `card` says goes into the header as well."""
    tensors = {"/".join(name): np.asarray(value, np.float16) for name, value in flatten_dict(params).items()}
    header = {"format": "pt", CONFIG_KEY: json.dumps(to_json(config)), **card}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path.parent, path.stem, tensors, metadata=header)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A trained estimator as a meter of clips of any size, length and frame rate."""

    task: EstimatorTask
    params: Params
    name: str
    """Tells its readings from those of other weights."""

    def __call__(self, clips: Sequence[Clip]) -> list[Reading]:
        """One reading for each clip: the mean over its windows."""
        windows = [(index, *window) for index, clip in enumerate(clips) for window in _windows(clip)]
        read: dict[int, list[tuple[float, Reading]]] = {index: [] for index in range(len(clips))}
        for shape in dict.fromkeys(video.shape for _, video, _, _ in windows):
            alike = [window for window in windows if window[1].shape == shape]
            for group in _batched(alike, _at_once()):
                readings = self._read([video for _, video, _, _ in group], [times for _, _, times, _ in group])
                for (index, _, times, turned), reading in zip(group, readings, strict=True):
                    weight = float(times[-1] - times[0])
                    read[index].append((weight, _upright(reading) if turned else reading))
        return [_mean(parts) for parts in read.values()]

    def _read(self, videos: list[np.ndarray], times: list[np.ndarray]) -> list[Reading]:
        """Readings of windows of one shape, always so many at once, the last one filled up."""
        count = len(videos)
        rows = _at_once()
        places = np.minimum(np.arange(rows), count - 1)
        seconds = np.stack([_steps(time) for time in times])[places]
        batch = jax.device_put((np.stack(videos)[places], seconds), NamedSharding(_devices(), PartitionSpec("data")))
        said = jax.device_get(self._compiled(self.params, *batch))
        return [_reading(Scores(*(part[row] for part in said))) for row in range(count)]

    @functools.cached_property
    def _compiled(self):
        return jax.jit(self.task.read)


Window = tuple[UInt8[np.ndarray, "16 h w 3"], Float[np.ndarray, " 16"], bool]
"""Pictures, their times (not rising where the clip goes back), and whether they lie on their side."""


def _windows(clip: Clip) -> list[Window]:
    chosen = spaced(clip.seconds, STEP)
    height, width = clip.video.shape[1:3]
    turned = height > width
    size = canvas(height, width)
    pictures = np.stack([_resized(clip.video[index], size) for index in chosen])
    if turned:
        pictures = rearrange(pictures, "T H W C -> T W H C")
    times = clip.seconds[chosen]
    count = len(chosen)
    if count <= FRAMES:
        there = np.abs((np.arange(FRAMES) + count - 1) % (2 * count - 2) - (count - 1))[:FRAMES]
        order = (count - 1 - there) if count > 1 else there
        return [(pictures[order], times[order], turned)]
    windows = max(2, round(count / FRAMES))
    starts = np.rint(np.linspace(0, count - FRAMES, windows)).astype(int)
    return [(pictures[start : start + FRAMES], times[start : start + FRAMES], turned) for start in starts]


def _at_once() -> int:
    return AT_ONCE.get(jax.default_backend(), ELSEWHERE) * len(jax.local_devices())


def _batched(windows: list, size: int) -> Iterator[list]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


def _steps(times: np.ndarray) -> np.ndarray:
    """Seconds from each frame to the next, also where the clip goes back."""
    return np.abs(np.diff(times)).astype(np.float32)


@functools.cache
def _devices() -> Mesh:
    """All devices of this process, which share the windows."""
    return jax.make_mesh((len(jax.local_devices()),), ("data",), (AxisType.Auto,), devices=jax.local_devices())


def _nearest(ratio: float) -> tuple[int, int]:
    return min(CANVASES, key=lambda size: abs(np.log(size[1] / size[0] / ratio)))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX, reducing_gap=None))


def _reading(said: Scores) -> Reading:
    moves = {name: float(speed) for name, speed in zip(MOVES, said.moves, strict=True)}
    camera = float(said.camera)
    move = "static" if camera < STATIC else _fastest(moves)
    return Reading(
        object_speed=float(unit.speed(float(said.object))),
        camera_speed=float(unit.speed(camera)),
        move=move,
        confidence=float(confidence(np.asarray(said.error))),
    )


def _fastest(moves: dict[Any, float]) -> Move:
    return max(moves.items(), key=lambda item: item[1])[0]


def _upright(reading: Reading) -> Reading:
    """Of pictures that lay on their side: what looked like a pan is a tilt."""
    swapped: dict[Move, Move] = {"pan": "tilt", "tilt": "pan"}
    return dataclasses.replace(reading, move=swapped.get(reading.move, reading.move))


def _mean(parts: Sequence[tuple[float, Reading]]) -> Reading:
    """The mean over windows, each as long as it is."""
    if len(parts) == 1:
        return parts[0][1]
    weights = np.array([max(weight, 1e-6) for weight, _ in parts])
    weights = weights / weights.sum()
    camera = float(sum(weight * reading.camera_speed for weight, (_, reading) in zip(weights, parts, strict=True)))
    travelled: dict[Move, float] = {}
    for weight, (_, reading) in zip(weights, parts, strict=True):
        travelled[reading.move] = travelled.get(reading.move, 0.0) + weight * reading.camera_speed
    moving = {move: share for move, share in travelled.items() if move != "static"}
    still = unit.score(camera) < STATIC or not moving
    return Reading(
        object_speed=float(sum(w * reading.object_speed for w, (_, reading) in zip(weights, parts, strict=True))),
        camera_speed=camera,
        move="static" if still else _fastest(moving),
        confidence=float(sum(w * reading.confidence for w, (_, reading) in zip(weights, parts, strict=True))),
    )
