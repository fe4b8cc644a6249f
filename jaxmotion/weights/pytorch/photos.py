"""Photos in all forms that users of diffusers have, as RGB pictures of one size."""

import numpy as np
import torch
from PIL import Image, ImageOps


def as_pictures(image):
    """The photos as RGB pictures, whatever they come as."""
    if isinstance(image, (list, tuple)):
        return [picture for each in image for picture in as_pictures(each)]
    if isinstance(image, Image.Image):
        return [rgb(image)]
    if torch.is_tensor(image):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).movedim(-3, -1).numpy()
    if not isinstance(image, np.ndarray) or image.ndim not in (3, 4) or image.shape[-1] != 3:
        came = getattr(image, "shape", type(image).__name__)
        raise ValueError(f"The image must be PIL, an array [H, W, 3] or a tensor [3, H, W], or a batch; got {came}.")
    if image.ndim == 4:
        return [picture for each in image for picture in as_pictures(each)]
    if np.issubdtype(image.dtype, np.integer):
        if image.min() < 0 or image.max() > 255:
            raise ValueError(f"Images of whole numbers lie in 0..255; got {image.min()} to {image.max()}.")
        image = image.astype(np.uint8)
    if image.dtype != np.uint8:
        if image.min() < 0 or image.max() > 1:
            raise ValueError(f"Images of floats lie in [0, 1]; got {image.min():.3g} to {image.max():.3g}.")
        image = np.round(image * 255).astype(np.uint8)
    return [Image.fromarray(image)]


def rgb(picture):
    """A picture of any mode as RGB: turned as its EXIF says, transparent parts white, 16 bit scaled to 8."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(np.repeat(_eight_bit(np.asarray(picture))[..., None], 3, axis=-1))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return picture.convert("RGB")


def fit(picture, height, width):
    """The largest centred part of a picture with the wanted shape, resized (Lanczos)."""
    scale = min(picture.height / height, picture.width / width)
    top, left = (picture.height - scale * height) / 2, (picture.width - scale * width) / 2
    right, bottom = min(picture.width - left, picture.width), min(picture.height - top, picture.height)
    box = (max(left, 0.0), max(top, 0.0), right, bottom)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def as_pixels(picture):
    """An RGB picture as a tensor [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 127.5 - 1.0).movedim(-1, 0)


def _eight_bit(values):
    """Grey values of 16-bit, 32-bit and float pictures on 0..255.

    White is 65535 in 16 bits; in wider files the smallest of 1 (floats only), 255 and 65535 that holds all values, or
    else the largest value.
    """
    top = float(np.nanmax(values))
    whites = [65535.0] if values.dtype.itemsize == 2 else [255.0, 65535.0]
    if np.issubdtype(values.dtype, np.floating):
        whites.insert(0, 1.0)
    white = next((white for white in whites if top <= white), top)
    return np.round(np.nan_to_num(np.clip(values / white, 0.0, 1.0)) * 255.0).astype(np.uint8)
