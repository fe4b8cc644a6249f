"""Patches are found where they went."""

import jax
import numpy as np
import pytest

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.video.patch_matching import CELL, cells, match, mismatch_of

HEIGHT, WIDTH = 96, 160


@pytest.fixture(scope="module")
def matched():
    found = jax.jit(
        lambda a, b: (lambda m: (m[0], mismatch_of(m[1], m[0].flow), mismatch_of(m[1], 0 * m[0].flow)))(match(a, b))
    )
    return lambda a, b: jax.device_get(found(np.asarray(a, np.float32), np.asarray(b, np.float32)))


def picture(shift=(0.0, 0.0), seed=0):
    """A smooth random picture, moved right and down by parts of a pixel without interpolation."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    x, y = x - shift[0], y - shift[1]
    rng = np.random.default_rng(seed)
    fine, coarse = rng.uniform(-0.5, 0.5, (2, 10, 3)) * [1, 1, 12]
    waves = [np.sin(a * x + b * y + c) for a, b, c in (*fine, *(coarse * [0.2, 0.2, 1]))]  # coarse to fine needs both
    return 0.5 + 0.04 * np.sum(waves, 0)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.2), (3.0, 1.5), (-9.0, 4.0)])
def test_a_shift_is_found_to_a_tenth_of_a_pixel(matched, shift) -> None:
    found, _, _ = matched(picture()[None], picture(shift)[None])
    inside = found.flow[0, 2:-2, 2:-2]
    # the finest level has pixels twice as large; a twentieth of its pixel is what such searches reach
    np.testing.assert_allclose(np.median(inside, (0, 1)), shift, atol=0.1)


def test_a_change_of_light_is_no_motion(matched) -> None:
    found, _, _ = matched(picture()[None], picture()[None] + 0.2)
    np.testing.assert_allclose(found.flow, 0, atol=1e-3)
    assert found.mismatch.max() < 1e-3


def test_what_the_patch_shows_fits_its_own_motion_better_than_none(matched) -> None:
    found, own, none = matched(picture()[None], picture((5.0, 2.0))[None])
    np.testing.assert_allclose(own, found.mismatch, atol=1e-6)
    assert np.median(own) < 0.1 * np.median(none)


def test_flat_patches_tell_nothing(matched) -> None:
    flat = np.full((1, HEIGHT, WIDTH), 0.5)
    found, _, _ = matched(flat, flat)
    assert found.texture.max() < 1e-8
    np.testing.assert_allclose(found.flow, 0, atol=1e-6)


def test_known_flow_of_photographs_is_found(matched) -> None:
    source = SyntheticClips(
        frames=2,
        size=(HEIGHT, WIDTH),
        ground_truth=("flow",),
        camera=("pan", "zoom", "roll"),
        camera_speed=(0.05, 0.2),
        object_counts=(0,),
        seed=3,
    ).open()
    off = []
    for index in range(12):
        example = source.example(index)
        grey = example["video"].mean(-1) / 255
        found, _, _ = matched(grey[:1], grey[1:])
        true = example["flow"][0, CELL // 2 :: CELL, CELL // 2 :: CELL]
        off.append(np.median(np.linalg.norm(found.flow[0] - true, axis=-1)))
    assert np.median(off) < 0.2  # pixels; the middle of a clip, of which half of the patches are nearer


def test_cells_lie_about_the_middle() -> None:
    x, y = cells(HEIGHT, WIDTH)
    assert x.shape == y.shape == (HEIGHT // CELL, WIDTH // CELL)
    assert x.sum() == y.sum() == 0
    assert x[0, 0] == -WIDTH / 2 + CELL / 2


def test_sides_that_are_no_multiples_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        match(np.zeros((1, 60, 64), np.float32), np.zeros((1, 60, 64), np.float32))
