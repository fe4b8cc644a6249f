"""Degradations of frames by cameras, encoders and editors: light, focus, grain, compression, bars, marks."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter1d

Pictures = Float[np.ndarray, "T H W"]
SHARE = 0.25
"""Probability of each degradation."""


def degrade(pictures: Pictures, kinds: Sequence[str], rng: np.random.Generator) -> UInt8[np.ndarray, "T H W"]:
    """Degrades frames (0..255); each named kind of `DEGRADATIONS` happens with probability `SHARE`."""
    for kind, change in DEGRADATIONS.items():
        if kind in kinds and rng.random() < SHARE:
            pictures = change(pictures, rng)
    return np.rint(np.clip(pictures, 0, 255)).astype(np.uint8)


def _light(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A change of brightness over the clip: a slow one, or a flicker."""
    frames = len(pictures)
    slow = np.linspace(0, rng.uniform(-0.3, 0.3), frames)
    flicker = rng.normal(0, rng.choice([0, 0.02]), frames)
    return pictures * (1 + slow + flicker)[:, None, None].astype(np.float32)


def _contrast(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    gain, lift = rng.uniform(0.35, 1.3), rng.uniform(-40, 60)
    return (pictures - 128) * np.float32(gain) + np.float32(128 + lift)


def _focus(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    sigma = rng.uniform(0.5, 2.0)
    return gaussian_filter1d(gaussian_filter1d(pictures, sigma, axis=1, truncate=2), sigma, axis=2, truncate=2)


def _shutter(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A trace of the frame before in every frame, as slow shutters and temporal noise filters leave it."""
    share = np.float32(rng.uniform(0.05, 0.3))
    before = np.concatenate([pictures[:1], pictures[:-1]])
    return (1 - share) * pictures + share * before


def _grain(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    return pictures + rng.standard_normal(pictures.shape, np.float32) * np.float32(rng.uniform(1, 8))


def _compression(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """JPEG at a low quality, frame by frame."""
    quality = int(rng.integers(12, 60))
    out = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        kept = io.BytesIO()
        Image.fromarray(np.rint(np.clip(picture, 0, 255)).astype(np.uint8)).save(kept, "JPEG", quality=quality)
        out[index] = np.asarray(Image.open(kept))
    return out


def _bars(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Black bars above and below, or left and right."""
    pictures = pictures.copy()
    axis = int(rng.integers(1, 3))
    size = pictures.shape[axis]
    wide = int(size * rng.uniform(0.04, 0.16))
    for part in (slice(0, wide), slice(size - wide, size)):
        pictures[(slice(None),) * axis + (part,)] = 0
    return pictures


def _mark(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A mark that stands still on the picture, in a corner or across the middle."""
    _, height, width = pictures.shape
    tall, wide = int(height * rng.uniform(0.04, 0.12)), int(width * rng.uniform(0.08, 0.35))
    top = int(rng.choice([0.04, 0.45, 0.86]) * height)
    left = int(rng.choice([0.04, 0.5 - wide / width / 2, 0.94 - wide / width]) * width)
    tall, left = min(tall, height - top), max(left, 0)
    letters = np.kron(rng.random((max(tall // 3, 1), max(wide // 3, 1))) < 0.5, np.ones((3, 3)))
    letters = letters[:tall, :wide] * rng.uniform(0.3, 0.9)
    pictures = pictures.copy()
    window = pictures[:, top : top + letters.shape[0], left : left + letters.shape[1]]
    window += (rng.choice([20.0, 235.0]) - window) * letters.astype(np.float32)
    return pictures


def _repeat_frames(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """A frame or two shown twice, in place of the one after."""
    pictures = pictures.copy()
    for t in rng.integers(1, len(pictures), max(1, len(pictures) // 6)):
        pictures[t] = pictures[t - 1]
    return pictures


DEGRADATIONS: Mapping[str, Callable[[Pictures, np.random.Generator], Pictures]] = {
    "light": _light,
    "contrast": _contrast,
    "focus": _focus,
    "shutter": _shutter,
    "grain": _grain,
    "held": _repeat_frames,
    "bars": _bars,
    "mark": _mark,
    "compression": _compression,
}
"""In the order in which they happen."""
