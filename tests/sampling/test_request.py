"""Photos of every kind become the picture they show; what cannot be is said clearly."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Noise, Sampling
from jaxmotion.sampling.request import Request
from jaxmotion.video.images import fit, load_image, load_photo

RED, HALF = (200, 30, 40), 128


def save(picture: Image.Image, path: Path, **options) -> Path:
    picture.save(path, **options)
    return path


@pytest.fixture
def scene() -> np.ndarray:
    """A smooth picture of 40 x 60 whose four quarters differ."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 4], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".gif", ".jpg"])
def test_formats_show_the_same_picture(tmp_path: Path, scene: np.ndarray, suffix: str) -> None:
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 98, "subsampling": 0}}.get(suffix, {})
    loaded = load_image(save(Image.fromarray(scene), tmp_path / f"a{suffix}", **options))
    assert np.abs(loaded.astype(int) - scene).mean() < {".jpg": 2, ".gif": 12}.get(suffix, 0.01)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 4), np.uint8)
    colour[..., :3], colour[:2, :, 3], colour[2:, :, 3] = RED, 0, 255
    rgba = load_image(save(Image.fromarray(colour), tmp_path / "rgba.png"))
    assert rgba[0, 0].tolist() == [255, 255, 255]
    assert rgba[3, 3].tolist() == list(RED)
    half = np.full((4, 4, 2), (100, HALF), np.uint8)
    grey = load_image(save(Image.fromarray(half, "LA"), tmp_path / "la.png"))
    assert np.abs(grey.astype(int) - round(100 * HALF / 255 + 255 * (1 - HALF / 255))).max() <= 1


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2) // 2, "P")
    picture.putpalette([*RED, 10, 20, 30])
    loaded = load_image(save(picture, tmp_path / "p.png", transparency=0))
    assert loaded[0, 0].tolist() == [255, 255, 255]
    assert loaded[1, 1].tolist() == [10, 20, 30]


def test_grey_black_and_white_and_cmyk(tmp_path: Path) -> None:
    grey = load_image(save(Image.new("L", (3, 2), 77), tmp_path / "l.png"))
    assert np.all(grey == 77)
    assert grey.shape == (2, 3, 3)
    assert np.all(load_image(save(Image.new("1", (3, 2), 1), tmp_path / "1.png")) == 255)
    cmyk = load_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=95))
    assert np.abs(cmyk.astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257 * 64, 257 * 128, 65535]], np.uint16)
    loaded = load_image(save(Image.fromarray(values), tmp_path / f"deep{suffix}"))
    assert loaded[0, :, 0].tolist() == [0, 64, 128, 255]


def test_wide_greys(tmp_path: Path) -> None:
    floats = save(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), tmp_path / "f.tiff")
    assert load_image(floats)[0, :, 1].tolist() == [0, 128, 255]
    whole = save(Image.fromarray(np.array([[0, 51, 255]], np.int32)), tmp_path / "i.tiff")
    assert load_image(whole)[0, :, 1].tolist() == [0, 51, 255]
    large = save(Image.fromarray(np.array([[0, 100_000, 200_000]], np.int32)), tmp_path / "large.tiff")
    assert load_image(large)[0, :, 1].tolist() == [0, 128, 255]


def test_exif_turns_the_photo(tmp_path: Path, scene: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    loaded = load_image(save(Image.fromarray(scene), tmp_path / "turned.png", exif=exif))
    assert np.array_equal(loaded, np.rot90(scene, -1))


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.all(load_image(path) == RED)


def test_fit_takes_the_centre_and_keeps_the_shape_of_things() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 40:60] = 255  # a square in the middle
    fitted = fit(image, (30, 30))
    assert fitted.shape == (30, 30, 3)
    bright = fitted[..., 0] > 127
    assert bright.sum(0).max() == bright.sum(1).max() == 10
    assert bright[10:20, 10:20].all()
    assert np.array_equal(fit(image, (60, 100)), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 5)])
def test_any_size_fits(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(Image.new("RGB", shape[::-1], RED), tmp_path / "small.png")
    assert np.all(load_photo(path, (32, 48)) == RED)
    assert load_photo(path, (32, 48)).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"Dear reader, this is no picture.\n", "a text file that starts with 'Dear reader"),
        ("empty.jpg", b"", "empty"),
        ("clip.png", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video"),
        ("phone.jpg", b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "a HEIC/AVIF photo"),
        ("paper.png", b"%PDF-1.7\n", "a PDF"),
        ("noise.png", bytes(range(256)), "unknown data"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="JPEG, PNG") as error:
        load_image(tmp_path / name)
    assert said in str(error.value)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".jpg"])
def test_photos_of_phones_are_read_like_jpeg(tmp_path: Path, suffix: str) -> None:
    """Within what their lossy codecs do; a photo that was held upright is shown upright."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    rows, columns = np.mgrid[0:64, 0:96]
    scene = np.stack([2 * rows + 40, columns + 60, np.full_like(rows, 90)], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise to be shown
    kind = "AVIF" if suffix == ".avif" else "HEIF"  # .jpg: as some apps rename what they do not convert
    path = tmp_path / f"IMG_0001{suffix}"
    Image.fromarray(scene).save(path, kind, exif=exif.tobytes(), quality=95)  # HEIF: as `irot`, too
    loaded = load_image(path)
    assert loaded.shape == (96, 64, 3)
    assert np.abs(loaded.astype(int) - np.rot90(scene, -1)).max() <= 8
    assert load_photo(path, (32, 32)).shape == (32, 32, 3)


def test_a_heic_photo_names_the_extra_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ValueError, match=r"IMG_0001\.HEIC"):
        load_image(tmp_path / "IMG_0001.HEIC")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"needs pillow-heif: pip install 'jaxmotion\[heif\]'"):
        load_image(tmp_path / "IMG_0001.HEIC")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_broken_pictures_are_errors_that_name_the_file(tmp_path: Path, scene: np.ndarray, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(scene).save(file, kind)
    whole, path = file.getvalue(), tmp_path / "broken.png"
    rng = np.random.default_rng(0)
    for cut in (9, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"broken\.png"):
            load_image(path)
    for _ in range(60):  # with bytes turned over it is either still a picture, or an error that names the file
        spoilt = np.frombuffer(whole, np.uint8).copy()
        spoilt[rng.integers(0, len(spoilt), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(spoilt.tobytes())
        try:
            assert load_image(path).shape[-1] == 3
        except ValueError as error:
            assert "broken.png" in str(error)  # noqa: PT017


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("1", (3000, 2000)), tmp_path / "huge.png")
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    with pytest.raises(ValueError, match=r"huge\.png has more than 4 million pixels; shrink it"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)  # above the limit, below twice the limit: large, but fine
    assert load_image(path).shape == (2000, 3000, 3)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is a folder"):
        load_image(tmp_path)


def test_real_photos(shared_data: Path) -> None:
    photos = sorted((shared_data / "images").glob("*.jpg"))
    assert len(photos) >= 10
    for photo in photos:
        assert load_photo(photo, (32, 32)).std() > 5
    with pytest.raises(ValueError, match="a text file"):
        load_photo(shared_data / "bad" / "not_a_video.mp4", (32, 32))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"controls": (1, 5)}, r"values by name.*got \(1, 5\)"),
        ({"seed": -1}, "got -1"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"steps": 0}, "at least one step"),
        ({"guidance": float("nan")}, "guidance"),
        ({"fps": 0.0}, "Frames per second"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Request("a.png", **asked)


def test_a_request_changes_only_what_it_says() -> None:
    default = Sampling(DDIM(25, eta=0.5), guidance=7.5, initial_noise=Noise(), guidance_scales=(("a", 2.0),))
    assert Request("a.png").resolve_sampling(default) == default
    asked = Request("a.png", steps=4, guidance=1.0, guidance_scales={"b": 3.0}).resolve_sampling(default)
    assert asked == dataclasses.replace(
        default, sampler=DDIM(4, eta=0.5), guidance=1.0, guidance_scales=(("a", 2.0), ("b", 3.0))
    )
    other = Sampling(DDIM(7))
    for inversion, given, expected in ((None, None, 50), (10, None, 20), (1, None, 2), (10, 7, 7), (None, 7, 7)):
        run = dataclasses.replace(default, inversion_steps=inversion)
        own = None if given is None else dataclasses.replace(run, inversion_steps=given)
        scaled = Request("a.png", steps=50, sampling=own).resolve_sampling(run)
        assert (scaled.sampler.steps, scaled.count_inversion_steps()) == (50, expected)
    assert Sampling(DDIM(3)).count_inversion_steps() == 3
    assert Request("a.png", sampling=other, guidance=2.0).resolve_sampling(default) == Sampling(DDIM(7), guidance=2.0)
