"""Tiny decoders for previews: they take a small part of the time and memory of a system's own decoder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float, UInt8

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import Array, Params, pixels_to_uint8
from jaxmotion.weights import formats
from jaxmotion.weights.config_fields import find_differences
from jaxmotion.weights.tensor_files import open_tensors

PARTS = {"taehv": "preview", "diffusers-vae-tiny": "codec"}
"""The formats of tiny decoders, and the part that holds them."""


class TinyDecoder:
    """Decodes latents in place of a system's own decoder: TAEHV those of CogVideoX, TAESD those of Stable Diffusion."""

    def __init__(self, path: Path):
        """Reads the weights.

        Args:
            path: `taecvx.pth` and the like, or a folder or file of diffusers' AutoencoderTiny.

        Raises:
            CheckpointFileError: the file is damaged, or holds no tiny decoder.
        """
        checkpoint = open_tensors(path)
        kind = formats.detect(checkpoint)
        if kind.name not in PARTS:
            known = " or ".join(formats.BY_NAME[name].description for name in PARTS)
            raise CheckpointFileError(f"{path} holds {kind.description}; a preview needs {known}.")
        part = PARTS[kind.name]
        found = {name.removeprefix(f"{part}/"): read for name, read in formats.read(checkpoint, kind).items()}
        network, _ = kind.networks[part]({name: tuple(array.shape) for name, array in found.items()})
        wrong = find_differences(checkpoint, kind.configs.get(part, ()), {"preview": network.sizes})
        if wrong:
            raise CheckpointFileError(
                "; ".join(f"{w.file} says {w.field} {w.theirs}; read here is {w.ours}" for w in wrong)
            )
        self.path, self._network = path, network
        self._params = unflatten_dict({name: jnp.asarray(np.asarray(array)) for name, array in found.items()}, sep="/")
        self._channels: int = network.sizes.latent_channels  # pyright: ignore

    def decode(self, params: Params, z0: Float[Array, "B T h w C"]) -> Iterator[UInt8[Array, "B T H W 3"]]:
        """Yields the pixels of latents, all frames at once; the system's parameters are not needed.

        Raises:
            ValueError: the decoder is for other latents.
        """
        del params
        if z0.shape[-1] != self._channels:
            raise ValueError(
                f"The tiny decoder in {self.path} reads latents of {self._channels} channels; those of this run have "
                f"{z0.shape[-1]}. taecvx is for CogVideoX, taesd for Stable Diffusion 1.5."
            )
        clips = [_decode(self._network, self._params, clip[None]) for clip in z0]  # one by one: memory
        yield jnp.concatenate(clips)


@functools.partial(jax.jit, static_argnums=0)
def _decode(network: nn.Module, params: Params, z: Array) -> Array:
    method = "decode" if hasattr(network, "decode") else None
    pixels: Array = network.apply({"params": params}, z, method=method)  # pyright: ignore
    return pixels_to_uint8(pixels)
