"""Images as sequences of patches, and position embeddings of patches at sizes other than the stored one."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float


def patches(image: Float[Array, "B H W 3"], size: int) -> Float[Array, "B h w P"]:
    """Flattened patches of size x size pixels; a linear layer on them is the strided convolution of public weights."""
    for name, pixels in zip(("high", "wide"), image.shape[1:3], strict=True):
        if pixels % size or pixels == 0:
            fits = max(pixels // size, 1) * size
            raise ValueError(f"The image is {pixels} px {name}; the encoder needs a multiple of {size}, e.g. {fits}.")
    return rearrange(image, "B (h p) (w q) c -> B h w (p q c)", p=size, q=size)


def standardise(image: Float[Array, "B H W 3"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "B H W 3"]:
    """Pixels in [-1, 1] with a mean and a deviation per colour, which are those of pixels in [0, 1], taken out."""
    scale, shift = 0.5 / np.array(std), (0.5 - np.array(mean)) / np.array(std)
    return image * scale.astype(image.dtype) + shift.astype(image.dtype)


def resized_positions(
    positions: Float[Array, "G G D"], size: tuple[int, int], antialias: bool
) -> Float[Array, "h w D"]:
    """The grid of position embeddings at another size, bicubic, in float32.

    Source: the public code of DINOv2 as Hugging Face runs it: plain bicubic without registers, antialiased with. CLIP
    there is plain too.
    """
    if size == positions.shape[:2]:
        return positions
    rows = bicubic_weights(positions.shape[0], size[0], antialias)
    columns = bicubic_weights(positions.shape[1], size[1], antialias)
    return jnp.einsum("hG,wg,GgD->hwD", rows, columns, positions.astype(jnp.float32))


def bicubic_weights(old: int, new: int, antialias: bool) -> Float[np.ndarray, "new old"]:
    """Returns the weight of each of `old` samples in each of `new`: centres at (i + 0.5) / length, rows summing to 1.

    Source: cubic convolution (Keys, 1981), with a = -0.75 and clamped borders, or antialiased with a = -0.5, the kernel
    stretched by the scale when shrinking and cut at the borders: the two forms PyTorch has.
    """
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.zeros((new, old))
    if antialias:
        stretch = max(scale, 1.0)
        weights = _cubic((np.arange(old)[None] - centre[:, None]) / stretch, -0.5)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    first = np.floor(centre).astype(int)
    for tap in range(-1, 3):
        source = np.clip(first + tap, 0, old - 1)
        weights[np.arange(new), source] += _cubic(centre - (first + tap), -0.75)
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
