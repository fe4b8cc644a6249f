"""Small clips whose frames can be told apart."""

from __future__ import annotations

import av
import numpy as np


def write_clip(path, codec="libx264", frames=72, rate=24, size=(64, 96), pixels=None, aspect=None, **options):
    """A clip whose every frame has its own grey, 3 n + 20, unless its pixels are given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1", "g": "12", "bf": "2", **options})
        stream.height, stream.width = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 10_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for index in range(frames):
            picture = np.full((*size, 3), 3 * index + 20, np.uint8) if pixels is None else pixels
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)
