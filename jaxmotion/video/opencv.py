"""OpenCV, for drawing scenes and tracking points. It is an extra, for it is large."""

from __future__ import annotations

import functools
from types import ModuleType


@functools.cache
def opencv() -> ModuleType:
    """Imports `cv2` and keeps it on one thread: pictures here are small, and threads would wait for each other.

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
