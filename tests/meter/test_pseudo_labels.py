"""Tracks, cameras, objects and pseudo-labels, against clips whose motion is known."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.meter.baselines import BASELINES
from jaxmotion.meter.camera import CameraMotion, dominant_move, fit_camera, residuals
from jaxmotion.meter.estimate import Clip
from jaxmotion.meter.objects import annotated_masks, decode_rle, moving_points, points_on, read_masks
from jaxmotion.meter.pseudo_labels import PseudoLabeller
from jaxmotion.meter.raft_tracks import RaftTracks
from jaxmotion.meter.tracks import LucasKanade, Tracks, grid_points

SIZE = (192, 256)
PAN = SyntheticClips(
    frames=5,
    size=SIZE,
    camera=("pan",),
    camera_speed=(0.1, 0.1),
    object_counts=(0,),
    ground_truth=("camera_speed", "object_speed", "flow", "masks"),
    seed=4,
)
WALK = dataclasses.replace(
    PAN, object_counts=(1,), objects=("translate",), object_speed=(0.15, 0.15), object_size=(0.3, 0.3)
)


def exact(example):
    """The tracks of a clip whose flow is known."""
    flow = example["flow"]
    start, grid = grid_points(*SIZE)
    columns, rows = start[:, 0].astype(int), start[:, 1].astype(int)
    end = start + flow[:, rows, columns]
    return Tracks(np.broadcast_to(start, end.shape), end, np.ones(end.shape[:2], bool), grid)


@pytest.mark.parametrize("index", range(3))
def test_lucas_kanade_follows_points(index) -> None:
    example = PAN.open().example(index)
    tracks = LucasKanade()(example["video"])
    true = exact(example)
    assert tracks.valid.mean() > 0.3  # the rest shows too little, or leaves the picture
    off = np.linalg.norm(tracks.end - true.end, axis=-1)[tracks.valid]
    assert np.median(off) < 0.1  # pixels; the search stops at a hundredth, pictures are rounded to 1 in 255


def test_raft_follows_points(shared_weights) -> None:
    example = PAN.open().example(0)
    tracks = RaftTracks(str(shared_weights / "raft_small.safetensors"))(example["video"][:3])
    off = np.linalg.norm(tracks.end - exact(example).end[:2], axis=-1)[tracks.valid]
    assert tracks.valid.mean() > 0.6
    assert np.median(off) < 0.5  # pixels; the small network's flow is found at an eighth of the size


def test_tracks_need_a_raft(shared_weights) -> None:
    with pytest.raises(ValueError, match="of no known format"):
        RaftTracks(str(shared_weights / "taef2_encoder.safetensors"))(PAN.open().example(0)["video"][:2])


@pytest.mark.parametrize("kind", ["pan", "zoom", "roll"])
def test_the_camera_behind_exact_tracks_is_the_one_that_was_drawn(kind) -> None:
    example = dataclasses.replace(PAN, camera=(kind,)).open().example(1)
    camera = fit_camera(exact(example), SIZE)
    assert camera.displacement().mean() * 8 == pytest.approx(float(example["camera_speed"]), rel=0.02)
    moves = camera.moves()
    names = {"pan": ("pan", "tilt"), "zoom": ("zoom",), "roll": ("roll",)}
    assert dominant_move(moves, np.full(4, 1 / 8), 0.1) in names[kind]


def test_a_camera_that_stands_still_is_static() -> None:
    start, grid = grid_points(*SIZE)
    still = Tracks(np.stack([start] * 3), np.stack([start] * 3), np.ones((3, len(start)), bool), grid)
    camera = fit_camera(still, SIZE)
    assert camera.displacement().max() < 1e-6
    assert dominant_move(camera.moves(), np.full(3, 1 / 8), 0.0) == "static"


def test_what_moves_by_itself_is_what_was_drawn_to() -> None:
    example = WALK.open().example(2)
    tracks = exact(example)
    camera = fit_camera(tracks, SIZE)
    left = np.linalg.norm(residuals(tracks, camera), axis=-1) / np.hypot(*SIZE)
    found, drawn = moving_points(left, tracks), points_on(tracks, example["masks"].any(0))
    assert drawn.any()
    assert (found == drawn).mean() > 0.97


def test_a_single_point_astray_is_noise() -> None:
    left = np.zeros((1, 14 * 24))
    left[0, 100] = 0.1
    start, grid = grid_points(*SIZE)
    tracks = Tracks(start[None], start[None], np.ones((1, len(start)), bool), grid)
    assert not moving_points(left, tracks).any()


@pytest.mark.parametrize("given", [False, True], ids=["segmented", "masks"])
def test_labels_are_near_the_truth(given) -> None:
    example = WALK.open().example(2)
    masks = (lambda video: example["masks"].any(0),) if given else ()
    estimate = PseudoLabeller(masks=masks)([Clip.at(example["video"], 8)])[0]
    assert estimate.camera_speed == pytest.approx(float(example["camera_speed"]), rel=0.1)
    assert estimate.object_speed == pytest.approx(float(example["object_speed"]), rel=0.25)


def test_labels_know_no_frame_rate() -> None:
    example = dataclasses.replace(PAN, frames=17, fps=32.0).open().example(0)
    fast = PseudoLabeller()([Clip.at(example["video"], 32)])[0]
    slow = PseudoLabeller()([Clip.at(example["video"][::4], 8)])[0]
    assert fast == slow


def test_run_lengths_are_columns() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1:, 1] = True
    counts = [4, 2, 6]
    np.testing.assert_array_equal(decode_rle({"counts": counts, "size": [3, 4]}), mask)
    with pytest.raises(ValueError, match="do not fill 3 x 4"):
        decode_rle({"counts": [1, 2], "size": [3, 4]})
    with pytest.raises(ValueError, match="compressed"):
        decode_rle({"counts": "abc", "size": [3, 4]})


def test_annotations_of_a_real_video_are_masks(shared_data) -> None:
    listed = json.loads((shared_data / "ytvis2021" / "train" / "instances.json").read_text())
    video = next(each for each in listed["videos"] if each["file_names"][0].startswith("car_shadow"))
    mine = [each for each in listed["annotations"] if each["video_id"] == video["id"]]
    masks = annotated_masks(mine, len(video["file_names"]))
    areas = mine[0]["areas"]
    assert masks.shape[1:] == (video["height"], video["width"])
    assert [int(mask.sum()) for mask in masks] == [int(area or 0) for area in areas]


def test_masks_come_from_files(tmp_path) -> None:
    masks = np.zeros((2, 3, 8, 9), bool)
    masks[0, 1, 2:4] = masks[1, 1, 5:] = True
    np.savez(tmp_path / "masks.npz", masks=masks)
    np.testing.assert_array_equal(read_masks(tmp_path / "masks.npz"), masks.any(0))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for t, mask in enumerate(masks.any(0)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{t:05}.png")
    np.testing.assert_array_equal(read_masks(folder), masks.any(0))
    np.savez(tmp_path / "two.npz", a=masks, b=masks)
    with pytest.raises(ValueError, match="must hold one array"):
        read_masks(tmp_path / "two.npz")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_rise_with_motion_and_know_no_frame_rate(name) -> None:
    meter = BASELINES[name]()
    slow, fast = (
        dataclasses.replace(PAN, frames=9, camera_speed=(speed, speed)).open().example(0)["video"]
        for speed in (0.02, 0.15)
    )
    still = np.stack([slow[0]] * 9)
    estimates = meter([Clip.at(video, 8) for video in (still, slow, fast)])
    speeds = [estimate.camera_speed for estimate in estimates]
    assert speeds[0] == pytest.approx(0, abs=2e-3)
    assert speeds[0] < speeds[1] < speeds[2]
    doubled = meter([Clip.at(np.repeat(fast, 2, 0), 16)])[0]
    assert doubled.camera_speed == pytest.approx(speeds[2], rel=1e-6)


def test_moves_are_what_each_alone_does_to_the_corners() -> None:
    height, width = SIZE
    diagonal = np.hypot(*SIZE)
    middle = np.array([width, height]) / 2
    zoom = np.eye(2) * 1.1
    maps = np.stack(
        [
            np.concatenate([np.eye(2), [[0.1 * diagonal], [0]]], -1),
            np.concatenate([zoom, (middle - zoom @ middle)[:, None]], -1),
        ]
    )
    camera = CameraMotion(maps, np.ones((2, 1), bool), SIZE)
    np.testing.assert_allclose(camera.moves(), [[0.1, 0, 0, 0], [0, 0, 0.05, 0]], atol=1e-9)
    np.testing.assert_allclose(camera.displacement(), [0.1, 0.05], rtol=1e-9)
