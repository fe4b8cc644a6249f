"""Accelerators that are not here, to lower and compile for: A100, H100 and TPUs.

They need the compilers of JAX's wheels (`pip install -e '.[test,aot]'`), and no driver.
"""

from __future__ import annotations

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from jaxmotion.parallel.mesh import MeshSizes, make_mesh

GPU = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 device_memory_size: 84929347584 {}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{}" """
CARDS = {
    "A100": GPU.format(
        "shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912 core_count: 108 fpus_per_core: 64 "
        "memory_bandwidth: 2039000000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41 "
        "cuda_compute_capability { major: 8 minor: 0 }",
        "NVIDIA A100-SXM4-80GB",
    ),
    "H100": GPU.format(
        "shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128 "
        "memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 "
        "cuda_compute_capability { major: 9 minor: 0 }",
        "NVIDIA H100 80GB HBM3",
    ),
}
GIBIBYTES = {"A100": 79.1, "H100": 79.1, "TPU v5p": 95.7}
"""Memory of a device."""
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process that compiles stops at the first one's lock
}
"""What the compiler for TPUs reads, which otherwise looks for the machine that it is for."""


def needs(device: str) -> pytest.MarkDecorator:
    """Skips a test where the compiler for a device is not installed."""
    wheels = ("libtpu",) if device.startswith("TPU") else ("jax_cuda12_plugin", "nvidia.cudnn")
    missing = [wheel for wheel in wheels if not _installed(wheel)]
    reason = f"compiling for {device} needs {', '.join(missing)}: pip install -e '.[aot]'"
    return pytest.mark.skipif(bool(missing) or jax.config.jax_platforms != "cpu", reason=reason)


def device_mesh(device: str, count: int = 1, **sizes: int) -> Mesh:
    """Returns a mesh of so many of these devices; all along `data`, unless sizes are given."""
    if device in CARDS:
        shape = {"topology": f"1x1x{count}", "topology_name": "", "target_config": CARDS[device]}
        devices = topologies.get_topology_desc(platform="cuda", **shape).devices
    else:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices[:count]
    return make_mesh(MeshSizes(**sizes), devices)


def described(tree, sharding):
    """Shapes of arrays, laid out."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    """The shape of an array."""
    return jax.ShapeDtypeStruct(sizes, np.dtype(dtype))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
