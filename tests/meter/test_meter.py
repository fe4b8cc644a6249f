"""The meter in the package: the same clip gets the same scores in any form, and real clips come in the right order."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.meter import benchmark as trials
from jaxmotion.meter import meter, ranking, windows
from jaxmotion.meter.estimate import Clip, average_estimates
from jaxmotion.meter.meter import estimate_motion
from jaxmotion.video import motion_scale as unit
from jaxmotion.video.encode import write_mp4
from jaxmotion.video.pairs import read_pairs

PAIRS = Path(__file__).parent / "real_pairs.csv"


@pytest.fixture(scope="module")
def shipped():
    return meter.packaged_meter()


CLEAR = dataclasses.replace(trials.CLEAR, speed_profiles=("even", "ramp", "sway"), sprites=("travel", "turn", "bend"))


@pytest.fixture(scope="module")
def fast():
    """Two seconds at 120 frames a second, of which every usual rate is a part: frames of six worlds."""
    sampler = dataclasses.replace(CLEAR, frames=240, fps=120.0, fps_spread=1.0).sampler()
    return [clip["video"] for clip in sampler.clips(6)]


@pytest.fixture(scope="module")
def large():
    """Two seconds at 8 frames a second and 512 pixels wide: frames and true scores of six worlds."""
    sampler = dataclasses.replace(CLEAR, size=(288, 512), fps_spread=1.0).sampler()
    examples = list(sampler.clips(6))
    return [(each["video"], (float(each["object"]), float(each["camera"]))) for each in examples]


def scores(estimate):
    return np.array([unit.score(estimate.object_speed), unit.score(estimate.camera_speed)])


def test_scores_know_no_frame_rate(shipped, fast) -> None:
    for video in fast:
        read = np.array([scores(shipped([Clip.at(video[:: 120 // fps], fps)])[0]) for fps in (8, 12, 24, 30)])
        assert np.ptp(read, axis=0).max() < 0.5


def test_scores_know_no_resolution(shipped, large) -> None:
    for video, _ in large:
        read = []
        for width in (128, 192, 256, 384, 512):
            size = (width, round(width * 288 / 512))
            shrunk = np.stack(
                [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in video]
            )
            read.append(scores(shipped([Clip.at(shrunk, 8)])[0]))
        assert np.ptp(np.array(read), axis=0).max() < 0.5


def test_scores_are_near_the_truth_of_clear_worlds(large) -> None:
    off = np.array([np.abs(scores(estimate_motion(video, fps=8)) - truth) for video, truth in large])
    assert off[:, 1].max() < 1.0
    assert np.median(off[:, 0]) < 1.0


def test_a_picture_on_its_side_moves_as_fast_and_tilts_instead_of_panning(shipped, large) -> None:
    video, _ = large[1]
    clip = Clip.at(video, 8)
    turned = dataclasses.replace(clip, video=np.ascontiguousarray(clip.video.swapaxes(1, 2)))
    upright, lying = shipped([clip])[0], shipped([turned])[0]
    # resizing rounds to whole grey levels along one axis after the other
    np.testing.assert_allclose(scores(lying), scores(upright), atol=0.1)
    swapped = {"pan": "tilt", "tilt": "pan"}
    assert lying.move == swapped.get(upright.move, upright.move)


@pytest.fixture(scope="module")
def pans(tmp_path_factory):
    """Five seconds at 8 frames a second, of which one second pans by half a diagonal, from these seconds on: files."""
    photo = np.asarray(Image.fromarray(data.rocket()).resize((700, 500)))
    folder, found = tmp_path_factory.mktemp("pans"), {}
    for start in (0, 1.5, 2, 4):
        left = np.rint(np.clip(np.arange(40) / 8 - start, 0, 1) * 0.5 * np.hypot(144, 256)).astype(int)
        video = np.stack([photo[200:344, x : x + 256] for x in left])
        write_mp4(folder / f"{start}.mp4", video, 8)
        found[start] = (video, folder / f"{start}.mp4")
    return found


def test_a_second_of_motion_counts_alike_wherever_it_is(pans) -> None:
    """No step is left out, none counts twice: not at the ends of windows either. The truth is 5.10."""
    truth = float(unit.score(0.5 / 5))
    found = {start: float(scores(estimate_motion(video, fps=8))[1]) for start, (video, _) in pans.items()}
    assert found == pytest.approx(dict.fromkeys(found, truth), abs=0.5)


def test_the_command_says_what_the_call_says(shipped, pans) -> None:
    spec = windows.WindowSpec(canvas=meter.canvas)
    for video, path in pans.values():
        plan = windows.plan_windows(str(path), spec, 0)
        (group,) = plan.groups
        clips = windows.decode_windows(str(path), group, spec).clips
        assert [len(clip.video) for clip in clips] == [14, 14, 14]
        told = average_estimates(shipped(clips), [window.weight for window in group])
        np.testing.assert_allclose(scores(told), scores(estimate_motion(video, fps=8)), atol=0.1)


def test_a_cut_is_no_motion(shipped, tmp_path) -> None:
    """Two stills, one after the other, in the call and in the command; without looking for cuts they seem to move."""
    still = [np.asarray(Image.fromarray(photo).resize((256, 144))) for photo in (data.rocket(), data.coffee())]
    video = np.stack([still[t >= 9] for t in range(18)])
    assert scores(estimate_motion(video, fps=8)).max() < 1.5
    assert scores(estimate_motion(video, fps=8, cuts=False)).max() > 2
    write_mp4(tmp_path / "cut.mp4", video, 8)
    spec = windows.WindowSpec(canvas=meter.canvas, cuts=True)
    (group,) = windows.plan_windows(str(tmp_path / "cut.mp4"), spec, 0).groups
    decoded = windows.decode_windows(str(tmp_path / "cut.mp4"), group, spec)
    assert decoded.cuts == 1
    assert [len(clip.video) for clip in decoded.clips] == [9, 9]


def test_a_still_clip_stands_still(shipped) -> None:
    frame = ClutteredScenes(split="held_out", size=(144, 256), frames=2).open().example(0)["video"][0]
    estimate = shipped([Clip.at(np.stack([frame] * 16), 8)])[0]
    assert scores(estimate).max() < 1.5
    assert estimate.move == "static"


def test_clips_of_one_batch_do_not_know_each_other(shipped, large) -> None:
    clips = [Clip.at(video, 8) for video, _ in large]
    together, alone = shipped(clips), [shipped([clip])[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-3)


def test_two_frames_are_enough_and_one_is_not(shipped, large) -> None:
    video, _ = large[0]
    assert np.isfinite(scores(shipped([Clip.at(video[:2], 8)])[0])).all()
    with pytest.raises(ValueError, match="at least 2 frames; this clip has 1"):
        estimate_motion(video[:1], fps=8)
    with pytest.raises(ValueError, match="frame rate is 0"):
        estimate_motion(video[:4], fps=0)
    with pytest.raises(ValueError, match="uint8"):
        estimate_motion(video[:4].astype(np.float32), fps=8)


def test_sizes_keep_their_shape() -> None:
    assert meter.canvas(1080, 1920) == (144, 256)
    assert meter.canvas(1920, 1080) == (256, 144)
    assert meter.canvas(500, 500) == (192, 192)
    for height, width in ((480, 640), (816, 1920), (240, 426)):
        tall, wide = meter.canvas(height, width)
        assert abs(np.log(wide / tall / (width / height))) < 0.15


def test_weights_are_small_and_say_what_they_are() -> None:
    assert meter.WEIGHTS.stat().st_size <= 8_000_000
    assert meter.packaged_meter().name.startswith("motion_meter-")


def test_weights_that_are_none_are_refused(tmp_path) -> None:
    from safetensors.numpy import save_file

    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, other)
    with pytest.raises(ValueError, match="no motion estimator"):
        meter.load_meter(other)


def test_real_clips_come_in_the_order_people_see(shipped, shared_data) -> None:
    """`real_pairs.csv` was judged by eye from frames of the clips before any meter had been run on them."""
    clips = shared_data / "clips"
    pairs = read_pairs(PAIRS)
    names, judged = trials.index_pairs(pairs)
    spec = windows.WindowSpec(canvas=meter.canvas)
    found = np.array([scores(shipped([trials.whole_clip(clips / name, spec)])[0]) for name in names])
    for index in range(2):
        right = ranking.pairs_right(found[:, index], ranking.judged_pairs(judged, index))
        assert right["pairs"] > 60
        assert right["right"] >= 0.8
        assert right["right_hard"] >= 0.78
