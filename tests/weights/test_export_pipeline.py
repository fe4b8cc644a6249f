"""The PyTorch files that ship inside an export do what ours do, and refuse what ours refuse."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.process import to_z0_and_eps
from jaxmotion.diffusion.sampler import DDIM, timestep_spacing
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.types import pixels_to_float
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.systems.livephoto import export_parts
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.video.images import fit, load_image
from jaxmotion.weights import diffusers_folder

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


def shipped(name: str, folder: Path = diffusers_folder.CODE) -> ModuleType:
    """A file of the exported folder as a module."""
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    return shipped("pipeline", export_parts.CODE)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def colours(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(90, 140), (140, 90), (32, 48), (7, 300)])
def test_photos_are_cropped_and_resized_alike(pipeline: ModuleType, shape: tuple[int, int]) -> None:
    photo = colours(*shape, 3)
    np.testing.assert_array_equal(np.asarray(pipeline.fit(Image.fromarray(photo), 32, 48)), fit(photo, (32, 48)))


def test_photos_of_any_mode_are_read_alike(pipeline: ModuleType, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (Image.fromarray(colours(9, 7, 3)), {}),
        "turned.jpg": (Image.fromarray(colours(8, 16, 3)), {"exif": turned}),
        "transparent.png": (Image.fromarray(colours(9, 7, 4)), {}),
        "palette.gif": (Image.fromarray(colours(9, 7, 3)).quantize(16), {}),
        "grey.png": (Image.fromarray(colours(9, 7)), {}),
        "deep.png": (Image.fromarray(colours(9, 7).astype(np.uint16) * 257), {}),
        "float.tiff": (Image.fromarray(colours(9, 7).astype(np.float32) / 255), {}),
    }
    for name, (picture, arguments) in pictures.items():
        picture.save(tmp_path / name, **arguments)
        with Image.open(tmp_path / name) as opened:
            theirs = pipeline.as_pictures(opened)[0]
        np.testing.assert_array_equal(np.asarray(theirs), load_image(tmp_path / name), err_msg=name)


def test_photos_come_in_all_forms_that_diffusers_users_have(pipeline: ModuleType) -> None:
    photo = colours(6, 8, 3)
    floats = photo.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).movedim(-1, 0)
    forms = [Image.fromarray(photo), photo, floats, tensor, tensor[None], [Image.fromarray(photo)], floats[None]]
    for form in forms:
        pictures = pipeline.as_pictures(form)
        assert len(pictures) == 1
        np.testing.assert_array_equal(np.asarray(pictures[0]), photo)
    pixels = pipeline.as_pixels(pictures[0]).movedim(0, -1).numpy()
    np.testing.assert_allclose(pixels, pixels_to_float(photo), atol=2e-7)  # the last bit of a division


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4)), r"must be PIL, an array \[H, W, 3\] .* got \(4, 4\)"),
        ("photo.jpg", "got str"),
        (np.full((4, 4, 3), 255.0), r"lie in \[0, 1\]; got 255 to 255"),
    ],
)
def test_what_is_no_photo_is_refused(pipeline: ModuleType, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.as_pictures(image)


@pytest.mark.parametrize(("old", "new"), [(32, 32), (256, 224), (24, 32), (50, 14), (32, 24)])
def test_bicubic_resizing_is_that_of_jax(old: int, new: int) -> None:
    """What DINOv2 is shown. Both use Keys' kernel with a = -0.5, stretched when shrinking, cut at the borders."""
    x = numbers(2, old, old + 6, 3)
    ours = jax.image.resize(x, (2, new, new, 3), "bicubic", antialias=True)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).movedim(-1, 1), (new, new), mode="bicubic", antialias=True
    )
    np.testing.assert_allclose(theirs.movedim(1, -1).numpy(), ours, atol=1e-5 * np.abs(x).max())


def test_words_have_the_same_ids() -> None:
    texts = ["", "A kite, high above the SEA!", "ünïcode 3.5 words", " ".join(["many"] * 40)]
    theirs = shipped("hash_tokenizer").HashTokenizer(1024, 16)(texts, padding="max_length", return_tensors="pt")
    np.testing.assert_array_equal(theirs.input_ids.numpy(), HashTokenizer(1024, 16)(texts))


@pytest.mark.parametrize("factor", [2, 4])
def test_space_to_depth(factor: int) -> None:
    theirs, ours = shipped("space_to_depth").SpaceToDepth(factor, 1.75), SpaceToDepth(factor, 1.75)
    np.testing.assert_allclose(theirs.basis.numpy(), ours.basis(), atol=1e-6)
    x = numbers(1, 3, 8, 12, 3)
    z = ours.encode({}, x)
    frames = torch.from_numpy(x[0]).movedim(-1, 1)
    latents = theirs.encode(frames).latent_dist.mode() * theirs.config.scaling_factor
    np.testing.assert_allclose(latents.movedim(1, -1).numpy(), z[0], atol=1e-5)
    np.testing.assert_allclose(theirs(frames).sample.numpy(), frames.numpy(), atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 25])
def test_inversion_visits_the_times_of_our_sampler(pipeline: ModuleType, spacing: Any, steps: int) -> None:
    assert pipeline.spaced(1000, steps, spacing, 1) == timestep_spacing(1000, steps, spacing, 1).tolist()


@pytest.mark.parametrize(("usual", "inversion", "steps"), [(25, 25, 50), (12, 4, 50), (12, 4, 1), (25, 10, 25)])
def test_the_inversion_takes_its_share_of_steps(pipeline: Any, usual: int, inversion: int, steps: int) -> None:
    ours = Sampling(DDIM(usual), inversion_steps=inversion).with_steps(steps).count_inversion_steps()
    assert pipeline.share_of_steps({"num_inference_steps": usual, "num_inversion_steps": inversion}, steps) == ours


@pytest.mark.parametrize(("ours", "theirs"), [("eps", "epsilon"), ("z0", "sample"), ("v", "v_prediction")])
def test_predictions_are_read_alike(pipeline: ModuleType, ours: Any, theirs: str) -> None:
    z, said = numbers(2, 3, 4), numbers(2, 3, 4)[::-1].copy()
    expected = to_z0_and_eps(ours, np.float32(0.8), np.float32(0.6), z, said)
    for one, other in zip(pipeline.split(theirs, 0.8, 0.6, z, said), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_noise_leans_alike(pipeline: ModuleType) -> None:
    noise, inverted = numbers(1, 5, 2, 2, 3), numbers(1, 5, 2, 2, 3)[:, ::-1].copy()
    ours = PriorInversion(0.4, 0.1).start(noise, lambda: inverted)
    first = [torch.from_numpy(each).movedim(-1, 1) for each in (noise, inverted)]
    np.testing.assert_allclose(pipeline.lean(*first, 0.4, 0.1).movedim(1, -1).numpy(), ours, atol=1e-6)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]; got 1.5 and 0"):
        pipeline.lean(*first, 1.5, 0)


class TestCalls:
    """Arguments of a call are checked before anything is computed."""

    @pytest.fixture
    def pipe(self, pipeline: ModuleType) -> Any:
        """A pipeline without networks."""
        clip = {"num_frames": 8, "height": 32, "width": 32, "vae_scale_factor": 4}
        config = SimpleNamespace(clip=clip, channels="reference,frame,level", defaults={})
        unet = SimpleNamespace(config=SimpleNamespace(block_out_channels=(64, 64)))
        pipe = SimpleNamespace(config=config, unet=unet)
        for name in ("_checked_frames", "_checked_size", "_checked_levels"):
            setattr(pipe, name, getattr(pipeline.LivePhotoPipeline, name).__get__(pipe))
        return pipe

    def test_frames(self, pipe: Any) -> None:
        assert pipe._checked_frames(None) == pipe._checked_frames(8) == 8
        with pytest.raises(ValueError, match="clips of 8 frames; num_frames=16"):
            pipe._checked_frames(16)

    def test_size(self, pipe: Any) -> None:
        assert pipe._checked_size(40, 64) == (40, 64)
        with pytest.raises(ValueError, match="multiples of 8 px; got 36 x 32"):
            pipe._checked_size(36, 32)

    def test_levels(self, pipe: Any) -> None:
        assert pipe._checked_levels(5) == [5]
        assert pipe._checked_levels([1, 10]) == [1, 10]
        for wrong in (0, 11, 2.5, [3, 12]):
            with pytest.raises(ValueError, match="from 1 to 10; got"):
                pipe._checked_levels(wrong)
        pipe.config.channels = "reference,frame"
        assert pipe._checked_levels(5) == [5]
        with pytest.raises(ValueError, match="without motion levels"):
            pipe._checked_levels(6)

    def test_batches(self, pipeline: ModuleType) -> None:
        assert pipeline._batched(["photo"], ["a", "b"], "", [5]) == [["photo"] * 2, ["a", "b"], ["", ""], [5, 5]]
        with pytest.raises(ValueError, match="got 2, 3, 1, 1"):
            pipeline._batched(["p", "q"], ["a", "b", "c"], "", [5])
