from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxmotion.nn.correlation import backend_name, correlate, select_form

# Sums of other terms round otherwise: some 1e-6 of the largest value; Winograd's sums of four pixels a little more.
TOLERANCE = {"columns": 1e-5, "products": 1e-5, "tiles": 2e-5}

CASES = {
    "columns": [(3, 1, 1, (1, 1)), (3, 2, 1, (1, 1)), (3, 2, 1, (0, 1)), (3, 1, 2, (1, 1)), (5, 1, 1, (2, 2))],
    "products": [(3, 1, 1, (1, 1)), (3, 2, 1, (1, 1)), (3, 2, 1, (0, 1)), (3, 1, 2, (1, 1)), (5, 1, 1, (2, 2))],
    "tiles": [(3, 1, 1, (1, 1)), (3, 1, 2, (1, 1))],
}
FORMS = [(form, *case) for form, cases in CASES.items() for case in cases]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("form", "size", "stride", "repeat", "padding"), FORMS)
def test_all_forms_are_one_function(form, size, stride, repeat, padding):
    """Values, and gradients by image and kernel."""
    x, kernel = draw(2, 8, 12, 5), draw(size, size, 5, 7, seed=1)
    how = {"stride": stride, "repeat": repeat, "padding": padding}

    def both(form):
        y, pull = jax.vjp(lambda x, kernel: correlate(x, kernel, **how, form=form), x, kernel)
        return y, *pull(draw(*y.shape, seed=2))

    ours, plain = jax.jit(both, static_argnums=0)(form), jax.jit(both, static_argnums=0)("plain")
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE[form] * np.abs(other).max())


@pytest.mark.parametrize("form", CASES)
def test_half_precision_comes_back_in_half_precision(form):
    """Images of bfloat16, 8 bits of mantissa; the forms compute in float32 and round once."""
    x, kernel = draw(1, 4, 4, 8).astype(jnp.bfloat16), draw(3, 3, 8, 8, seed=1).astype(jnp.bfloat16)
    y = correlate(x, kernel, form=form)
    exact = correlate(x.astype(jnp.float32), kernel.astype(jnp.float32), form="plain")
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=2**-8 * np.abs(exact).max())


def test_images_larger_than_the_cache_are_done_in_parts(monkeypatch):
    monkeypatch.setattr("jaxmotion.nn.winograd._AT_ONCE", 1)
    x, kernel = draw(3, 8, 4, 2), draw(3, 3, 2, 2, seed=1)

    def loss(form, x, kernel):
        return jnp.sum(jnp.sin(correlate(x, kernel, form=form)))

    ours = jax.grad(loss, argnums=(1, 2))("tiles", x, kernel)
    plain = jax.grad(loss, argnums=(1, 2))("plain", x, kernel)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("backend", "image", "kernel", "options", "form"),
    [
        ("cpu", (4, 32, 32, 320), (3, 3, 320, 320), {}, "tiles"),
        ("cpu", (4, 16, 16, 640), (3, 3, 640, 640), {"repeat": 2}, "tiles"),
        ("cpu", (4, 32, 32, 320), (3, 3, 320, 320), {"stride": 2}, "plain"),
        ("cpu", (4, 33, 32, 320), (3, 3, 320, 320), {}, "plain"),
        ("cpu", (4, 4, 4, 1280), (3, 3, 1280, 1280), {}, "columns"),
        ("cpu", (4, 32, 32, 320), (3, 3, 320, 4), {}, "products"),
        ("cpu", (4, 8, 8, 64), (3, 3, 64, 64), {}, "plain"),
        ("cpu", (4, 32, 32, 320), (1, 1, 320, 320), {}, "plain"),
        ("cpu", (4, 32, 32, 320), (3, 3, 320, 320), {"dtype": jnp.float64}, "plain"),
        ("gpu", (4, 32, 32, 320), (3, 3, 320, 320), {}, "plain"),
        ("tpu", (4, 4, 4, 1280), (3, 3, 1280, 1280), {}, "plain"),
        ("8 devices", (4, 32, 32, 320), (3, 3, 320, 320), {}, "plain"),
    ],
)
def test_the_table_of_forms(backend, image, kernel, options, form):
    assert select_form(backend, image, kernel, **options) == form


def test_programs_for_several_devices_are_left_to_the_compiler():
    assert backend_name() == jax.default_backend()
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh):
        assert backend_name() == "4 devices"


def test_what_a_form_cannot_do_is_said():
    with pytest.raises(ValueError, match='Unknown form of correlation "fft"'):
        correlate(draw(1, 4, 4, 2), draw(3, 3, 2, 2), form="fft")
    for x, how in (((1, 5, 4, 2), {}), ((1, 4, 4, 2), {"stride": 2}), ((1, 4, 4, 2), {"padding": (0, 1)})):
        with pytest.raises(ValueError, match='"tiles" is for 3 x 3 kernels, stride 1'):
            correlate(draw(*x), draw(3, 3, 2, 2), form="tiles", **how)
