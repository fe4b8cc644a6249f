"""Both measures are 0 on a still clip and grow with known motion, as the paper's intensity orders it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from jaxmotion.evaluation.measures import MEASURES, GeneratedClips, flow_speed, ssim_change
from jaxmotion.systems.livephoto.intensity import ssim_intensity
from jaxmotion.video import motion_scale

SHIFTS = (0, 1, 2, 3)
FRAMES = 5


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """uint8 [4 5 48 64 3]: a texture that moves right by 0, 1, 2, 3 pixels a frame."""
    texture = np.random.default_rng(0).uniform(0, 255, (48, 64 + 3 * FRAMES, 3))
    texture = gaussian_filter(texture, (2, 2, 0))
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    moved = [[texture[:, 12 - s * t : 12 - s * t + 64] for t in range(FRAMES)] for s in SHIFTS]
    return np.array(moved).astype(np.uint8)


def test_ssim_change_is_one_minus_the_mean_ssim(clips: np.ndarray) -> None:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [
        1 - np.mean([structural_similarity(a, b, **options) for a, b in itertools.pairwise(clip)]) for clip in clips
    ]
    assert np.abs(ssim_change(GeneratedClips(clips, 8.0)) - expected).max() < 1e-3
    assert ssim_change(GeneratedClips(clips, 8.0))[0] == pytest.approx(0.0, abs=1e-6)


def test_ssim_change_orders_clips_as_the_paper_does(clips: np.ndarray) -> None:
    intensity = np.asarray(ssim_intensity(clips))
    assert np.abs(ssim_change(GeneratedClips(clips, 8.0)) - (1 - intensity * FRAMES / (FRAMES - 1))).max() < 1e-5
    assert np.all(np.diff(ssim_change(GeneratedClips(clips, 8.0))) > 0)


def test_many_clips_are_measured_as_one(clips: np.ndarray) -> None:
    many = np.concatenate([clips] * 3)[:11]
    assert np.allclose(
        ssim_change(GeneratedClips(many, 8.0)), np.tile(ssim_change(GeneratedClips(clips, 8.0)), 3)[:11], atol=1e-5
    )


def test_flow_speed_is_diagonals_per_second(clips: np.ndarray) -> None:
    for fps in (8.0, 24.0):
        expected = np.array(SHIFTS) * fps / math.hypot(48, 64)
        assert np.abs(flow_speed(GeneratedClips(clips, fps)) - expected).max() < 0.15 * expected[1]


def test_tracked_speeds_are_scores_of_what_moved(clips: np.ndarray) -> None:
    """A texture that moves as a whole: the camera has its speed, the object beside it none."""
    pytest.importorskip("cv2")
    mask = np.zeros((48, 64), bool)
    mask[18:30, 26:38] = True
    seen = GeneratedClips(clips, 8.0, mask)
    expected = motion_scale.score(np.array(SHIFTS) * 8.0 / math.hypot(48, 64))
    np.testing.assert_allclose(MEASURES["camera_speed"].compute(seen), expected, atol=0.15)
    np.testing.assert_allclose(MEASURES["object_speed"].compute(seen), 1.0, atol=0.3)
    assert seen.tracked_scores is seen.tracked_scores  # tracked once for both


def test_measures_of_one_unit_have_one_range() -> None:
    by_unit = {measure.unit: measure.limits for measure in MEASURES.values()}
    assert all(measure.limits == by_unit[measure.unit] for measure in MEASURES.values())
