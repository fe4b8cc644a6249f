"""The tiny video decoder against the code of its author, whose results are kept beside this file."""

from __future__ import annotations

import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.models.autoencoder_tiny import AutoencoderTiny, AutoencoderTinySizes, TinyCodec
from jaxmotion.models.autoencoder_tiny3d import FULL, TinyDecoder3D
from jaxmotion.weights.preview_decoder import TinyDecoder
from jaxmotion.weights.rules import to_jax, to_torch
from jaxmotion.weights.tables.autoencoder_tiny import AUTOENCODER_TINY
from jaxmotion.weights.tables.autoencoder_tiny3d import TINY_DECODER_3D
from jaxmotion.weights.tensor_files import open_tensors

GOLDEN = Path(__file__).parent / "golden_taehv.npz"
NETWORK = 1e-5


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights with which the results were made."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name == "decoder.22.bias":
        return np.full(shape, 0.5, np.float32)
    return (values * np.sqrt(1 / np.prod(shape[1:]) if len(shape) > 1 else 0.01)).astype(np.float32)


def public() -> dict[str, np.ndarray]:
    """The decoder's tensors by the names of the public files."""
    rows = [row.split() for row in np.load(GOLDEN)["names"].tolist() if row.startswith("decoder.")]
    return {name: drawn(name, tuple(map(int, shape))) for name, *shape in rows}


@pytest.fixture(scope="module")
def params(shapes) -> dict:
    like = shapes(TinyDecoder3D(FULL), np.zeros((1, 2, 2, 3, 16), np.float32))
    found = to_jax(TINY_DECODER_3D, public(), like)
    back = to_torch(TINY_DECODER_3D, found)
    assert back.keys() == public().keys()
    assert all(np.array_equal(back[name], array) for name, array in public().items())
    return found


@pytest.mark.parametrize("latents", [2, 3, 5])
def test_frames_are_those_of_the_public_code(params, latents) -> None:
    z = 2 * np.random.default_rng(latents).standard_normal((1, latents, 2, 3, 16)).astype(np.float32)
    ours = np.asarray(jax.jit(TinyDecoder3D(FULL).apply)({"params": params}, z))[0]
    theirs = np.load(GOLDEN)[f"frames_{latents}"]
    assert ours.shape == theirs.shape == (4 * latents - (3 if latents % 2 else 0), 16, 24, 3)
    assert ((theirs > 0) & (theirs < 1)).mean() > 0.6  # the rest is clipped there
    assert np.abs(np.clip((ours + 1) / 2, 0, 1) - theirs).max() < NETWORK


def test_a_public_file_makes_previews(tmp_path, params) -> None:
    torch = pytest.importorskip("torch")
    encoder = {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}
    torch.save({**encoder, **{name: torch.tensor(array) for name, array in public().items()}}, tmp_path / "taecvx.pth")
    preview = TinyDecoder(tmp_path / "taecvx.pth")
    z = np.random.default_rng(0).standard_normal((2, 3, 2, 3, 16)).astype(np.float32)
    (clips,) = preview.decode({}, z)  # pyright: ignore
    assert clips.shape == (2, 9, 16, 24, 3)
    assert clips.dtype == np.uint8
    expected = np.asarray(TinyDecoder3D(FULL).apply({"params": params}, z))
    assert np.abs(np.clip(expected * 127.5 + 127.5, 0, 255) - np.asarray(clips, np.float32)).max() < 0.51
    with pytest.raises(ValueError, match="reads latents of 16 channels; those of this run have 4"):
        next(preview.decode({}, z[..., :4]))  # pyright: ignore


def test_tiny_autoencoders_of_pictures_make_previews_too(tmp_path, randomise, shapes) -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    features = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    theirs = randomise(diffusers.AutoencoderTiny(**blocks, **features))
    theirs.save_pretrained(tmp_path / "taesd")
    z = np.random.default_rng(0).standard_normal((1, 2, 4, 6, 4)).astype(np.float32)
    (clips,) = TinyDecoder(tmp_path / "taesd").decode({}, z)
    sizes = AutoencoderTinySizes(features=8, blocks=(1, 1))
    like = shapes(AutoencoderTiny(sizes), np.zeros((1, 1, 8, 8, 3), np.float32))
    params = to_jax(AUTOENCODER_TINY, open_tensors(tmp_path / "taesd"), like)
    codec = TinyCodec(sizes)
    expected = np.clip(np.asarray(codec.decode(params, z)) * 127.5 + 127.5, 0, 255)
    assert clips.shape == (1, 2, 8, 12, 3)
    assert np.abs(expected - np.asarray(clips, np.float32)).max() < 0.51


def test_what_is_no_tiny_decoder_is_refused(tmp_path) -> None:
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointFileError, match="a preview needs a tiny video autoencoder"):
        TinyDecoder(tmp_path)
