"""Correlation of images with one kernel: one function, one table that says in which form it is computed.

Images are [N H W C], kernels [k k C D]. All forms give the same numbers up to rounding. Those that are worth it on a
CPU only compute in float32, whatever the precision of the images.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmotion.nn.platform import platform
from jaxmotion.nn.winograd import correlate_by_tiles

FORMS = ("plain", "columns", "products", "tiles")


def select_form(
    backend: str,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int = 1,
    repeat: int = 1,
    padding: tuple[int, int] = (1, 1),
    dtype=jnp.float32,
) -> str:
    """Returns the form in which images of this shape [N H W C] are correlated with a kernel of this shape [k k C D].

    Args:
        backend: "cpu" for a program on one CPU device (see `backend_name`); all others leave it to XLA.

    Measured on two cores with AVX-512 (`benchmarks/networks.py`). XLA's convolution there runs as fast as its matrix
    product on large images, and at a fraction of it where kernels are larger than images or have few outputs.
    plain:    XLA's convolution. Small ones stay so, for the other forms take longer to compile.
    columns:  few pixels under a large kernel, which is then read once, by one matrix product.
    products: few outputs.
    tiles:    Winograd's tiles take 2.25 times fewer products, 4 times fewer of images whose pixels are repeated.
    """
    size, _, C, D = kernel
    N, H, W = image[0], repeat * image[1], repeat * image[2]
    pixels = N * (H // stride) * (W // stride)
    products = pixels * size * size * C * D
    if backend != "cpu" or jnp.dtype(dtype).itemsize > 4 or size == 1 or products < 2**24:
        return "plain"
    if D <= 16 and C >= 8 * D:
        return "products"
    if products >= 2**29 and C >= 64 and D >= 64:
        fits = size == 3 and stride == 1 and padding == (1, 1) and H % 2 == 0 and W % 2 == 0
        if fits and pixels >= 256:
            return "tiles"
        if pixels <= 256:
            return "columns"
    return "plain"


def backend_name() -> str:
    """Returns the platform, as `select_form` names it: "cpu" for programs on one CPU device only."""
    devices = jax.sharding.get_abstract_mesh().size
    return platform() if devices <= 1 else f"{devices} devices"


def correlate(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "k k C D"],
    *,
    stride: int = 1,
    repeat: int = 1,
    padding: tuple[int, int] = (1, 1),
    form: str = "auto",
) -> Float[Array, "N h w D"]:
    """Returns the cross-correlation of every image with one kernel.

    Args:
        stride: 2 keeps every second result in height and width.
        repeat: 2 repeats every pixel in height and width first.
        padding: zeros before and after, in both height and width.
        form: "auto" asks `select_form`; otherwise one of `FORMS`.
    """
    if form == "auto":
        form = select_form(backend_name(), x.shape, kernel.shape, stride, repeat, padding, x.dtype)
    if form not in FORMS:
        raise ValueError(f'Unknown form of correlation "{form}"; known are "auto" and {FORMS}.')
    if form == "plain":
        return _plain(_repeat(x, repeat), kernel, stride, padding)
    full, weights = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if form == "tiles":
        if (
            kernel.shape[0] != 3
            or stride != 1
            or padding != (1, 1)
            or repeat not in (1, 2)
            or repeat * x.shape[1] % 2
            or repeat * x.shape[2] % 2
        ):
            raise ValueError('The form "tiles" is for 3 x 3 kernels, stride 1, padding (1, 1) and even images only.')
        y = correlate_by_tiles(full, weights, repeat)
    elif form == "columns":
        y = _columns(_repeat(full, repeat), weights, stride, padding)
    else:
        y = _products(_repeat(full, repeat), weights, stride, padding)
    return jnp.asarray(y).astype(x.dtype)


def _plain(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _repeat(x: Array, repeat: int) -> Array:
    N, H, W, C = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (N, H, repeat, W, repeat, C))
    return x.reshape(N, repeat * H, repeat * W, C)


# One matrix product, and shifts before or after it.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _columns(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Correlates by im2col: patches as rows of a matrix, times the kernel. The backward pass builds them again."""
    return _columns_product(x, kernel, stride, padding)


def _columns_product(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    size, D = kernel.shape[0], kernel.shape[-1]
    # Materialise the padded image once: XLA on CPU would otherwise fuse the padding into each of the slices.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), padding, padding, (0, 0))))
    columns = jnp.concatenate(_shifts(x, size, stride), axis=-1)
    return jnp.tensordot(columns, kernel.reshape(-1, D), 1)


def _columns_forward(x: Array, kernel: Array, stride: int, padding: tuple[int, int]):
    return _columns_product(x, kernel, stride, padding), (x, kernel)


def _columns_backward(stride: int, padding: tuple[int, int], saved, gradient: Array):
    _, pull = jax.vjp(lambda x, kernel: _columns_product(x, kernel, stride, padding), *saved)
    # The gradient has two consumers (by x and by the kernel); without the barrier XLA on CPU recomputes it in both.
    return pull(jax.lax.optimization_barrier(gradient))


_columns.defvjp(_columns_forward, _columns_backward)


def _products(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Multiplies every pixel by the whole kernel, then sums the products that belong to each result."""
    size, _, C, D = kernel.shape
    y = jnp.tensordot(x, kernel.transpose(2, 0, 1, 3).reshape(C, -1), 1)
    # Materialise the padded products once, as in `_columns_product`.
    y = jax.lax.optimization_barrier(jnp.pad(y, ((0, 0), padding, padding, (0, 0))))
    return functools.reduce(jnp.add, (s[..., i * D : (i + 1) * D] for i, s in enumerate(_shifts(y, size, stride))))


def _shifts(x: Array, size: int, stride: int) -> list[Array]:
    """Returns the padded image shifted and strided for each of the kernel's size * size weights."""
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    rows = [x[:, i : i + (height - 1) * stride + 1 : stride] for i in range(size)]
    return [row[:, :, j : j + (width - 1) * stride + 1 : stride] for row in rows for j in range(size)]
