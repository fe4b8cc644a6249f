"""Structural similarity of images, as Wang et al. defined it (IEEE TIP 13(4), 2004).

The numbers are those of scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
use_sample_covariance=False, data_range=1, channel_axis=-1)`: an 11 x 11 Gaussian window, placed only where it fits.
The formula is dm-pix's. Its window is given here as a sum of shifted slices, which is the same sum and several times
faster on CPUs than dm-pix's one-channel convolutions.
"""

import math

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

WINDOW = 11
"""Pixels that the window is wide and high; images must not be smaller."""
_SIGMA = 1.5


def ssim(x: Float[Array, "*batch H W C"], y: Float[Array, "*batch H W C"]) -> Float[Array, "*batch"]:
    """Returns the mean structural similarity of two images with values in [0, 1]: 1 for equal ones, mean over channels.

    Large clips are taken frame by frame along the last batch axis (T of [B T H W C]), which keeps memory low and
    leaves an axis B that is sharded over devices where it is.
    """
    if x.shape != y.shape or x.ndim < 3:
        raise ValueError(f"SSIM compares images of the same shape [..., H, W, C]; got {x.shape} and {y.shape}.")
    *batch, height, width, _ = x.shape
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM's window needs images of at least {WINDOW} x {WINDOW} px; these are {width} x {height}."
        )
    if math.prod(batch) * height * width <= _PIXELS_AT_ONCE or not batch:
        return _ssim(x, y)
    time = len(batch) - 1

    def at(index: Array) -> Array:
        return _ssim(*(jax.lax.dynamic_index_in_dim(video, index, time, keepdims=False) for video in (x, y)))

    return jnp.moveaxis(jax.lax.map(at, jnp.arange(batch[-1])), 0, -1)


def dissimilarity(video: UInt8[Array | np.ndarray, "*batch T H W 3"]) -> Float[Array, "*batch"]:
    """Returns 1 - mean SSIM of neighbouring frames: between 0 (still) and about 1; the frame rate plays no part."""
    frames = jnp.asarray(video, jnp.float32) / 255
    return 1 - ssim(frames[..., :-1, :, :, :], frames[..., 1:, :, :, :]).mean(-1)


_PIXELS_AT_ONCE = 1 << 18  # four images of 256 x 256


def _ssim(x: Float[Array, "*batch H W C"], y: Float[Array, "*batch H W C"]) -> Float[Array, "*batch"]:
    flat = (jnp.asarray(image, jnp.float32).reshape(-1, *image.shape[-3:]) for image in (x, y))
    values = dm_pix.ssim(*flat, filter_size=WINDOW, filter_sigma=_SIGMA, filter_fn=_window_mean)  # pyright: ignore[reportArgumentType]
    return jnp.asarray(values).reshape(x.shape[:-3])


def _window_mean(z: Float[Array, "*batch H W C"]) -> Float[Array, "*batch h w C"]:
    """Returns the Gaussian-weighted mean around each pixel at which the whole window fits."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (z.ndim - 3, z.ndim - 2):
        size = z.shape[axis] - WINDOW + 1
        slices = [jax.lax.slice_in_dim(z, start, start + size, axis=axis) for start in range(WINDOW)]
        z = sum((weight * part for weight, part in zip(weights.tolist(), slices, strict=True)), jnp.zeros(()))
    return z
