"""Tables between our scores and other people's numbers."""

import av
import numpy as np
import pytest

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.meter import conversion, peers
from jaxmotion.meter.estimate import Clip

MEASURED = [name for name, peer in peers.PEERS.items() if peer.measure is not None]


def numbers(count=200):
    """Clips in which objects and camera go at speeds of their own, and peers whose number is a square of both."""
    rng = np.random.default_rng(0)
    both = rng.uniform(1, 10, count)
    noise = rng.normal(0, 0.2, (len(MEASURED) + 2, count))
    return {
        "both": both,
        "object": both / 2 + noise[0],
        "camera": both / 3 + noise[1],
        **{peer: both**2 + noise[2 + place] for place, peer in enumerate(MEASURED)},
    }


@pytest.fixture(scope="module")
def tables():
    """Tables of a known relation, with a check on other clips of it."""
    return conversion.fit(numbers(), numbers(60))


@pytest.mark.parametrize("both", [3.0, 5.0, 8.0])
def test_a_known_relation_is_found_both_ways(tables, both) -> None:
    low, median, high = conversion.convert(both**2, "vmaf", tables)["both"]
    assert low < median < high
    assert median == pytest.approx(both, abs=0.3)
    assert conversion.convert_back(both, "vmaf", tables)[1] == pytest.approx(both**2, rel=0.12)
    assert conversion.convert_back(both / 2, "vmaf", tables, "object")[1] == pytest.approx(both**2, rel=0.2)


def test_tables_rise(tables) -> None:
    for table in tables["ssim"]["to_ours"].values():
        assert (np.diff(table["median"]) >= 0).all()


def test_tables_say_what_they_know(tables) -> None:
    """A square of both scores, hardly disturbed: ranks agree, and the way there and back leads home."""
    codec = tables["codec"]
    assert codec["rho"]["both"] > 0.99 > codec["rho"]["object"]
    assert codec["round_trip"]["both"] < 0.5
    assert codec["spread"]["both"] < 0.7
    assert codec["real"]["both"]["inside"] > 0.8
    assert abs(codec["real"]["both"]["off"]) < 0.2


def test_where_one_axis_stands_still_the_other_is_known() -> None:
    rng = np.random.default_rng(0)
    still = np.arange(200) % 2 == 0
    score = rng.uniform(2, 10, 200)
    ours = {"object": score, "camera": np.where(still, 1.0, rng.uniform(2, 10, 200)), "both": score}
    number = np.where(still, score, rng.uniform(0, 10, 200))  # where the camera moves it says nothing
    table = conversion.fit_pairs("pas", {"number": number}, ours)
    low, median, high = conversion.convert_alone(5.0, "pas", {"pas": table})["object"]
    assert median == pytest.approx(5.0, abs=0.4)
    assert high - low < 2
    assert np.diff(conversion.convert(5.0, "pas", {"pas": table})["object"][::2])[0] > 3
    assert "camera" not in table["alone"]  # too few clips whose objects stand still


def test_the_package_has_a_table_for_every_peer() -> None:
    tables = conversion.load()
    for name, peer in peers.PEERS.items():
        axis = "both" if name in MEASURED else "object"
        at = tables[name]["to_ours"][axis]["at"]
        slow, fast = (conversion.convert(at[place], name, tables)[axis][1] for place in (0, -1))
        assert 1 <= slow < fast <= 10
        assert set(tables[name]["to_ours"]) == {axis for told in peer.tells.values() for axis in told}


@pytest.mark.parametrize("peer", ["codec", "curator", "farneback"])
@pytest.mark.parametrize("both", [4.0, 5.5, 7.0])
def test_there_and_back_leads_nearly_home(peer, both) -> None:
    """With the tables in the package, of peers that know both speeds together; a median of medians is a bit tamer."""
    tables = conversion.load()
    there = conversion.convert_back(both, peer, tables)[1]
    assert conversion.convert(there, peer, tables)["both"][1] == pytest.approx(both, abs=1.0)


def test_kandinskys_numbers_are_joined_to_ours_at_the_ends_axis_by_axis() -> None:
    tables = conversion.load()
    found = conversion.convert({"object": 3.0, "camera": 0.0, "dynamics": 1.0}, "kandinsky", tables)
    assert {axis: median for axis, (_, median, _) in found.items()} == {"object": 10.0, "camera": 1.0}
    assert np.isnan([found["object"][0], found["object"][2]]).all()  # nobody knows the spread
    assert conversion.convert_back(5.5, "kandinsky", tables, "camera")[1] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="kandinsky has no number for both; it has them for object, camera"):
        conversion.convert_back(5.5, "kandinsky", tables)


def test_measured_numbers_are_speeds() -> None:
    """A pan of a textured clip at known speed, for the peers whose numbers are speeds."""
    pytest.importorskip("cv2")
    clip = SyntheticClips(
        frames=17, size=(96, 160), fps=16.0, camera=("pan",), camera_speed=(0.12, 0.12), object_counts=(0,), seed=3
    )
    video = clip.open().example(0)["video"]
    number = {name: peers.PEERS[name].measure(Clip.at(video, 16.0)) for name in ("farneback", "curator", "pas")}
    assert number["curator"] == pytest.approx(0.12, rel=0.35)  # blocks that come in at the edge have no vector
    assert number["pas"] == pytest.approx(0.12, rel=0.1)  # nothing moves by itself: the camera's path
    assert number["farneback"] == pytest.approx(0.12, rel=0.5)


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
    assert peers.vmaf_motion(video, 0.125) == pytest.approx(np.mean(scores[1:]), rel=0.02)


def test_too_few_clips_and_unknown_numbers_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="needs 40 clips"):
        conversion.fit(numbers(10))
    with pytest.raises(ValueError, match="no table for 'svd'"):
        conversion.convert(1.0, "svd", {})
    with pytest.raises(ValueError, match=r"tables.json holds no tables of conversion; `convert fit` writes them"):
        conversion.load(write(tmp_path / "tables.json", "[]"))
    with pytest.raises(ValueError, match=r"tables.json holds no tables of conversion"):
        conversion.load(write(tmp_path / "tables.json", '{"vmaf": {"to_ours": {}}}'))


def write(path, text):
    path.write_text(text)
    return path
