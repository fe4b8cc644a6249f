"""Both measures are 0 on a still clip and grow with known motion, as the paper's intensity orders it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from jaxmotion.evaluation.measures import LABELS, MEASURES, flow_speed, ssim_change
from jaxmotion.systems.livephoto.intensity import ssim_intensity

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
    assert np.abs(ssim_change(clips, 8.0) - expected).max() < 1e-3
    assert ssim_change(clips, 8.0)[0] == pytest.approx(0.0, abs=1e-6)


def test_ssim_change_orders_clips_as_the_paper_does(clips: np.ndarray) -> None:
    intensity = np.asarray(ssim_intensity(clips))
    assert np.abs(ssim_change(clips, 8.0) - (1 - intensity * FRAMES / (FRAMES - 1))).max() < 1e-5
    assert np.all(np.diff(ssim_change(clips, 8.0)) > 0)


def test_many_clips_are_measured_as_one(clips: np.ndarray) -> None:
    many = np.concatenate([clips] * 3)[:11]
    assert np.allclose(ssim_change(many, 8.0), np.tile(ssim_change(clips, 8.0), 3)[:11], atol=1e-5)


def test_flow_speed_is_diagonals_per_second(clips: np.ndarray) -> None:
    for fps in (8.0, 24.0):
        expected = np.array(SHIFTS) * fps / math.hypot(48, 64)
        assert np.abs(flow_speed(clips, fps) - expected).max() < 0.15 * expected[1]


def test_every_measure_has_a_name_for_people() -> None:
    assert set(MEASURES) == set(LABELS)
