"""Sizes at which motion is measured: about 36,000 pixels in the shape of the picture, on its side if it is tall.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import math

CANVASES = ((144, 256), (168, 224), (192, 192), (120, 288))
"""(height, width) at which pictures are measured, lying on their side if they are taller than wide."""
CELL = 8
"""Sides are multiples of it."""


def canvas(height: int, width: int, like: tuple[int, int] = CANVASES[0]) -> tuple[int, int]:
    """Returns the (height, width) at which a video of that size should be read: the nearest shape, the same way up.

    Args:
        height: of the video.
        width: of the video.
        like: a size with about as many pixels as wanted.
    """
    lying = lying_canvas(height, width, like)
    return lying if width >= height else (lying[1], lying[0])


def lying_canvas(height: int, width: int, like: tuple[int, int] = CANVASES[0]) -> tuple[int, int]:
    """Returns the (height, width) at which a video of that size is measured, once it lies on its side if it is tall.

    Args:
        height: of the video.
        width: of the video.
        like: a size with about as many pixels as wanted.
    """
    ratio = max(height, width) / min(height, width)
    tall, wide = min(CANVASES, key=lambda size: abs(math.log(size[1] / size[0] / ratio)))
    scale = math.sqrt(math.prod(like) / math.prod(CANVASES[0]))
    return max(1, round(scale * tall / CELL)) * CELL, max(1, round(scale * wide / CELL)) * CELL
