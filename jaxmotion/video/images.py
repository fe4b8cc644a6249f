"""Picture files of any kind as RGB, cropped and resized."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageOps

HEIF = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
AVIF = frozenset((b"avif", b"avis"))
PHOTOS = HEIF | AVIF | {b"mif1", b"msf1", b"mif2"}
KINDS = "Give a JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC file."


def load_photo(path: str | Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Loads a photo, cropped and resized to (height, width)."""
    return fit(load_image(path), size)


def load_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Loads any picture file as RGB: turned as its EXIF says, transparency on white, 16 bit scaled to 8, first frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, is broken, or is too large; the message names it and says what would do.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no picture at {path}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one picture file, such as a JPEG or PNG.")
    head = _head(path)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes). {KINDS}")
    if _is_heif(head):
        _register_heif(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and of pictures between its limit and twice the limit: 90 to 180 megapixels
            # are large, but they fit.
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                picture.load()
                return _rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{path} has more than {limit} million pixels; shrink it first, e.g. to 4000 px.") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is no picture that can be read: it looks like {_looks_like(head)}. {KINDS}"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error) as error:
        # Pillow's decoders report a broken file by any of these.
        raise ValueError(f"{path} is a broken picture ({error}); export it again, e.g. as PNG.") from error


def fit(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Crops the largest centred part with the aspect of `size` (height, width); resizes it (Lanczos) to that size."""
    height, width = size
    rows, columns = image.shape[:2]
    scale = min(rows / height, columns / width)
    top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
    box = (max(left, 0.0), max(top, 0.0), min(columns - left, columns), min(rows - top, rows))
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Converts a loaded picture of any mode to uint8 RGB; transparent parts become white."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return np.repeat(_eight_bit(np.asarray(picture))[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, layer)
    return np.array(picture.convert("RGB"))


def _eight_bit(values: Num[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Scales grey values of 16-bit, 32-bit and float pictures to 0..255.

    White is 65535 in 16 bits. Wider files do not say; there it is the smallest of 1 (floats only), 255 and 65535 that
    holds all values, or else the largest value.
    """
    top = float(np.nanmax(values))
    whites = [65535.0] if values.dtype.itemsize == 2 else [255.0, 65535.0]
    if np.issubdtype(values.dtype, np.floating):
        whites.insert(0, 1.0)
    white = next((white for white in whites if top <= white), top)
    return np.round(np.nan_to_num(np.clip(values / white, 0.0, 1.0)) * 255.0).astype(np.uint8)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _brands(head: bytes) -> set[bytes]:
    """Returns the brands of an ISO media file: what it is, and what else it may be read as; none of another file.

    Source: ISO/IEC 14496-12, File Type Box.
    """
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}


def _is_heif(head: bytes) -> bool:
    brands = _brands(head)
    return bool(brands & HEIF) and not brands & AVIF


def _register_heif(path: Path) -> None:
    """Lets Pillow open HEIC, which cameras of phones write.

    Raises:
        ValueError: the package for it is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError(
            f"{path} is a HEIC/AVIF photo of the kind that needs pillow-heif: pip install 'jaxmotion[heif]'. Or give a "
            "JPEG, PNG or another kind of file."
        ) from error
    pillow_heif.register_heif_opener()


def _looks_like(head: bytes) -> str:
    """Guesses the kind of a file that is no picture from its first bytes."""
    if brands := _brands(head):
        return "a HEIC/AVIF photo that is damaged, or that Pillow here cannot read" if brands & PHOTOS else "a video"
    if head.startswith(b"%PDF"):
        return "a PDF document"
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return "an archive"
    if b"<svg" in head:
        return "an SVG drawing"
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return "unknown data"
    if any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text):
        return "unknown data"
    return f"a text file that starts with {text.strip()[:40]!r}"
