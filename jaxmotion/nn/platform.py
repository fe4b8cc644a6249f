"""The platform that a program is traced for."""

from __future__ import annotations

import jax


def platform() -> str:
    """Returns cpu, gpu or tpu: that of the mesh that is set (`jax.set_mesh`), or JAX's default.

    They differ where a program is compiled ahead of time, for devices that are not here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
