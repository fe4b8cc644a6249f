"""How stored frames are turned and mirrored to be shown, as the header of a file or the stream says."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
from av import VideoFrame
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class Orientation:
    """The steps from a stored picture to the one that is shown, in this order."""

    transposed: bool = False
    """Whether rows and columns change places."""
    upside_down: bool = False
    """Whether the rows, then, are in reverse order."""
    mirrored: bool = False
    """Whether the columns, then, are in reverse order."""

    def apply(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the picture as it is shown."""
        rows, columns = (slice(None, None, -1 if reverse else 1) for reverse in (self.upside_down, self.mirrored))
        turned = picture.swapaxes(0, 1) if self.transposed else picture
        return np.ascontiguousarray(turned[rows, columns])

    def stored_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in storage of a picture that is shown at this one; or the other way round."""
        return (size[1], size[0]) if self.transposed else size


def orientation_of(frame: VideoFrame) -> Orientation:
    """Returns the orientation of a frame.

    Source: ISO/IEC 14496-12, section 6.2.2: a stored point (p, q) is shown at (a p + c q + x, b p + d q + y). Turns by
    other angles than multiples of 90 degrees count as the nearest of those.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, upside_down=d < 0, mirrored=a < 0)
    return Orientation(True, upside_down=b < 0, mirrored=c < 0)
