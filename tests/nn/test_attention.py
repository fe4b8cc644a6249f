from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.nn import attention
from jaxmotion.nn.attention import Attention, attend
from jaxmotion.nn.attention_kernels import select_kernel


def plain(query, key, value, mask=None):
    """Softmax attention in float64, head by head."""
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("nshd,nlhd->nhsl", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nhsl,nlhd->nshd", weights / weights.sum(-1, keepdims=True), v)


def draw(*shapes, scale=1.0):
    rng = np.random.default_rng(0)
    return [jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("backend", "q_len", "kv_len", "head_dim", "dtype", "masked", "kernel"),
    [
        ("cpu", 64, 64, 40, "float32", False, "xla"),
        ("cpu", 1024, 1024, 40, "float32", False, "xla_chunked"),
        ("sm90", 17792, 17792, 64, "float32", False, "xla_chunked"),
        ("sm80", 17792, 17792, 64, "bfloat16", False, "cudnn"),
        ("cpu", 16384, 77, 40, "float32", False, "xla_chunked"),
        ("sm80", 1024, 1024, 40, "bfloat16", False, "cudnn"),
        ("sm80", 1024, 77, 64, "bfloat16", True, "cudnn"),
        ("sm80", 1024, 1024, 160, "bfloat16", False, "xla"),  # heads wider than 128 need sm90
        ("sm90", 1024, 1024, 160, "bfloat16", False, "cudnn"),
        ("sm90", 1024, 1024, 264, "bfloat16", False, "xla"),
        ("sm90", 1024, 1024, 64, "float32", False, "xla"),  # cuDNN has 16-bit numbers only
        ("sm90", 1024, 1024, 20, "bfloat16", False, "xla"),  # not a multiple of 8
        ("sm90", 16, 16, 40, "bfloat16", False, "xla"),  # the time axis
        ("sm120", 4096, 4096, 64, "float16", False, "cudnn"),
        ("tpu", 4096, 4096, 64, "bfloat16", False, "splash"),
        ("tpu", 4096, 77, 64, "bfloat16", False, "xla"),
        ("tpu", 4096, 4096, 64, "bfloat16", True, "xla_chunked"),
        ("tpu", 1024, 1024, 64, "bfloat16", True, "xla"),
        ("tpu", 1024, 1024, 64, "float16", False, "xla"),
        ("tpu", 1024, 1024, 512, "float32", False, "splash"),  # the autoencoder's only head
        ("tpu", 1024, 1024, 640, "float32", False, "xla"),
        ("sm100", 1024, 1024, 160, "bfloat16", False, "xla"),  # Blackwell goes back through 128 only
        ("sm75", 1024, 1024, 64, "float16", False, "xla"),  # before Ampere there is no fused kernel
        ("gpu", 1024, 1024, 64, "bfloat16", False, "xla"),  # no NVIDIA GPU
    ],
)
def test_the_table_of_kernels(backend, q_len, kv_len, head_dim, dtype, masked, kernel):
    assert select_kernel(backend, q_len, kv_len, head_dim, jnp.dtype(dtype), masked) == kernel


@pytest.mark.parametrize("kernel", ["xla", "xla_chunked", "splash"])
@pytest.mark.parametrize(("S", "L"), [(5, 7), (130, 260)])
def test_kernels_compute_attention(kernel, S, L):
    query, key, value = draw((2, S, 3, 8), (2, L, 3, 8), (2, L, 3, 8))
    y = jax.jit(lambda *x: attend(*x, kernel=kernel))(query, key, value)
    np.testing.assert_allclose(y, plain(query, key, value), atol=2e-6)


@pytest.mark.parametrize("kernel", ["xla", "xla_chunked"])
@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (2, 1, 6, 6), (2, 3, 6, 6)])
def test_masked_keys_are_not_seen(kernel, shape):
    query, key, value = draw(*[(2, 6, 3, 8)] * 3)
    mask = np.broadcast_to(np.tril(np.ones((6, 6), bool)), shape)
    y = attend(query, key, value, kernel=kernel, mask=jnp.asarray(mask))
    np.testing.assert_allclose(y, plain(query, key, value, mask), atol=1e-6)
    np.testing.assert_array_equal(y[:, 0], attend(query, key, value.at[:, 1:].set(9.0), kernel=kernel, mask=mask)[:, 0])


@pytest.mark.parametrize("kernel", ["xla_chunked", "splash"])
def test_gradients_agree_between_kernels(kernel):
    inputs = draw((2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8))
    loss = lambda kernel: lambda *x: (attend(*x, kernel=kernel) ** 2).sum()  # noqa: E731
    ours = jax.grad(loss(kernel), (0, 1, 2))(*inputs)
    reference = jax.grad(loss("xla"), (0, 1, 2))(*inputs)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)  # gradients near 1: sums of many products in another order


def test_softmax_is_in_float32():
    """Scores near 100 differ by less than a bfloat16 can tell apart; the weights must still be right."""
    query, key, value = (x.astype(jnp.bfloat16) for x in draw(*[(1, 64, 1, 64)] * 3, scale=4.0))
    y = attend(query, key, value)
    assert y.dtype == jnp.bfloat16
    # Weights and result are rounded to 2^-9 of themselves and values reach 16; scores in bfloat16 would be off by 10.
    np.testing.assert_allclose(y.astype(jnp.float32), plain(query, key, value), atol=0.0625)


def test_large_scores_do_not_overflow():
    query, key, value = draw(*[(1, 4, 1, 8)] * 3, scale=100.0)
    np.testing.assert_allclose(attend(query, key, value), plain(query, key, value), rtol=1e-5)


@pytest.fixture
def strict_cudnn(monkeypatch):
    """cuDNN's kernel computed by XLA in float32, with the refusals that JAX makes for it in training."""
    theirs = jax.nn.dot_product_attention

    def strict(query, key, value, *, mask, key_value_seq_lengths, implementation):
        assert implementation == "cudnn"
        if query.shape[1] % 2 or key.shape[1] % 2:
            raise NotImplementedError(f"Unsupported sequence length Q {query.shape[1]}, KV {key.shape[1]}.")
        assert mask is None or mask.shape[-2:] == (query.shape[1], key.shape[1])
        return theirs(query, key, value, mask=mask, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", strict)
    monkeypatch.setattr(attention, "check_kernel", lambda *_: None)  # it takes no float32


@pytest.mark.parametrize(
    ("S", "L", "given"),
    [(6, 7, "nothing"), (7, 6, "mask"), (7, 1, "length"), (7, 7, "mask"), (7, 5, "length")],
)
def test_odd_lengths_are_padded_for_cudnn(strict_cudnn, S, L, given):
    """Neither values nor gradients see what was added."""
    inputs = draw((2, S, 3, 8), (2, L, 3, 8), (2, L, 3, 8))
    seen = np.random.default_rng(1).random((2, 1, 1, L)) < 0.6
    seen[..., 0] = True
    options = {"nothing": {}, "mask": {"mask": jnp.asarray(seen)}, "length": {"length": -(-L // 2)}}[given]

    def run(kernel):
        loss = lambda *x: (attend(*x, kernel=kernel, **options) ** 2).sum()  # noqa: E731
        return attend(*inputs, kernel=kernel, **options), jax.grad(loss, (0, 1, 2))(*inputs)

    (ours, gradients), (reference, expected) = run("cudnn"), run("xla")
    np.testing.assert_allclose(ours, reference, atol=2e-6)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # they reach 5


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("S", "L", "D"), [(1024, 1024, 40), (1024, 77, 80), (513, 512, 128)])
def test_cudnn_computes_attention(S, L, D):
    inputs = [x.astype(jnp.bfloat16) for x in draw((2, S, 8, D), (2, L, 8, D), (2, L, 8, D))]
    loss = lambda kernel: lambda *x: (attend(*x, kernel=kernel).astype(jnp.float32) ** 2).sum()  # noqa: E731
    ours, reference = (attend(*inputs, kernel=kernel).astype(jnp.float32) for kernel in ("cudnn", "xla"))
    np.testing.assert_allclose(ours, reference, atol=2e-2)
    gradients = [jax.jit(jax.grad(loss(k), (0, 1, 2)))(*inputs) for k in ("cudnn", "xla")]
    for ours, reference in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), reference.astype(jnp.float32), atol=5e-2)


def test_wrong_requests_are_refused():
    q = jnp.zeros((1, 4, 1, 8))
    with pytest.raises(ValueError, match='"flash"; known are'):
        attend(q, q, q, kernel="flash")
    with pytest.raises(ValueError, match="no mask; got float32, heads of 8 features, a mask"):
        attend(q, q, q, kernel="splash", mask=jnp.ones((1, 1, 4, 4), bool))
    with pytest.raises(ValueError, match="10 features cannot be split into 4 heads"):
        Attention(4).init(jax.random.key(0), jnp.zeros((1, 3, 10)))
