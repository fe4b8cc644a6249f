"""Motion vectors of a video codec, and the numbers of motion that people make of them.

FFmpeg gives them beside the pictures (`-flags2 +export_mvs`): for every predicted block the way from where it is shown
to where it was copied from, (motion_x, motion_y) / motion_scale pixels; H.264 counts quarters of a pixel. They reach
backwards or, in B frames, forwards in time (`source` -1 or 1), so only their lengths say how fast something is. Frames
and blocks that are coded by themselves have none.

A vector spans as many frames as lie between the frame and the one that it is predicted from, which FFmpeg does not
say: 1 without B frames, and mostly 4 in P frames of x264's usual settings. `mean_length` does not divide by it, for
nobody does.

Source: FFmpeg, libavutil/motion_vector.h.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from fractions import Fraction

import av
import av.error
import numpy as np
from av.codec.context import Flags2
from av.container import InputContainer
from av.sidedata.motionvectors import MotionVectors
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from jaxmotion.video.container import BadClipError, open_video

USUAL: Mapping[str, str] = {"preset": "medium", "crf": "23"}
"""What `ffmpeg -c:v libx264` does when nothing is said; so most files are made."""
NO_B_FRAMES: Mapping[str, str] = {**USUAL, "bf": "0", "refs": "1"}
"""Each frame is predicted from the one before, as by the hardware encoders that pipelines of data use."""


@dataclasses.dataclass(frozen=True)
class CodecMotion:
    """The motion vectors of a video in three numbers."""

    mean_length: float
    """Pixels from a block to its source: mean over the vectors of a frame, then over the frames that have some."""
    share_of_sides: float
    """Mean over all pixels of a frame of the length, over width + height; then over the frames that have vectors. A
    pixel whose block has no vector counts as 0: `motion_score.global_mean` of NVIDIA's Curator."""
    frames: int
    """Frames that have vectors."""


def read_codec_motion(path: str) -> CodecMotion:
    """Reads the motion vectors in a video file.

    Raises:
        BadClipError: it cannot be read, its codec gives no vectors, or every frame is coded by itself.
    """
    with open_video(path) as (container, stream):
        return _summarize(container, stream)


def encode_codec_motion(
    video: UInt8[np.ndarray, "T H W 3"], options: Mapping[str, str] = USUAL, rate: float = 24.0
) -> CodecMotion:
    """Encodes frames as H.264 and returns the motion of its vectors; an odd row or column is left out.

    Args:
        video: frames of 16 pixels or more a side.
        options: of libx264.
        rate: frames per second, by which x264 shares out its bits.

    Raises:
        ValueError: FFmpeg is built without libx264.
    """
    height, width = (side // 2 * 2 for side in video.shape[1:3])
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="nut") as container:
            stream = container.add_stream("libx264", Fraction(rate).limit_denominator(1000), dict(options))
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for picture in video[:, :height, :width]:
                container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise ValueError(f"H.264 cannot be written here ({error.strerror}); FFmpeg needs libx264.") from error
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        return _summarize(container, container.streams.video[0])


def _summarize(container: InputContainer, stream: VideoStream) -> CodecMotion:
    """Decodes a stream and returns the means over its frames."""
    stream.codec_context.flags2 |= Flags2.export_mvs
    lengths, shares, decoded = [], [], 0
    for frame in container.decode(stream):
        decoded += 1
        found = next((each for each in frame.side_data if isinstance(each, MotionVectors)), None)
        vectors = None if found is None else found.to_ndarray()
        if vectors is None or not len(vectors):
            continue
        length = np.hypot(vectors["motion_x"], vectors["motion_y"]) / vectors["motion_scale"]
        lengths.append(float(length.mean()))
        place = vectors["dst_y"].astype(int) * 2**16 + vectors["dst_x"]
        _, one_each = np.unique(place, return_index=True)  # a block of a B frame may have a vector either way
        area = vectors["w"].astype(float) * vectors["h"]
        mean = float((length * area)[one_each].sum()) / (frame.width * frame.height)
        shares.append(mean / (frame.width + frame.height))
    if not lengths:
        codec = stream.codec_context.name
        raise BadClipError(
            f"no motion vectors in {decoded} frames ({codec}): FFmpeg gives those of H.264, MPEG-4, MPEG-1 and -2, and "
            "files whose frames are all coded by themselves have none"
        )
    return CodecMotion(float(np.mean(lengths)), float(np.mean(shares)), len(lengths))
