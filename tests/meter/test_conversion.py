"""Tables between our scores and other people's numbers."""

import av
import numpy as np
import pytest

from jaxmotion.meter import conversion


def numbers(count=200):
    rng = np.random.default_rng(0)
    both = rng.uniform(1, 10, count)
    noise = rng.normal(0, 0.2, (5, count))
    return {
        "both": both,
        "object": both / 2 + noise[0],
        "camera": both / 3 + noise[1],
        **{peer: both**2 + noise[2 + place] for place, peer in enumerate(conversion.PEERS)},
    }


def test_a_known_relation_is_found_both_ways() -> None:
    tables = conversion.fit(numbers())
    for both in (3.0, 5.0, 8.0):
        low, median, high = conversion.convert(both**2, "vmaf", tables)["both"]
        assert low < median < high
        assert median == pytest.approx(both, abs=0.3)
        assert conversion.convert_back(both, "vmaf", tables)[1] == pytest.approx(both**2, rel=0.12)


def test_tables_rise() -> None:
    for table in conversion.fit(numbers())["ssim"]["to_ours"].values():
        assert (np.diff(table["median"]) >= 0).all()


def test_the_package_has_a_table_for_every_peer() -> None:
    tables = conversion.load()
    for peer in conversion.PEERS:
        at = tables[peer]["to_ours"]["both"]["at"]
        slow, fast = (conversion.convert(at[place], peer, tables)["both"][1] for place in (0, -1))
        assert 1 <= slow < fast <= 10


def test_vmaf_motion_is_that_of_ffmpeg() -> None:
    """FFmpeg's filter, where the build has it, on the same luma."""
    if "vmafmotion" not in av.filter.filters_available:
        pytest.skip("this FFmpeg has no vmafmotion filter")
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 255, (3, 32, 48, 1), np.uint8), 3, -1)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=48, height=32, format="gray", time_base="1/8")
    motion, sink = graph.add("vmafmotion"), graph.add("buffersink")
    source.link_to(motion)
    motion.link_to(sink)
    graph.configure()
    scores = []
    for number, frame in enumerate(video):
        picture = av.VideoFrame.from_ndarray(frame[..., 0], format="gray")
        picture.pts = number
        graph.push(picture)
        scores.append(float(graph.pull().metadata["lavfi.vmafmotion.score"]))
    assert conversion.vmaf_motion(video, 0.125) == pytest.approx(np.mean(scores[1:]), rel=0.02)


def test_too_few_clips_and_unknown_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 40 clips"):
        conversion.fit(numbers(10))
    with pytest.raises(ValueError, match="no table for 'svd'"):
        conversion.convert(1.0, "svd", {})
