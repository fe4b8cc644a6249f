import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from jaxmotion.training.config import TrainConfig
from jaxmotion.training.optimizer import decay_mask, learning_rate, optimizer
from tests.support.toy import settings


def rates(config, steps):
    return [float(learning_rate(config)(step)) for step in steps]


def test_the_rate_rises_to_its_highest_and_falls_to_zero():
    base = {"steps": 110, "warmup_steps": 10, "learning_rate": 1.0}
    np.testing.assert_allclose(rates(TrainConfig(**base), [0, 4, 9, 10, 109]), [0.1, 0.5, 1, 1, 1], rtol=1e-6)
    linear = rates(TrainConfig(**base, decay="linear"), [9, 10, 60, 110])
    np.testing.assert_allclose(linear, [1, 1, 0.5, 0], atol=1e-6)
    cosine = rates(TrainConfig(**base, decay="cosine"), [10, 35, 60, 110])
    np.testing.assert_allclose(cosine, [1, (1 + np.cos(np.pi / 4)) / 2, 0.5, 0], atol=1e-6)


def test_without_warming_up_the_first_step_has_the_full_rate():
    assert rates(TrainConfig(learning_rate=0.5), [0, 999]) == [0.5, 0.5]


def test_weight_decay_shrinks_matrices_and_leaves_biases_and_gates():
    transform = optimizer(settings(learning_rate=0.1, weight_decay=0.5))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2)), "gate": jnp.ones(())}
    updates, _ = transform.update(
        {name: jnp.zeros_like(x) for name, x in params.items()}, transform.init(params), params
    )
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["kernel"], 0.95)
    np.testing.assert_array_equal(after["bias"], 1.0)
    np.testing.assert_array_equal(after["gate"], 1.0)


@pytest.mark.parametrize(
    ("path", "shape", "decays"),
    [
        ("a/layers/norm/scale", (4, 8), False),
        ("a/layers/attention/query/bias", (4, 8), False),
        ("a/layers/modulate/bias", (4, 6, 8), False),
        ("a/modulate_out/bias", (2, 8), False),
        ("a/layers/scale_mlp", (4, 8), False),
        ("a/layers/gamma", (4, 8), False),
        ("a/layers/query/kernel", (4, 8, 8), True),
        ("lora/a/layers/query/kernel/down", (4, 8, 2), True),
        ("text/tokens", (100, 8), True),
        ("user/w", (8, 8), True),
        ("user/b", (8,), False),
    ],
)
def test_what_a_parameter_is_decides_and_not_its_rank(path, shape, decays):
    """`gamma`, `w` and `b` are names of nobody here: their axes in one layer decide."""
    params = unflatten_dict({path: jnp.zeros(shape)}, sep="/")
    assert jax.tree.leaves(decay_mask(params)) == [decays]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 8, "accumulate": 3}, "batch_size 8 is no multiple of accumulate 3"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"decay": "exponential"}, "constant, cosine, linear"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"trained": ("(",)}, "no regular expression"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        TrainConfig(**changes)
