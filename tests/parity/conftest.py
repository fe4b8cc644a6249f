"""What the comparisons with PyTorch share: random weights there, the same weights here, and the distance of results."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxmotion.convert.rename import to_jax

torch = pytest.importorskip("torch")
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def randomise() -> Callable:
    """Gives every parameter random values, so that zeros and ones hide nothing, and keeps activations near 1."""

    def fill(module, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.data = noise / parameter[0].numel() ** 0.5
            else:
                parameter.data = parameter.data + 0.2 * noise
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def weights() -> Callable:
    """The weights of a torch module as parameters of ours: weights(rules, module, our module, *inputs)."""

    def convert(rules, module, ours, *inputs, ignored=()):
        like = jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"]
        return to_jax(rules, {k: v.numpy() for k, v in module.state_dict().items()}, like, ignored)

    return convert


@pytest.fixture(scope="session")
def distance() -> Callable:
    """Largest difference over the largest value of the reference."""

    def measure(ours, reference) -> float:
        ours, reference = np.asarray(ours), reference.detach().numpy()
        assert ours.shape == reference.shape
        return float(np.abs(ours - reference).max() / np.abs(reference).max())

    return measure


@pytest.fixture
def draw() -> Callable:
    """Normal numbers, float32, the same in every run."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape).astype(np.float32)
