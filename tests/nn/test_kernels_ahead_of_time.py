"""The table of attention kernels is what the compilers of each platform take, forward and backward.

Nothing is run: JAX lowers for NVIDIA GPUs, where it checks what cuDNN takes, and compiles for TPUs, where the kernel's
own compiler does.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as theirs
from jax.sharding import PartitionSpec as P

from jaxmotion.nn import attention
from jaxmotion.nn.attention import attend
from jaxmotion.nn.attention_kernels import limits, select_kernel
from jaxmotion.parallel.sharding import BATCH_AXES
from tests.support.ahead_of_time import described, device_mesh, needs, shape

LENGTHS = [(1024, 1024), (1024, 77), (1023, 77), (1024, 1), (513, 256)]
HEADS = [40, 64, 80, 128, 160, 256]
DTYPES = ["float32", "bfloat16", "float16"]


def lower(device, kernel, S, L, D, dtype, mask=False, backward=True):
    """Lowers attention of 2 rows and 2 heads, and its gradients."""
    mesh = device_mesh(device)

    def loss(query, key, value):
        seen = jnp.ones((1, 1, S, L), bool) if mask else None
        return attend(query, key, value, kernel=kernel, mask=seen).astype(jnp.float32).sum()

    spec = jax.sharding.NamedSharding(mesh, P(BATCH_AXES))
    given = described((shape(2, S, 2, D, dtype=dtype), *[shape(2, L, 2, D, dtype=dtype)] * 2), spec)
    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss, (0, 1, 2)) if backward else loss).lower(*given)


@needs("A100")
@pytest.mark.parametrize(("S", "L"), LENGTHS)
@pytest.mark.parametrize("mask", [False, True])
def test_every_length_lowers_for_nvidia(S, L, mask):
    """Of odd numbers, too, by whatever kernel is chosen."""
    for D, dtype in itertools.product(HEADS, DTYPES):
        lowered = lower("A100", "auto", S, L, D, jnp.dtype(dtype), mask)
        fused = "__cudnn$fmha" in lowered.as_text()
        assert fused == (select_kernel("sm80", S, L, D, dtype, mask) == "cudnn"), (D, dtype)
        assert fused == (D <= 128 and dtype != "float32")


@needs("A100")
@pytest.mark.parametrize(("device", "backend", "capability"), [("A100", "sm80", "8.0"), ("H100", "sm90", "9.0")])
def test_the_table_is_what_cudnn_takes(device, backend, capability, monkeypatch):
    """JAX asks the device that is here for its capability, so this tells it which one is meant."""
    monkeypatch.setattr(theirs, "check_compute_capability", lambda wanted: float(wanted) <= float(capability))
    monkeypatch.setattr(attention, "check_kernel", lambda *_: None)
    table = limits("cudnn", backend)
    assert table is not None
    for D, dtype in itertools.product([20, *HEADS, 264], DTYPES):
        for backward in (False, True):
            try:
                lower(device, "cudnn", 1024, 1024, D, jnp.dtype(dtype), backward=backward)
                taken = True
            except NotImplementedError:
                taken = False
            assert taken == table.accepts(D, jnp.dtype(dtype), masked=False), (D, dtype, backward)


@needs("A100")
def test_what_is_compiled_is_chosen_for_the_devices_it_is_compiled_for():
    """Not for the CPU that compiles."""
    assert "__cudnn$fmha" in lower("A100", "auto", 1024, 1024, 64, jnp.dtype("bfloat16")).as_text()
    with pytest.raises(ValueError, match='"splash" does not run on sm80'):
        lower("A100", "splash", 1024, 1024, 64, jnp.dtype("bfloat16"))


@needs("TPU v5p")
@pytest.mark.parametrize(
    ("S", "L", "D", "dtype"),
    [
        (1024, 1024, 40, "bfloat16"),
        (1100, 1300, 64, "float32"),
        pytest.param(17792, 17792, 64, "bfloat16", marks=pytest.mark.slow),
        pytest.param(1024, 1024, 160, "bfloat16", marks=pytest.mark.slow),
        pytest.param(1024, 1024, 256, "float32", marks=pytest.mark.slow),
        pytest.param(1024, 1024, 512, "float32", marks=pytest.mark.slow),
    ],
)
def test_splash_compiles_for_tpus(S, L, D, dtype):
    lowered = lower("TPU v5p", "auto", S, L, D, jnp.dtype(dtype))
    assert "tpu_custom_call" in lowered.as_text()
    lowered.compile()


@needs("TPU v5p")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_splash_does_not_take_is_left_to_xla(dtype):
    lowered = lower("TPU v5p", "auto", 1024, 1024, 64, jnp.dtype(dtype), mask=dtype == "bfloat16")
    assert "tpu_custom_call" not in lowered.as_text()
    lowered.compile()
