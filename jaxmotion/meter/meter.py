"""The motion meter that comes with the package: MotionStone's estimator in a small size, trained on drawn scenes.

    jaxmotion.estimate_motion(clip, fps=24)     # uint8 [T H W 3] -> MotionEstimate(object_speed=..., camera_speed=...)

It measures windows of 16 frames about 1/8 s apart (`video.frames`), at about 36,000 pixels in the shape of the picture
(`video.canvas`). A picture that is taller than wide is laid on its side, and a window that is too short goes back and
forth: neither changes how fast anything moves.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8
from PIL import Image

from jaxmotion.foundation.config_json import from_json, to_json
from jaxmotion.foundation.types import Params
from jaxmotion.meter.estimate import Clip, MotionEstimate, average_estimates
from jaxmotion.models.motion_estimator import MotionEstimatorSizes, Prediction, confidence, upgrade_sizes
from jaxmotion.video import motion_scale
from jaxmotion.video.canvas import CANVASES, canvas
from jaxmotion.video.cuts import split_at_cuts
from jaxmotion.video.frames import WINDOW, fill_window, motion_windows
from jaxmotion.video.motion_scale import CAMERA_MOVES, STATIC, Move
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors

__all__ = [
    "CANVASES",
    "FRAMES",
    "NetworkMeter",
    "canvas",
    "estimate_motion",
    "load_meter",
    "packaged_meter",
    "save_meter",
]

FRAMES = WINDOW
"""Frames of a window."""
WEIGHTS = Path(__file__).parent / "weights" / "motion_meter.safetensors"
CONFIG_KEY = "config"
"""Key of the file's header with the network's sizes as JSON."""
BATCH_SIZES = {"cpu": 1}
"""Windows per device and step, by kind of device: on a CPU each fills all cores, and one stays in its cache."""
BATCH_SIZE = 16
"""Windows per device and step elsewhere."""


def estimate_motion(clip: UInt8[np.ndarray, "T H W 3"], fps: float, *, cuts: bool = True) -> MotionEstimate:
    """Estimates how much the objects and the camera of a clip move.

    Args:
        clip: at least 2 frames of any size.
        fps: its frames per second.
        cuts: whether to look for cuts; what changes at a cut is no motion.

    Raises:
        ValueError: not a clip, a single frame, no frame rate, or nothing but cuts.
    """
    whole = Clip.at(np.asarray(clip), fps)
    if not cuts:
        return packaged_meter()([whole])[0]
    windows = motion_windows(whole.seconds, FRAMES)
    shots = [window[shot] for window in windows for shot in split_at_cuts(whole.video[window])]
    if not shots:
        raise ValueError("No two frames of this clip are of one shot; cuts=False measures it all the same.")
    estimates = packaged_meter()([Clip(whole.video[shot], whole.seconds[shot]) for shot in shots])
    return average_estimates(estimates, [float(np.ptp(whole.seconds[shot])) for shot in shots])


@functools.cache
def packaged_meter() -> NetworkMeter:
    """Returns the meter with the weights in the package, read once."""
    return load_meter(WEIGHTS)


def load_meter(path: Path) -> NetworkMeter:
    """Returns a meter from a safetensors file of weights and sizes, as `save_meter` writes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no estimator of this version.
    """
    checkpoint = open_tensors(path)
    if CONFIG_KEY not in checkpoint.metadata:
        raise ValueError(f"{path} has no {CONFIG_KEY!r} in its header: it holds no motion estimator of this package.")
    sizes = from_json(upgrade_sizes(json.loads(checkpoint.metadata[CONFIG_KEY])), MotionEstimatorSizes)
    flat = {tuple(name.split("/")): np.asarray(checkpoint[name], np.float32) for name in checkpoint}
    digest = hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    return NetworkMeter(sizes, unflatten_dict(flat), f"{path.stem}-{digest}")


def save_meter(meter: NetworkMeter, path: Path, card: Mapping[str, str]) -> None:
    """Writes weights as `load_meter` reads them, in half precision; the entries of `card` go into the header."""
    tensors = {"/".join(name): np.asarray(value, np.float16) for name, value in flatten_dict(meter.params).items()}
    header = {"format": "pt", CONFIG_KEY: json.dumps(to_json(meter.sizes)), **card}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path.parent, path.stem, tensors, metadata=header)


@dataclasses.dataclass(frozen=True)
class NetworkMeter:
    """A trained network as a meter of clips of any size, length and frame rate."""

    sizes: MotionEstimatorSizes
    params: Params
    name: str
    """Tells its estimates from those of other weights."""

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        """Returns one estimate for each clip: the mean over its windows."""
        windows = [(index, window) for index, clip in enumerate(clips) for window in _windows(clip)]
        found: dict[int, list[tuple[MotionEstimate, float]]] = {index: [] for index in range(len(clips))}
        for shape in dict.fromkeys(window.pictures.shape for _, window in windows):
            alike = [each for each in windows if each[1].pictures.shape == shape]
            for group in _batches(alike, _batch_size()):
                for (index, window), estimate in zip(group, self._measure([w for _, w in group]), strict=True):
                    found[index].append((estimate, window.weight))
        return [average_estimates(*zip(*parts, strict=True)) for parts in found.values()]

    def _measure(self, windows: list[_Window]) -> list[MotionEstimate]:
        """Measures windows of one shape. The batch is padded, so that one shape is compiled once."""
        rows = np.minimum(np.arange(_batch_size()), len(windows) - 1)
        pictures = np.stack([window.pictures for window in windows])[rows]
        gaps, shares = (np.stack([getattr(window, name) for window in windows])[rows] for name in ("gaps", "shares"))
        batch = jax.device_put((pictures, gaps, shares), NamedSharding(_devices(), PartitionSpec("data")))
        predicted = jax.device_get(_program(self.sizes)(self.params, *batch))
        return [_to_estimate(Prediction(*(part[row] for part in predicted)), w) for row, w in enumerate(windows)]


@functools.cache
def _program(sizes: MotionEstimatorSizes) -> jax.stages.Wrapped:
    """Returns the compiled reading of clips, which meters of the same network share."""
    return jax.jit(sizes.build().read)


class _Window(NamedTuple):
    """A window, ready for the network.

    gaps: seconds from each frame to the next, positive also where the window goes back. shares: how much each step
    counts. turned: laid on its side.
    """

    pictures: UInt8[np.ndarray, "16 h w 3"]
    gaps: Float[np.ndarray, " 15"]
    shares: Float[np.ndarray, " 15"]
    weight: float
    turned: bool


def _windows(clip: Clip) -> list[_Window]:
    height, width = clip.video.shape[1:3]
    turned = height > width
    size = canvas(height, width)
    windows = []
    for chosen in motion_windows(clip.seconds, FRAMES):
        order, counted = fill_window(len(chosen), FRAMES)
        pictures = np.stack([_resize(clip.video[index], size) for index in chosen])[order]
        if turned:
            pictures = rearrange(pictures, "T H W C -> T W H C")
        seconds = clip.seconds[chosen]
        gaps = np.abs(np.diff(seconds[order])).astype(np.float32)
        shares = (gaps * counted).astype(np.float32)
        windows.append(_Window(pictures, gaps, shares, float(seconds[-1] - seconds[0]), turned))
    return windows


def _batch_size() -> int:
    return BATCH_SIZES.get(jax.default_backend(), BATCH_SIZE) * len(jax.local_devices())


def _batches(windows: list[tuple[int, _Window]], size: int) -> Iterator[list[tuple[int, _Window]]]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


@functools.cache
def _devices() -> Mesh:
    """Returns the mesh of all devices of this process, which share the windows."""
    return jax.make_mesh((len(jax.local_devices()),), ("data",), (AxisType.Auto,), devices=jax.local_devices())


def _resize(picture: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX, reducing_gap=None))


def _to_estimate(predicted: Prediction, window: _Window) -> MotionEstimate:
    """Returns the estimate of an upright window: a pan of pictures that lay on their side is a tilt."""
    camera = float(predicted.camera)
    move = "static" if camera < STATIC else CAMERA_MOVES[int(np.argmax(predicted.moves))]
    swapped: dict[Move, Move] = {"pan": "tilt", "tilt": "pan"} if window.turned else {}
    return MotionEstimate(
        object_speed=float(motion_scale.speed(float(predicted.object))),
        camera_speed=float(motion_scale.speed(camera)),
        move=swapped.get(move, move),
        confidence=float(confidence(np.asarray(predicted.error))),
    )
