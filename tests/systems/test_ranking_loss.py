"""The estimator's losses, against numbers by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmotion.systems.motion_estimator.ranking import Hinge, Logistic, order_of, ranking_loss, regression_loss

HINGE = Hinge()


def loss(first, second, order, pair_loss=HINGE, weight=None, **more):
    arrays = [jnp.asarray(values, jnp.float32) for values in (first, second, order)]
    weights = jnp.ones(len(arrays[0])) if weight is None else jnp.asarray(weight, jnp.float32)
    return float(ranking_loss(*arrays, weights, pair_loss, **more))


def test_the_papers_hinge_costs_only_what_is_in_the_wrong_order() -> None:
    assert loss([3.0], [5.0], [1]) == 2.0
    assert loss([5.0], [3.0], [1]) == 0.0
    assert loss([5.0], [3.0], [-1]) == 2.0
    assert loss([3.0, 5.0], [5.0, 3.0], [1, 1]) == 1.0


def test_a_margin_asks_for_a_lead() -> None:
    assert loss([5.0], [4.5], [1], Hinge(margin=1.0)) == 0.5


def test_the_logistic_form_is_minus_the_log_of_the_judges_share() -> None:
    assert loss([5.0], [4.0], [1], Logistic()) == pytest.approx(-np.log(1 / (1 + np.exp(-1))), rel=1e-6)
    assert loss([4.0], [4.0], [1], Logistic(scale=3.0)) == pytest.approx(np.log(2), rel=1e-6)


def test_a_tie_costs_what_lies_beyond_its_margin() -> None:
    assert loss([5.0], [4.0], [0], tie_margin=0.25) == 0.75
    assert loss([5.0], [4.9], [0], tie_margin=0.25) == 0.0


def test_pairs_nobody_judged_cost_nothing_and_none_at_all_is_no_loss() -> None:
    assert loss([3.0, 9.0], [5.0, 1.0], [1, -1], weight=[1, 0]) == 2.0
    assert loss([3.0], [5.0], [1], weight=[0]) == 0.0


def test_orders_come_from_labels_once_for_every_pair_that_differs_enough() -> None:
    labels, known = jnp.asarray([1.0, 5.0, 5.1, 9.0]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    order, weight = order_of(labels, known, 0.3)
    judged = {(i, j): float(order[i, j]) for i, j in zip(*np.nonzero(np.asarray(weight)), strict=True)}
    assert judged == {(0, 1): -1.0, (0, 2): -1.0}


def test_regression_is_the_mean_square_over_known_labels() -> None:
    scores, labels = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([2.0, 2.0, 99.0])
    assert float(regression_loss(scores, labels, jnp.asarray([1.0, 1.0, 0.0]))) == 0.5
    assert float(regression_loss(scores, labels, jnp.zeros(3))) == 0.0
