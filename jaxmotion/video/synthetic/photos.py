"""Photographs as textures: read once, kept at several sizes so that any view of them can be sampled without aliasing.

The photographs are those that the scikit-image wheel carries (read from its folder; nothing is downloaded) or those of
any folder. Positions on a photo are in its own pixels: x to the right, y down; it covers [0, width] x [0, height], and
the centre of the first pixel lies at (0.5, 0.5).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxmotion.foundation.text_files import escape
from jaxmotion.video.clip_files import walk_folders
from jaxmotion.video.images import load_image

SKIMAGE_PHOTOS = "skimage"
"""Instead of a folder: the photographs inside the scikit-image wheel."""
NOUNS = {
    "astronaut": "an astronaut",
    "brick": "bricks",
    "camera": "a cameraman",
    "chelsea": "a cat",
    "coffee": "coffee",
    "coins": "coins",
    "grass": "grass",
    "gravel": "gravel",
    "hubble_deep_field": "stars",
    "ihc": "stained cells",
    "moon": "the moon",
    "motorcycle_left": "a motorcycle",
    "retina": "a retina",
    "rocket": "a rocket",
}
"""The photographs taken from the wheel, and what a caption calls them."""
HELD_OUT = ("chelsea", "coffee", "coins")
"""Those of the wheel that training never sees, unless told otherwise."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif")
LEVELS_PER_OCTAVE = 2
SMALLEST_SIDE = 16


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photograph at its own size and at ever smaller ones, each 1/sqrt(2) of the one before."""

    name: str
    noun: str
    levels: tuple[UInt8[np.ndarray, "h w 3"], ...]
    detail: Float[np.ndarray, "i j"]
    """Summed-area table of the brightness gradient on a coarse copy; see `detail_within`."""

    @property
    def width(self) -> int:
        """Width in pixels at the photo's own size."""
        return self.levels[0].shape[1]

    @property
    def height(self) -> int:
        """Height in pixels at the photo's own size."""
        return self.levels[0].shape[0]

    def level_for(self, stride: float) -> UInt8[np.ndarray, "h w 3"]:
        """The photo at the size where a step of `stride` of its own pixels is closest to one pixel, by ratio."""
        level = round(LEVELS_PER_OCTAVE * np.log2(max(stride, 1e-6)))
        return self.levels[min(max(level, 0), len(self.levels) - 1)]

    def detail_within(self, low: np.ndarray, high: np.ndarray) -> float:
        """Mean strength of the brightness gradient in a rectangle given by two corners (x, y) in the photo's pixels."""
        rows, columns = self.detail.shape
        scale = np.array([(columns - 1) / self.width, (rows - 1) / self.height])
        (x0, y0), (x1, y1) = np.clip(low * scale, 0, None).astype(int), (high * scale).astype(int)
        x0, y0 = min(x0, columns - 2), min(y0, rows - 2)
        x1, y1 = min(max(x1, x0 + 1), columns - 1), min(max(y1, y0 + 1), rows - 1)
        table = self.detail
        return float((table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]) / ((x1 - x0) * (y1 - y0)))


@dataclasses.dataclass(frozen=True)
class PhotoSplit:
    """The photos of one split, and the names of those in the other."""

    photos: tuple[Photo, ...]
    others: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def read_photos(source: str, held_out: tuple[str, ...], split: str, shorter_side: int) -> PhotoSplit:
    """Reads the photos of a split ("train" or "held_out").

    Args:
        source: `SKIMAGE_PHOTOS` or a folder.
        held_out: names (file names without suffix) that the training split never shows. Empty: `HELD_OUT` for the
            wheel; for a folder every tenth photo by name, and at least one.
        split: "train" or "held_out".
        shorter_side: larger photos are shrunk until their shorter side has this many pixels.

    Raises:
        ValueError: No photo there, or a split without a photo, or a held-out name that is not there.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"The split is {split!r}; it is either 'train' or 'held_out'.")
    files = _skimage_files() if source == SKIMAGE_PHOTOS else _folder_files(Path(source))
    kept = held_out or _default_held_out(source, sorted(files))
    unknown = sorted(set(kept) - set(files))
    if unknown:
        raise ValueError(f"Held-out photos {unknown} are not in {source}; it has {sorted(files)}.")
    names = sorted(name for name in files if (name in kept) == (split == "held_out"))
    if not names:
        raise ValueError(f"No photo is left for the split {split!r}: {source} has {sorted(files)}, held out {kept}.")
    levels = {name: _levels(_read(files[name], shorter_side)) for name in names}
    photos = tuple(Photo(name, _noun(name), levels[name], _detail(levels[name])) for name in names)
    return PhotoSplit(photos, tuple(sorted(set(files) - set(names))))


def photos_digest(photos: Sequence[Photo]) -> str:
    """Returns a digest of the names, sizes and pixels of photos."""
    digest = hashlib.blake2b(digest_size=16)
    for photo in photos:
        digest.update(escape(f"{photo.name} {photo.levels[0].shape}").encode())
        digest.update(np.ascontiguousarray(photo.levels[0]).data)
    return digest.hexdigest()


def sample_photo(
    level: UInt8[np.ndarray, "h w 3"], x: Float[np.ndarray, "*P"], y: Float[np.ndarray, "*P"]
) -> Float[np.ndarray, "*P 3"]:
    """Bilinear samples (float32, 0..255) at positions in pixels of this level; beyond its edges it is mirrored."""
    height, width = level.shape[:2]
    x0, x1, fx = _neighbours(x, width)
    y0, y1, fy = _neighbours(y, height)
    flat = level.reshape(-1, 3)
    y0 *= width
    y1 *= width
    fx, fy = fx[..., None], fy[..., None]
    top = _mix(flat, y0 + x0, y0 + x1, fx)
    bottom = _mix(flat, y1 + x0, y1 + x1, fx)
    bottom -= top
    bottom *= fy
    top += bottom
    return top


def _mix(flat: np.ndarray, left: np.ndarray, right: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    first = flat.take(left, axis=0).astype(np.float32)
    second = flat.take(right, axis=0).astype(np.float32)
    second -= first
    second *= fraction
    first += second
    return first


def _neighbours(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the pixels before and after a position, and how far between them it lies."""
    position = np.asarray(position, np.float32) - np.float32(0.5)
    if position.min() < -0.5 or position.max() > size - 0.5:
        folded = np.mod(position + np.float32(0.5), np.float32(2 * size))
        position = np.minimum(folded, 2 * size - folded) - np.float32(0.5)
    before = np.floor(position)
    fraction = position - before
    before = before.astype(np.int32)
    after = np.minimum(before + 1, size - 1)
    return np.maximum(before, 0), np.maximum(after, 0), fraction


def _skimage_files() -> dict[str, Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("The photos of scikit-image are asked for, and scikit-image is not installed.")
    folder = Path(spec.origin).parent / "data"
    return {path.stem: path for path in sorted(folder.iterdir()) if path.stem in NOUNS and path.suffix in SUFFIXES}


def _folder_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"Photos are looked for in {folder}, and there is no such folder.")
    files = {
        Path(name).stem: Path(place.path, name)
        for place in walk_folders(str(folder))
        for name in place.names
        if name.lower().endswith(SUFFIXES)
    }
    if not files:
        raise ValueError(f"No photo in {folder}: looked for files ending in {', '.join(SUFFIXES)}.")
    return files


def _default_held_out(source: str, names: Sequence[str]) -> tuple[str, ...]:
    if source == SKIMAGE_PHOTOS:
        return tuple(name for name in HELD_OUT if name in names)
    return tuple(names[::10]) if len(names) > 1 else ()


def _noun(name: str) -> str:
    return NOUNS.get(name) or re.sub(r"[\W_\d]+", " ", name).strip().lower() or "a photo"


def _read(path: Path, shorter_side: int) -> Image.Image:
    try:
        image = Image.fromarray(load_image(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a photo: {error}") from error
    shrink = shorter_side / min(image.size)
    if shrink < 1:
        image = image.resize(_shrunk(image, shrink), Image.Resampling.LANCZOS)
    return image


def _levels(image: Image.Image) -> tuple[np.ndarray, ...]:
    levels, shrink = [], 1.0
    while True:
        size = _shrunk(image, shrink)
        resized = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
        levels.append(np.asarray(resized, np.uint8))
        shrink /= 2 ** (1 / LEVELS_PER_OCTAVE)
        if min(image.size) * shrink < SMALLEST_SIDE:
            return tuple(levels)


def _shrunk(image: Image.Image, shrink: float) -> tuple[int, int]:
    return max(1, round(image.width * shrink)), max(1, round(image.height * shrink))


def _detail(levels: Sequence[np.ndarray]) -> np.ndarray:
    coarse = next((level for level in levels if min(level.shape[:2]) <= 2 * SMALLEST_SIDE), levels[-1]).mean(-1)
    down, right = np.gradient(coarse)
    return np.pad(np.hypot(down, right).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
