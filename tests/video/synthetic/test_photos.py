import numpy as np
import pytest
from PIL import Image

from jaxmotion.video.synthetic.photos import HELD_OUT, NOUNS, SKIMAGE_PHOTOS, read_photos, sample_photo


def test_the_splits_of_the_wheel_share_no_photo_and_leave_none_out():
    train, held_out = (read_photos(SKIMAGE_PHOTOS, (), split, 512) for split in ("train", "held_out"))
    names = [photo.name for photo in train.photos]
    others = [photo.name for photo in held_out.photos]
    assert sorted(others) == sorted(HELD_OUT)
    assert sorted(names + others) == sorted(NOUNS)
    assert train.others == tuple(others)


def test_sampling_at_pixel_centres_gives_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    y, x = np.mgrid[:5, :7] + 0.5
    assert (sample_photo(pixels, x, y) == pixels).all()


def test_sampling_between_pixels_by_hand_and_mirrored_beyond_the_edge():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1], pixels[1, 0], pixels[1, 1] = 40, 80, 120
    assert sample_photo(pixels, np.array([0.75]), np.array([0.5]))[0, 0] == 10
    assert sample_photo(pixels, np.array([1.0]), np.array([1.0]))[0, 0] == 60
    inside = sample_photo(pixels, np.array([0.3, 1.6]), np.array([0.4, 1.9]))
    mirrored = sample_photo(pixels, np.array([-0.3, 2.4]), np.array([-0.4, 2.1]))
    np.testing.assert_allclose(inside, mirrored, atol=1e-3)


def test_levels_keep_the_mean_and_are_chosen_by_stride():
    photo = read_photos(SKIMAGE_PHOTOS, (), "held_out", 512).photos[0]
    means = [level.mean() for level in photo.levels]
    np.testing.assert_allclose(means, means[0], atol=1.5)
    assert photo.level_for(1.0) is photo.levels[0]
    assert photo.level_for(4.0).shape[0] == pytest.approx(photo.height / 4, abs=1)
    assert photo.level_for(1e6) is photo.levels[-1]


def test_detail_is_where_the_picture_changes(tmp_path):
    picture = np.full((200, 300, 3), 90, np.uint8)
    picture[:, 200:] = np.random.default_rng(0).integers(0, 256, (200, 100, 1))
    Image.fromarray(picture).save(tmp_path / "half.png")
    photo = read_photos(str(tmp_path), (), "train", 512).photos[0]
    assert photo.detail_within(np.array([0, 0]), np.array([180, 200])) < 1
    assert photo.detail_within(np.array([210, 0]), np.array([300, 200])) > 5


def test_a_folder_of_photos(tmp_path):
    for index in range(12):
        Image.fromarray(np.full((40, 30 + index, 3), index, np.uint8)).save(tmp_path / f"my_photo{index:02d}.png")
    train, held_out = (read_photos(str(tmp_path), (), split, 512) for split in ("train", "held_out"))
    assert [photo.name for photo in held_out.photos] == ["my_photo00", "my_photo10"]
    assert len(train.photos) == 10
    assert train.photos[0].noun == "my photo"
    chosen = read_photos(str(tmp_path), ("my_photo03",), "held_out", 512)
    assert [photo.name for photo in chosen.photos] == ["my_photo03"]
    assert min(read_photos(str(tmp_path), (), "train", 20).photos[0].levels[0].shape[:2]) == 20


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_photos(str(tmp_path / "none"), (), "train", 512)
    with pytest.raises(ValueError, match=r"No photo in .*looked for files ending in"):
        read_photos(str(tmp_path), (), "train", 512)
    with pytest.raises(ValueError, match=r"'mona_lisa'.*not in skimage"):
        read_photos(SKIMAGE_PHOTOS, ("mona_lisa",), "train", 512)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.jpg cannot be read"):
        read_photos(str(tmp_path), (), "train", 512)
