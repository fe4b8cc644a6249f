"""Motion vectors of H.264, against pans whose shift is known."""

from __future__ import annotations

import av
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxmotion.video.codec_vectors import NO_B_FRAMES, USUAL, encode_codec_motion, read_codec_motion
from jaxmotion.video.container import BadClipError

HEIGHT, WIDTH, FRAMES = 96, 160, 13


def pan(shift):
    """A texture that goes by `shift` pixels a frame."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH + FRAMES * 12)), 2)
    texture = np.clip(128 + 120 * texture / np.abs(texture).max(), 0, 255).astype(np.uint8)
    return np.stack([np.repeat(texture[:, t * shift : t * shift + WIDTH, None], 3, -1) for t in range(FRAMES)])


def write(path, video, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 24, {**USUAL, **options})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("shift", [1, 5])
def test_a_vector_is_as_long_as_the_shift(shift) -> None:
    motion = encode_codec_motion(pan(shift), NO_B_FRAMES)
    assert motion.mean_length == pytest.approx(shift, rel=0.05)
    assert motion.share_of_sides == pytest.approx(shift / (WIDTH + HEIGHT), rel=0.1)  # new blocks at the edge have none
    assert motion.frames == FRAMES - 1


def test_with_b_frames_vectors_span_several_frames_and_either_way_counts() -> None:
    video = pan(3)
    assert encode_codec_motion(video).mean_length > 1.2 * encode_codec_motion(video, NO_B_FRAMES).mean_length
    backwards = encode_codec_motion(video[::-1])
    assert backwards.mean_length == pytest.approx(encode_codec_motion(video).mean_length, rel=0.15)


def test_what_stands_still_has_no_length() -> None:
    assert encode_codec_motion(pan(0)).mean_length == 0


def test_a_file_says_the_same_as_its_pictures(tmp_path) -> None:
    video = pan(4)
    read = read_codec_motion(write(tmp_path / "pan.mp4", video))
    assert read.mean_length == pytest.approx(encode_codec_motion(video).mean_length, rel=0.05)


def test_files_without_vectors_are_refused(tmp_path) -> None:
    with pytest.raises(BadClipError, match=r"no motion vectors in 13 frames \(h264\)"):
        read_codec_motion(write(tmp_path / "alone.mp4", pan(4), g="1"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadClipError, match="not a video"):
        read_codec_motion(str(tmp_path / "text.mp4"))
