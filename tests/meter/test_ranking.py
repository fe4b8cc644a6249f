"""How meters are judged, against counts by hand."""

import numpy as np
import pytest

from jaxmotion.meter import ranking

TRUTH = np.array([[1.0, 5.0], [3.0, 5.2], [5.0, 1.0]])


def test_pairs_are_clips_that_differ_enough_and_hard_ones_go_the_other_way() -> None:
    pairs = ranking.pairs_of(TRUTH, 0)
    assert set(zip(pairs.stronger.tolist(), pairs.weaker.tolist(), strict=True)) == {(1, 0), (2, 0), (2, 1)}
    hard = {(a, b) for a, b, h in zip(pairs.stronger, pairs.weaker, pairs.hard, strict=True) if h}
    assert hard == {(2, 0), (2, 1)}


def test_a_point_for_the_right_order_half_for_a_tie() -> None:
    pairs = ranking.pairs_of(TRUTH, 0)
    all_right = {"right": 1.0, "right_hard": 1.0, "right_balanced": 1.0, "pairs": 3, "pairs_hard": 2}
    assert ranking.pairs_right(TRUTH[:, 0], pairs) == all_right
    half = ranking.pairs_right(np.array([1.0, 3.0, 2.0]), pairs)  # wrong on (2, 1), which is hard
    assert (half["right"], half["right_hard"], half["right_balanced"]) == (2 / 3, 0.5, 0.75)
    assert ranking.pairs_right(-TRUTH[:, 0], pairs)["right"] == 0.0
    assert ranking.pairs_right(np.zeros(3), pairs)["right"] == 0.5


def test_one_number_for_both_axes_is_a_coin_on_hard_pairs() -> None:
    rng = np.random.default_rng(0)
    one = rng.uniform(1, 10, 40)
    truth = np.stack([one, 11 - one], -1)
    results = ranking.ranking_metrics(np.stack([one, one], -1), truth)
    assert results["object"]["right"] == 1.0
    assert results["camera"]["right"] == 0.0
    assert results["object"]["rho"] == pytest.approx(1.0)
    assert results["camera"]["rho"] == pytest.approx(-1.0)


def test_judgements_are_pairs_without_ties_and_gaps() -> None:
    judged = [(0, 1, "a", "b"), (0, 2, "tie", "a"), (1, 2, "", "b")]
    objects, cameras = (ranking.judged_pairs(judged, axis) for axis in range(2))
    assert objects.stronger.tolist() == [0]
    assert objects.hard.tolist() == [True]
    assert list(zip(cameras.stronger.tolist(), cameras.weaker.tolist(), strict=True)) == [(1, 0), (0, 2), (2, 1)]
    assert cameras.hard.tolist() == [True, False, False]


def test_cross_talk_is_the_other_axis_change_over_the_own() -> None:
    numbers = np.array([[[2.0, 1.0], [3.0, 5.0]], [[4.0, 2.0], [3.5, 6.0]]])
    talk = ranking.cross_talk(numbers, moved=1)
    assert talk == {"own": 4.0, "other": 0.75, "ratio": 0.75 / 4}
    assert ranking.cross_talk(np.zeros((2, 2, 2)), moved=0)["ratio"] == float("inf")


def test_the_table_has_a_row_for_each_meter(tmp_path) -> None:
    results = {"one": ranking.ranking_metrics(TRUTH, TRUTH)}
    assert ranking.table(results, "title").row_count == 1
    ranking.write(results, tmp_path / "out" / "ranking.json")
    assert "right_hard" in (tmp_path / "out" / "ranking.json").read_text()
