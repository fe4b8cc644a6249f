import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.diffusion.guidance import guide
from jaxmotion.foundation.types import Condition

Z = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 1))
T = jnp.asarray([1, 500, 999])


def condition(value, batch=3):
    values = jnp.full((batch, 1), value) + jnp.arange(batch)[:, None]
    return Condition(tokens={"text": values[:, :, None, None]}, vectors=(values,))


def denoise(zt, t, condition):
    vector = condition.vectors[0].reshape(-1, 1, 1, 1, 1)
    return jnp.sin(zt * vector) + t.reshape(-1, 1, 1, 1, 1) * condition.tokens["text"].reshape(-1, 1, 1, 1, 1)


NOTHING, IMAGE, TEXT = condition(0.0), condition(1.0), condition(5.0)


def test_one_term_is_the_conditional_network():
    np.testing.assert_array_equal(guide(denoise, [(TEXT, 1.0)])(Z, T), denoise(Z, T, TEXT))


@pytest.mark.parametrize("middle", [[], [(IMAGE, 1.0)]])
def test_scale_one_is_the_conditional_network(middle):
    guided = guide(denoise, [(NOTHING, 1.0), *middle, (TEXT, 1.0)])
    np.testing.assert_allclose(guided(Z, T), denoise(Z, T, TEXT), rtol=1e-5)


def test_scale_zero_is_the_base():
    np.testing.assert_allclose(guide(denoise, [(IMAGE, 1), (TEXT, 0.0)])(Z, T), denoise(Z, T, IMAGE), rtol=1e-6)


def test_equal_conditions_are_not_moved_by_any_scale():
    np.testing.assert_allclose(guide(denoise, [(TEXT, 1), (TEXT, 9.0)])(Z, T), denoise(Z, T, TEXT), rtol=1e-6)


def test_the_formula_with_three_conditions():
    nothing, image, text = (denoise(Z, T, c) for c in (NOTHING, IMAGE, TEXT))
    expected = nothing + 2.0 * (image - nothing) + 7.5 * (text - image)
    guided = guide(denoise, [(NOTHING, 1), (IMAGE, 2.0), (TEXT, 7.5)])
    np.testing.assert_allclose(guided(Z, T), expected, rtol=1e-5, atol=1e-3)  # values up to 7000


def test_each_sample_may_have_its_own_scale():
    scales = jnp.asarray([0.0, 1.0, 4.0])
    guided = guide(denoise, [(NOTHING, 1), (TEXT, scales)])(Z, T)
    for i, scale in enumerate(scales):
        alone = guide(denoise, [(NOTHING, 1), (TEXT, float(scale))])(Z, T)
        np.testing.assert_allclose(guided[i], alone[i], rtol=1e-6)


def test_conditions_alike_are_evaluated_in_one_call():
    batches = []

    def counting(zt, t, condition):
        batches.append(len(zt))
        return denoise(zt, t, condition)

    together = guide(counting, [(NOTHING, 1), (IMAGE, 2.0), (TEXT, 7.5)])(Z, T)
    assert batches == [9]
    apart = guide(denoise, [(NOTHING, 1), (IMAGE, 2.0), (TEXT, 7.5)])
    np.testing.assert_array_equal(together, apart(Z, T))


def test_conditions_of_different_shape_are_evaluated_one_by_one():
    def counting(zt, t, condition):
        calls.append(len(zt))
        return zt * sum(v.mean() for v in condition.vectors)

    calls = []
    two = Condition(vectors=(jnp.ones((3, 4)), jnp.ones((3, 2))))
    one = Condition(vectors=(jnp.ones((3, 4)),))
    guided = guide(counting, [(one, 1), (two, 3.0)])(Z, T)
    assert calls == [3, 3]
    np.testing.assert_allclose(guided, Z * (1 + 3.0 * (2 - 1)), rtol=1e-6)


@pytest.mark.parametrize(("terms", "message"), [([], "at least one"), ([(NOTHING, 7.5), (TEXT, 1.0)], "is 1, not 7.5")])
def test_wrong_terms_are_named(terms, message):
    with pytest.raises(ValueError, match=message):
        guide(denoise, terms)
