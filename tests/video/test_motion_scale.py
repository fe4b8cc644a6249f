"""The unit of motion."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.video import motion_scale as unit


def test_a_score_and_its_speed_are_each_others_inverse() -> None:
    scores = np.linspace(1, 10, 91)
    np.testing.assert_allclose(unit.score(unit.speed(scores)), scores, rtol=1e-12)


def test_scores_rise_with_speed_from_1_for_nothing_to_10_for_a_diagonal_a_second() -> None:
    speeds = np.geomspace(1e-3, 1, 200)
    assert (np.diff(unit.score(speeds)) > 0).all()
    assert unit.score(0.0) == 1.0
    assert unit.score(1.0) == pytest.approx(10.0)
    assert unit.score(3.0) == pytest.approx(10.0)


def test_far_above_v0_equal_ratios_of_speed_are_equal_steps() -> None:
    per_doubling = 9 * np.log(2) / np.log1p(unit.FASTEST / unit.V0)
    steps = np.diff(unit.score(np.array([0.25, 0.5, 1.0])))
    np.testing.assert_allclose(steps, per_doubling, rtol=0.06)  # log(1 + v / V0) is log v to V0 / v, here 4 to 8 %


def test_numbers_stay_on_the_side_they_came_from() -> None:
    assert isinstance(unit.score(jnp.asarray(0.1)), jnp.ndarray)
    assert isinstance(unit.speed(np.asarray([3.0])), np.ndarray)
    assert float(unit.score(jnp.asarray(0.1))) == pytest.approx(float(unit.score(0.1)), rel=1e-6)
