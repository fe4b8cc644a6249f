"""Attention: one function, and the kernels that compute it (chosen in `attention_kernels.py`).

Queries, keys and values are [N S H D]: batch, positions, heads, features of a head. Softmax is in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jaxmotion.nn.attention_kernels import backend_name, check_kernel, select_kernel
from jaxmotion.nn.linear import Linear, barrier_on_cpu
from jaxmotion.nn.platform import platform


def attend(
    query: Float[Array, "N S H D"],
    key: Float[Array, "N L H D"],
    value: Float[Array, "N L H D"],
    *,
    kernel: str = "auto",
    mask: Bool[Array, "#N #H S L"] | None = None,
    length: int | None = None,
) -> Float[Array, "N S H D"]:
    """softmax(query key^T / sqrt(D)) value for every head.

    Source: "Attention is all you need" (arXiv:1706.03762), Eq. 1.

    Args:
        kernel: "auto" asks `select_kernel`; otherwise one of `KERNELS`.
        mask: True where a query may attend.
        length: positions from this one on are padding: no query attends to them, and the result at these positions is
            undefined. Unlike a mask, every kernel supports it.
    """
    if length is not None and mask is not None:
        raise ValueError("Attention takes a mask or a length, not both; put the padding into the mask.")
    if length is not None and not 0 < length <= key.shape[1]:
        raise ValueError(f"The length {length} is not within the {key.shape[1]} positions of the keys.")
    if length == key.shape[1]:
        length = None
    backend, head_dim, masked = backend_name(), query.shape[-1], mask is not None
    if kernel == "auto":
        kernel = select_kernel(backend, query.shape[1], key.shape[1], head_dim, query.dtype, masked)
    check_kernel(kernel, backend, head_dim, query.dtype, masked)
    if length is not None and kernel.startswith("xla"):
        mask = (jnp.arange(key.shape[1]) < length)[None, None, None]
    if kernel == "cudnn":
        return _cudnn(query, key, value, mask, length)
    if kernel == "splash":
        return _splash(query, key, value, length)
    if kernel == "xla_chunked":
        return _on_each_device(_xla_chunked, query, key, value, mask)
    return _xla(query, key, value, mask)


class Attention(nn.Module):
    """Multi-head attention of x to `source` (of x to itself when no source is given).

    heads: number of heads; the width C of x is split among them.
    bias: the projections of query, key and value have a bias. The projection `out` always has one.
    """

    heads: int
    bias: bool = False
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "... S C"],
        source: Float[Array, "... L D"] | None = None,
        mask: Bool[Array, "#N #H S L"] | None = None,
    ) -> Float[Array, "... S C"]:
        features = x.shape[-1]
        if features % self.heads:
            raise ValueError(f"{features} features cannot be split into {self.heads} heads.")
        source = x if source is None else source

        def project(name: str, tokens: Array) -> Array:
            y = Linear(features, self.bias, name=name)(tokens)
            return y.reshape(-1, y.shape[-2], self.heads, features // self.heads)

        query, key, value = project("query", x), project("key", source), project("value", source)
        y = attend(query, key, value, kernel=self.kernel, mask=mask)
        return Linear(features, name="out")(y.reshape(x.shape))


def _xla(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    """Plain matrix products on [(N H) S D]; the softmax is normalised after the product with the values."""
    N, S, H, D = query.shape
    fold = lambda x: x.swapaxes(1, 2).reshape(N * H, x.shape[1], D)  # noqa: E731
    if mask is not None:
        alike = mask.shape[:3] == (1, 1, 1)
        mask = mask[0] if alike else jnp.broadcast_to(mask, (N, H, S, key.shape[1])).reshape(N * H, S, -1)
    y = _softmax_product(fold(query), fold(key), fold(value), mask)
    return y.reshape(N, H, S, D).swapaxes(1, 2)


def _xla_chunked(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    """Computes `_xla` one head of one sequence at a time, so that scores stay small; recomputed in the backward."""
    N, S, H, D = query.shape
    fold = lambda x: x.swapaxes(1, 2).reshape(N * H, 1, x.shape[1], D)  # noqa: E731
    one = jax.checkpoint(lambda x: _softmax_product(*x))
    folded = (fold(query), fold(key), fold(value))
    if mask is None or mask.shape[:3] == (1, 1, 1):
        same = None if mask is None else mask[0]
        y = jax.lax.map(lambda x: one((*x, same)), folded)
    else:
        mask = jnp.broadcast_to(mask, (N, H, S, key.shape[1])).reshape(N * H, 1, S, -1)
        y = jax.lax.map(one, (*folded, mask))
    return y.reshape(N, H, S, D).swapaxes(1, 2)


def _softmax_product(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    """Attention of one head: [M S D], [M L D], [M L D] -> [M S D]."""
    scores = _product(query, key.swapaxes(1, 2)) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    return (_product(weights.astype(value.dtype), value) / total).astype(value.dtype)


@jax.custom_vjp
def _product(x: Float[Array, "M S L"], y: Float[Array, "M L D"]) -> Float[Array, "M S D"]:
    """Matrix products in float32."""
    return jax.lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def _product_forward(x: Array, y: Array):
    return _product(x, y), (x, y)


def _product_backward(saved, gradient: Array):
    x, y = saved
    by_x = jax.lax.dot_general(gradient, y, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    # With the transposition inside the product, XLA on CPU multiplies many small matrices six times slower.
    transposed = barrier_on_cpu(x.swapaxes(1, 2))
    by_y = jax.lax.dot_general(transposed, gradient, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    return by_x.astype(x.dtype), by_y.astype(y.dtype)


_product.defvjp(_product_forward, _product_backward)


def _cudnn(query: Array, key: Array, value: Array, mask: Array | None, length: int | None) -> Array:
    """Runs cuDNN's fused kernel on even numbers of queries and keys: one more key that nobody attends to where needed.

    In training JAX (0.10.2) refuses odd numbers, and cuDNN (9.18) has no backward pass for a single key.
    """
    N, S, L = *query.shape[:2], key.shape[1]
    if mask is not None:  # the kernel takes no broadcast over queries and keys
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], S, L))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, S % 2), (0, L % 2)))
    elif L % 2:
        length = L if length is None else length
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    lengths = None if length is None else jnp.full((N,), length, jnp.int32)
    y = jax.nn.dot_product_attention(
        query, key, value, mask=mask, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return y[:, :S]


def _splash(query: Array, key: Array, value: Array, length: int | None) -> Array:
    """Runs the splash kernel that JAX ships for TPU, in its interpreter on other backends.

    Positions are padded to a multiple of 128 and the padding is its own segment.
    """
    last = key.shape[1] if length is None else length
    return _on_each_device(lambda q, k, v, _: _splash_on_device(q, k, v, length=last), query, key, value, None)


def _on_each_device(
    kernel: Callable[[Array, Array, Array, Array | None], Array],
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
) -> Array:
    """Runs a kernel that XLA cannot split, or that would run over what it has split.

    Each device of the mesh that is set computes its own part of the batch (over data and fsdp) and of the heads (over
    context and tensor).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return kernel(query, key, value, mask)
    N, _, H, _ = query.shape
    batch = tuple(a for a in ("data", "fsdp") if a in mesh.axis_names)
    batch = batch if N % math.prod(mesh.shape[a] for a in batch) == 0 else ()
    heads = tuple(a for a in ("context", "tensor") if a in mesh.axis_names)
    heads = heads if H % math.prod(mesh.shape[a] for a in heads) == 0 else ()
    spec = P(batch or None, None, heads or None)
    of_mask = (
        P()
        if mask is None
        else P(*(axes if size > 1 else None for axes, size in zip(spec[::2], mask.shape, strict=False)))
    )
    specs = (spec, spec, spec, of_mask)
    return jax.shard_map(kernel, in_specs=specs, out_specs=spec, check_vma=False)(query, key, value, mask)


def _splash_on_device(query: Array, key: Array, value: Array, *, length: int) -> Array:
    S, H, D = query.shape[1:]
    L = key.shape[1]
    last = S if query.shape[1] != L else min(S, length)  # where queries and keys are the same tokens, so is the padding

    def pad(x: Array, length: int) -> Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -length % 128), (0, 0)))

    q, k, v = pad(query * D**-0.5, S), pad(key, L), pad(value, L)
    q_len, kv_len = q.shape[2], k.shape[2]
    segments = splash_kernel.SegmentIds(
        q=(jnp.arange(q_len) >= last).astype(jnp.int32), kv=(jnp.arange(kv_len) >= length).astype(jnp.int32)
    )
    kernel = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([splash_mask.FullMask((q_len, kv_len))] * H),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=_splash_blocks(q_len, kv_len),
        interpret=platform() != "tpu",
    )
    y: Array = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)  # pyright: ignore[reportAssignmentType]
    return y[:, :, :S].swapaxes(1, 2).astype(query.dtype)


def _splash_blocks(q_len: int, kv_len: int):
    """Returns the largest block sizes up to 512 that are multiples of 128 and divide the lengths."""
    q = next(b for b in (512, 384, 256, 128) if q_len % b == 0)
    kv = next(b for b in (512, 384, 256, 128) if kv_len % b == 0)
    return splash_kernel.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )
