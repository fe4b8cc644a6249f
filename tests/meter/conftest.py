"""Small films whose frames can be told apart, and a meter that needs no network."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pytest

from jaxmotion.meter.estimate import Clip, MotionEstimate


@pytest.fixture(scope="session")
def film():
    """Writes a film: `film(path, seconds, size=..., codec=..., turned=..., pictures=..., **options)`."""
    return _film


@pytest.fixture(scope="session")
def numbers():
    """Which frames of a `film` are in a clip; they are counted up to 484."""
    return _numbers


@pytest.fixture
def brightness() -> Brightness:
    """A meter of how fast pictures become brighter."""
    return Brightness()


@dataclasses.dataclass
class Brightness:
    """Object speed: change of mean grey a second, in full scales. Camera speed: half of it; static when that is 0."""

    name: str = "brightness"
    batches: list[tuple[int, tuple[int, ...]]] = dataclasses.field(default_factory=list)
    """Sizes and shapes of what it was given."""

    def __call__(self, clips: Sequence[Clip]) -> list[MotionEstimate]:
        (shape,) = {clip.video.shape for clip in clips}
        self.batches.append((len(clips), shape))
        estimates = []
        for clip in clips:
            grey = clip.video.mean((1, 2, 3)) / 255
            change = abs(grey[-1] - grey[0]) / (clip.seconds[-1] - clip.seconds[0])
            estimates.append(MotionEstimate(change, change / 2, "pan" if change > 0.002 else "static", 0.5))
        return estimates


def _film(path, seconds, size=(48, 64), codec="libx264", rate=None, turned=False, pictures=None, **options) -> str:
    """Frames at these times in seconds, or at a rate. Unless there are pictures, their greys count them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate or 30, options={"crf": "4", "g": "12", "bf": "2", **options})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        if rate is None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, second in enumerate(seconds):
            picture = _numbered(index, size) if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            if rate is None:
                frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turned:
        _turn(path)
    return str(path)


def _numbered(index, size) -> np.ndarray:
    """A picture that says which frame it is: 22 greys on the left, and as many, turning slower, on the right."""
    picture = np.full((*size, 3), 20 + 10 * (index % 22), np.uint8)
    picture[:, size[1] // 2 :] = 20 + 10 * (index // 22 % 22)
    return picture


def _numbers(clip: Clip) -> list[int]:
    left, right = np.split(clip.video.astype(float), 2, axis=2)
    low, high = (np.rint((half.mean((1, 2, 3)) - 20) / 10) for half in (left, right))
    return (low + 22 * high).astype(int).tolist()


def _turn(path) -> None:
    """Says in an mp4's header that it is shown turned clockwise, as phones held upright do."""
    straight = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(straight, data.index(b"tkhd"))
    path.write_bytes(data[:at] + clockwise + data[at + len(clockwise) :])
