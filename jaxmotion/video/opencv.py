"""OpenCV, for what needs it: drawing worlds and following points. It is an extra, for it is large."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def opencv() -> Any:
    """The module `cv2`, told to stay on one thread: pictures here are small, and threads would wait for each other.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "This needs OpenCV, which is not installed. Get it with: pip install 'jaxmotion[opencv]'"
        ) from error
    cv2.setNumThreads(1)
    return cv2
