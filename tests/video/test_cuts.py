"""Cuts are found, and what only looks like one is not."""

import itertools

import numpy as np
import pytest
from PIL import Image
from skimage import data

from jaxmotion.meter.windows import WindowSpec, decode_windows, plan_windows
from jaxmotion.video.cuts import find_cuts, split_at_cuts

SIZE = (72, 128)


def photo(name: str) -> np.ndarray:
    picture = getattr(data, name)()
    return np.asarray(Image.fromarray(picture[..., :3]).resize((384, 216)))


def pan(name: str, frames: int, step: int = 2) -> np.ndarray:
    """A pan by so many pixels a frame; 147 are a diagonal."""
    return np.stack([photo(name)[60 : 60 + SIZE[0], step * t : step * t + SIZE[1]] for t in range(frames)])


NAMES = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry", "retina")


@pytest.mark.parametrize("pair", list(itertools.permutations(NAMES, 2))[::2], ids="-".join)
def test_a_cut_is_found_where_it_is(pair) -> None:
    first, second = (pan(name, 8) for name in pair)
    assert find_cuts(np.concatenate([first[:5], second])) == [5]
    assert find_cuts(np.concatenate([first, second[:1]])) == [8]
    assert [len(shot) for shot in split_at_cuts(np.concatenate([first[:5], second[:3]]))] == [5, 3]


@pytest.mark.parametrize("name", NAMES)
def test_pans_flashes_and_fades_are_no_cuts(name) -> None:
    slow = pan(name, 16).astype(np.float32)
    assert find_cuts(pan(name, 14, step=18)) == []  # a diagonal a second, at 8 frames a second
    flash = slow.copy()
    flash[6] = 255
    flash[7] = np.clip(2.5 * flash[7] + 60, 0, 255)
    assert find_cuts(flash.astype(np.uint8)) == []
    dark = slow * np.linspace(1, 0, 16)[:, None, None, None]
    assert find_cuts(dark.astype(np.uint8)) == []
    assert find_cuts(dark[::-1].astype(np.uint8)) == []
    half = (slow * np.where(np.arange(16) < 8, 1.0, 0.4)[:, None, None, None]).astype(np.uint8)
    assert find_cuts(half) == []  # the light goes out


def test_two_shots_with_black_between_are_two() -> None:
    black = np.zeros((3, *SIZE, 3), np.uint8)
    video = np.concatenate([pan("astronaut", 6), black, pan("coffee", 6)])
    assert find_cuts(video) == [9]


def test_real_clips_have_none(shared_data) -> None:
    spec = WindowSpec(canvas=lambda height, width: (72, 128), cuts=True)
    found = {}
    for path in sorted((shared_data / "clips").glob("*.mp4"))[::4]:
        groups = plan_windows(str(path), spec, 4).groups
        found[path.name] = sum(decode_windows(str(path), group, spec).cuts for group in groups)
    assert len(found) > 5
    assert set(found.values()) == {0}
