"""Kernels of attention: one table of what each accepts on each backend, and the choice among those that do.

Compiling a grid of shapes checks the table, forward and backward (`tests/nn/test_kernels_ahead_of_time.py`).
"""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp

from jaxmotion.nn.platform import platform

KERNELS = ("xla", "xla_chunked", "cudnn", "splash")
FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a kernel accepts, going forward and backward.

    Lengths are not limited: `attend` pads those that a kernel refuses.
    """

    dtypes: tuple[str, ...] = FLOATS
    widest_head: int | None = None
    head_multiple: int = 1
    masks: bool = True

    def accepts(self, head_dim: int, dtype: jnp.dtype, masked: bool) -> bool:
        """Returns whether heads of this width and type are accepted, with a mask or without."""
        narrow = self.widest_head is None or head_dim <= self.widest_head
        fits = narrow and head_dim % self.head_multiple == 0
        return fits and jnp.dtype(dtype).name in self.dtypes and (self.masks or not masked)

    def text(self) -> str:
        """Returns the limits as the second half of a sentence: "takes ..."."""
        heads = f"heads of at most {self.widest_head} features" if self.widest_head else "heads of any width"
        multiple = f", a multiple of {self.head_multiple}" if self.head_multiple > 1 else ""
        return (
            f"takes {' or '.join(self.dtypes)}, {heads}{multiple}, {'with or without a' if self.masks else 'no'} mask"
        )


def limits(kernel: str, backend: str) -> Limits | None:
    """Returns what a kernel accepts on a backend (named as by `backend_name`); None: it is not there.

    cudnn: NVIDIA GPUs from compute capability 8.0 on. Heads wider than 128 are for Hopper only, as in
        NVIDIA's Transformer Engine; JAX itself would pass 256 on to later ones, too. In training JAX 0.10.2 refuses odd
        numbers of queries or keys, with a bias or without, so `attend` pads them to even ones.
    splash: TPUs, and the interpreter on a CPU. TPUs' compiler refuses its float16; heads of up to 512 were compiled.
    """
    if kernel in ("xla", "xla_chunked"):
        return Limits()
    if kernel == "cudnn" and (capability := _capability(backend)) >= 80:
        return Limits(("bfloat16", "float16"), widest_head=256 if 90 <= capability < 100 else 128, head_multiple=8)
    if kernel == "splash" and backend in ("tpu", "cpu"):
        return Limits(("float32", "bfloat16"), widest_head=512, masks=False)
    return None


def select_kernel(backend: str, q_len: int, kv_len: int, head_dim: int, dtype, masked: bool) -> str:
    """Returns the kernel that computes attention of this shape on this backend.

    Args:
        backend: "cpu", "tpu", or "sm80", "sm90", ... for NVIDIA GPUs by compute capability (see `backend_name`).
        masked: whether a mask is given.

    Fused kernels pay from about 512 (GPU) or 1024 (TPU) positions; below them (time axis, text tokens) XLA's plain
    products are faster. Scores that outgrow the caches (CPU), or a gigabyte in all heads (elsewhere, where no fused
    kernel accepts them, as for float32 on GPUs), are computed head by head.
    """
    here = {"cudnn": q_len >= 512, "splash": backend == "tpu" and min(q_len, kv_len) >= 1024}
    for kernel, pays in here.items():
        accepted = limits(kernel, backend)
        if pays and accepted is not None and accepted.accepts(head_dim, dtype, masked):
            return kernel
    large = 512 * 512 if backend == "cpu" else 4096 * 4096
    return "xla_chunked" if q_len * kv_len >= large else "xla"


def check_kernel(kernel: str, backend: str, head_dim: int, dtype, masked: bool) -> None:
    """Raises ValueError unless a kernel is known, there on this backend, and accepts these inputs."""
    if kernel not in KERNELS:
        raise ValueError(f'Unknown attention kernel "{kernel}"; known are "auto" and {KERNELS}.')
    accepted = limits(kernel, backend)
    if accepted is None:
        raise ValueError(f'The attention kernel "{kernel}" does not run on {backend}; use "auto".')
    if not accepted.accepts(head_dim, dtype, masked):
        given = f"{jnp.dtype(dtype).name}, heads of {head_dim} features, {'a' if masked else 'no'} mask"
        raise ValueError(f'The attention kernel "{kernel}" on {backend} {accepted.text()}; got {given}. Use "auto".')


def backend_name() -> str:
    """Returns the backend for `select_kernel`: cpu, tpu, "sm90" for an NVIDIA GPU of capability 9.0, or "gpu".

    Where GPUs are only compiled for, and none is here to ask, they count as sm80: what is accepted there is everywhere.
    """
    name = platform()
    if name != "gpu":
        return name
    if jax.default_backend() != "gpu":
        return "sm80"
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(jax.devices()[0], "compute_capability", "")))
    return f"sm{found[1]}{found[2]}" if found else "gpu"


def _capability(backend: str) -> int:
    """Returns 80 for "sm80"; 0 for what is no NVIDIA GPU."""
    found = re.fullmatch(r"sm(\d+)", backend)
    return int(found[1]) if found else 0
