"""Object motion: segmentation of tracked points into objects and background, and the objects' residual motion.

Masks come from annotations (YouTube-VIS, COCO), from files such as SAM 2's tools write, or, without any, from the
motion itself: points that do not follow the camera, in groups.

Source: MotionStone (arXiv:2412.05848), Data for Motion NetworkMeter: tracks "combined with object masks".
Not specified in the paper; we use: segmentation by residuals where there are no masks; the mean over points, which lie
evenly, is the mean over area.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxmotion.foundation.config_json import Json
from jaxmotion.meter.camera import CameraMotion, residuals
from jaxmotion.meter.tracks import Tracks
from jaxmotion.video.clip_files import is_left_out
from jaxmotion.video.moving_points import select_moving

Masks = Callable[[UInt8[np.ndarray, "T H W 3"]], Bool[np.ndarray, "T H W"]]
"""Where objects are in the frames of a clip."""


def object_displacement(
    tracks: Tracks, camera: CameraMotion, masks: Bool[np.ndarray, "T H W"] | None = None
) -> tuple[float, float]:
    """Returns the mean residual motion of object points, diagonals a step, and the share of points on objects.

    masks: where objects are; without them the points that move by themselves are the objects.
    """
    left = np.linalg.norm(residuals(tracks, camera), axis=-1) / np.hypot(*camera.size)
    on = moving_points(left, tracks) if masks is None else points_on(tracks, masks)
    on = on & tracks.valid
    return (float(left[on].mean()) if on.any() else 0.0), float(on.mean())


def moving_points(left: Float[np.ndarray, "T-1 N"], tracks: Tracks) -> Bool[np.ndarray, "T-1 N"]:
    """Selects points in groups whose residual stands out from those of the frame."""
    return np.stack([select_moving(*frame, tracks.grid) for frame in zip(left, tracks.valid, strict=True)])


def points_on(tracks: Tracks, masks: Bool[np.ndarray, "T H W"]) -> Bool[np.ndarray, "T-1 N"]:
    """Selects points that start on a mask."""
    height, width = masks.shape[1:]
    x = np.clip(tracks.start[..., 0].astype(int), 0, width - 1)
    y = np.clip(tracks.start[..., 1].astype(int), 0, height - 1)
    return np.stack([mask[rows, columns] for mask, rows, columns in zip(masks[:-1], y, x, strict=True)])


def decode_rle(segmentation: Json) -> Bool[np.ndarray, "H W"]:
    """Decodes COCO's uncompressed run lengths ({"counts": [...], "size": [height, width]}), column by column.

    Raises:
        ValueError: the counts do not fill the size, or are COCO's compressed text.
    """
    counts, (height, width) = segmentation["counts"], segmentation["size"]
    if isinstance(counts, str | bytes):
        raise ValueError("These run lengths are compressed text; decode them with pycocotools first.")
    runs = np.asarray(counts, int)
    if runs.sum() != height * width:
        raise ValueError(f"Run lengths of {runs.sum()} pixels do not fill {height} x {width}.")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def annotated_masks(annotations: Sequence[Json], frames: int) -> Bool[np.ndarray, "T H W"]:
    """Returns the union of the object masks of a YouTube-VIS video; `annotations` are those of the video.

    Raises:
        ValueError: there is no mask, or masks of other frames than the video's.
    """
    if any(len(each["segmentations"]) != frames for each in annotations):
        raise ValueError(f"The annotations have other frames than the video's {frames}.")
    masks = [each["segmentations"] for each in annotations]
    sizes = {tuple(part["size"]) for each in masks for part in each if part}
    if len(sizes) != 1:
        raise ValueError(f"The annotations must have masks of one size; they have {sorted(sizes)}.")
    together = np.zeros((frames, *sizes.pop()), bool)
    for each in masks:
        for t, part in enumerate(each):
            if part:
                together[t] |= decode_rle(part)
    return together


def read_masks(path: Path) -> Bool[np.ndarray, "T H W"]:
    """Reads masks of a clip: an `.npz` of one array [T H W] or [N T H W], or a folder of pictures, one a frame.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is something else.
    """
    if path.is_dir():
        there = sorted(file for file in path.iterdir() if file.suffix.lower() in (".png", ".jpg", ".bmp"))
        files = [file for file in there if not is_left_out(file.name)]
        if not files:
            raise ValueError(f"There are no pictures of masks in {path}.")
        return np.stack([np.asarray(Image.open(file).convert("L")) > 0 for file in files])
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if len(names) != 1:
            raise ValueError(f"{path} must hold one array of masks; it holds {', '.join(names) or 'none'}.")
        masks = arrays[names[0]]
    if masks.ndim not in (3, 4):
        raise ValueError(f"Masks are [T H W], or [N T H W] for N objects; {path} has {masks.shape}.")
    return (masks > 0).any(0) if masks.ndim == 4 else masks > 0
