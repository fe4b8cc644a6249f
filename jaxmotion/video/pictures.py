"""Decoded frames as RGB pictures: upright, with square pixels, in SDR, cropped or resized."""

from __future__ import annotations

import math

import numpy as np
from av import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from jaxmotion.video.orientation import orientation_of
from jaxmotion.video.tone_mapping import UNSPECIFIED, tone_map_of

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How frames are resized: shrinking averages, and without the last two flags all pictures become a little too dark."""


def displayed_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Returns (height, width) at which a player shows the frame: upright, with square pixels."""
    height, width = frame.height, round(frame.width * float(stream.sample_aspect_ratio or 1))
    return (width, height) if orientation_of(frame).transposed else (height, width)


def resize_frame(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes the whole frame, upright, to (height, width), squeezed where the aspect is another."""
    orientation = orientation_of(frame)
    return orientation.apply(_scale(frame, orientation.stored_size(size), reformatter))


def crop_frame(
    frame: VideoFrame, stream: VideoStream, size: tuple[int, int], reformatter: VideoReformatter
) -> UInt8[np.ndarray, "H W 3"]:
    """Centre-crops a frame, upright, and resizes it to (height, width)."""
    orientation = orientation_of(frame)
    height, width = orientation.stored_size(size)
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    scale = max(height / frame.height, width / (frame.width * pixel_aspect))
    tall = max(height, round(frame.height * scale))
    wide = max(width, round(frame.width * pixel_aspect * scale))
    top, left = (tall - height) // 2, (wide - width) // 2
    crop = (slice(top, top + height), slice(left, left + width))
    return orientation.apply(_scale(frame, (tall, wide), reformatter, crop))


def diagonal_over_crop(displayed: tuple[int, int], size: tuple[int, int]) -> float:
    """Returns the diagonal of a picture over that of the part of it that `crop_frame` shows; 1: all of it.

    Args:
        displayed: (height, width) of the picture.
        size: (height, width) of the crop, in any unit.
    """
    scale = max(size[0] / displayed[0], size[1] / displayed[1])
    return math.hypot(*displayed) * scale / math.hypot(*size)


def _scale(
    frame: VideoFrame,
    size: tuple[int, int],
    reformatter: VideoReformatter,
    crop: tuple[slice, slice] = (slice(None), slice(None)),
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a part of the frame resized to (height, width), as SDR."""
    tone_map = tone_map_of(frame)
    space = Colorspace.BT2020 if tone_map and frame.colorspace == UNSPECIFIED else None
    scaled = reformatter.reformat(
        frame,
        size[1],
        size[0],
        "rgb48le" if tone_map else "rgb24",
        src_colorspace=space,
        interpolation=SCALING,
        threads=1,
    )
    picture = scaled.to_ndarray()[crop]
    return tone_map.apply(picture) if tone_map else picture
