"""What the comparisons with PyTorch share: random weights there, the same weights here, and the distance of results."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxmotion.weights.rules import matches_any, to_jax, to_torch
from jaxmotion.weights.tensor_files import open_tensors

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
def weights(shapes) -> Callable:
    """The weights of a layer of torch as parameters of ours: weights(rules, module, our module, *inputs)."""

    def convert(rules, module, ours, *inputs, ignored=()):
        tensors = {name: value.numpy() for name, value in module.state_dict().items()}
        return to_jax(rules, tensors, shapes(ours, *inputs), ignored)

    return convert


@pytest.fixture
def through_files(tmp_path) -> Callable:
    """The weights of a network as parameters of ours, from the files that its own `save_pretrained` writes.

    through_files(rules, module, like), with the parameters that are wanted as a nested dict of shapes. Written again,
    they are what the files hold, name by name and bit by bit.
    """

    def convert(rules, module, like, ignored=()):
        module.save_pretrained(tmp_path)
        tensors = open_tensors(tmp_path)
        params = to_jax(rules, tensors, like, ignored)
        back = to_torch(rules, params)
        assert back.keys() == {name for name in tensors if not matches_any(ignored, name)}
        assert all(np.array_equal(array, np.asarray(tensors[name])) for name, array in back.items())
        return params

    return convert


@pytest.fixture(scope="session")
def shapes() -> Callable:
    """The parameters of a module of ours on these inputs, as shapes."""
    return lambda ours, *inputs: jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"]


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
